"""Every guide family works with the models for which it is defined and refuses the others, by name of site or model."""

import re

import pytest
from pyro.nn import PyroModule

import pyrarchy
from pyrarchy import guides
from pyrarchy.matrix import builders_of_families, example, latents, matrix, table

ROWS = {pair.model: pair for pair in reversed(pyrarchy.list_pairs().values())}
QUICK = (
    "GaussianTree",
    "MarkovHVAE",
    "SigmoidBelief",
    "EightSchoolsNonCentred",
    "BayesianPPCA",
    "LinearStateSpace",
    "Ising",
)
WORKS = {  # what must not get lost; the rest is in the table
    "Ladder": {"GaussianTree", "MarkovHVAE"},
    "MeanField": {"GaussianTree", "MarkovHVAE", "EightSchoolsNonCentred", "BayesianPPCA", "LinearStateSpace"},
    "FullRank": {"GaussianTree", "MarkovHVAE", "EightSchoolsNonCentred", "BayesianPPCA", "LinearStateSpace"},
    "Exact": {"GaussianTree", "LinearStateSpace"},
    "Conjugate": {"BayesianPPCA"},
    "StructuredChain": {"LinearStateSpace"},
    "BottomUpBits": {"SigmoidBelief"},
    "Structured": {"EightSchoolsNonCentred", "BayesianPPCA"},
}


def check_reasons(cells):
    """A refusal names a latent site of the model, or the model's class where a closed form or a part is missing."""
    names = {}
    for (model, family), reason in cells.items():
        if reason is None:
            continue
        if model not in names:
            one, _, args = example(ROWS[model])
            names[model] = [*latents(one, args), model]
        assert any(re.search(rf"\b{re.escape(n)}\b", reason) for n in names[model]), f"{family} x {model}: {reason}"


@pytest.mark.parametrize("model", QUICK)
def test_families_on_one_model_of_each_kind(model):
    cells = matrix([model])
    check_reasons(cells)
    found = {family for (_, family), reason in cells.items() if reason is None}
    for family, models in WORKS.items():
        assert (family in found) == (model in models), cells[model, family]


@pytest.mark.slow
def test_all_families_on_all_models():
    cells = matrix()
    check_reasons(cells)
    fitting = {family for (_, family), reason in cells.items() if reason is None}
    assert fitting == set(builders_of_families()), "a family that fits no model"
    assert {model for (model, _), reason in cells.items() if reason is None} == set(ROWS), "a model without a guide"


def test_every_guide_is_a_family():
    """A guide class that is exported has a column."""
    parts = {"Guide", "BidirectionalGuide", "Encoder", "Features", "LaplaceEncoder"}
    classes = {n for n in guides.__all__ if isinstance(v := getattr(guides, n), type) and issubclass(v, PyroModule)}
    assert set(builders_of_families()) == classes - parts


def test_table_marks_what_fits():
    text = table(
        {
            ("Short", "First"): None,
            ("Short", "Second"): "no",
            ("LongerName", "First"): "no",
            ("LongerName", "Second"): None,
        }
    )
    assert text.splitlines()[-2:] == ["Short       + .", "LongerName  . +"]
