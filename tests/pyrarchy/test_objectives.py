"""Objectives by name: each text gives its bound, and a wrong text is one line that lists what can be written."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO

from pyrarchy import inference
from pyrarchy.objectives import OBJECTIVES, OF_PYRO, OVER_WEIGHTS, describe_objectives, make_objective, parse_objective


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("elbo", ("ELBO", [1])),
        ("elbo:7", ("ELBO", [7])),
        ("analytic:2", ("AnalyticELBO", [2])),
        ("iwae:50", ("ImportanceWeighted", [50])),
        ("renyi:0.5", ("Renyi", [0.5, 1])),
        ("renyi:-2:10", ("Renyi", [-2.0, 10])),
        ("vrmax:5", ("VRMax", [5])),
        ("freebits:0.25:3", ("FreeBits", [0.25, 3])),
        ("trace_elbo:3", ("Trace_ELBO", [3])),
    ],
)
def test_text_gives_class_and_arguments(text, expected):
    assert parse_objective(text) == expected
    assert type(make_objective(text)).__name__ == expected[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iwea:5", "iwae:K, renyi"),
        ("", "elbo"),
        ("iwae", "lacks K: write iwae:K"),
        ("iwae:", "K must be a whole number, not ''"),
        ("iwae:5.5", "K must be a whole number, not '5.5'"),
        ("iwae:0", "K must be at least 1"),
        ("iwae:5:6", "too many parts: write iwae:K"),
        ("renyi:x:3", "alpha must be a number, not 'x'"),
        ("renyi", r"lacks alpha: write renyi:alpha\[:K\]"),
        ("freebits:1:-2", "particles must be at least 1"),
    ],
)
def test_wrong_text_says_what_to_write(text, words):
    with pytest.raises(ValueError, match=words) as error:
        parse_objective(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["freebits:-1", "renyi:nan:3", "renyi:inf:3"])
def test_values_that_are_no_objective_are_refused(text):
    with pytest.raises(ValueError):
        make_objective(text)


def test_every_objective_is_described_and_exists():
    lines = describe_objectives().splitlines()
    assert len(lines) == len(OBJECTIVES)
    for line, (name, (class_name, _, what)) in zip(lines, OBJECTIVES.items(), strict=True):
        assert line.startswith(name) and line.endswith(what)
        assert issubclass(
            *((Trace_ELBO, ELBO) if name in OF_PYRO else (getattr(inference, class_name), inference.Bound))
        )


def test_pyros_objective_is_made_with_particles_and_without_an_estimator():
    made = make_objective("trace_elbo:3", "plain")
    assert (made.num_particles, made.vectorize_particles, made.max_plate_nesting) == (
        3,
        True,
        2,
    )  # one is the particles'
    with pytest.raises(ValueError, match=r"'trace_elbo' is Pyro's own.*leave the estimator 'dreg' away"):
        make_objective("trace_elbo", "dreg")


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in OF_PYRO])
def test_over_weights_names_exactly_those_that_refuse_a_temperature(name):
    """Run each bound on a one-site table under a temperature: those listed refuse, the others give a number."""
    from pyrarchy import get_pair, load_data

    row, data = ("linear_vae", "digits") if name == "marginal" else ("gaussian_tree", "gaussian_tree")  # one latent
    data = load_data(data)
    model, guide = get_pair(row)(data)
    arguments = {"renyi": ":.5:3", "freebits": ":.1", "miwae": ":2:3", "piwae": ":2:3", "ciwae": ":.5:3", "tvo": ":2:3"}
    plain = name in ("elbo", "analytic")
    bound = make_objective(name + arguments.get(name, "" if plain else ":3"))
    rows = torch.from_numpy(data.train[:4])
    with inference.isolated(model, guide, seed=0), inference.Temper(stop=0.5):
        if name in OVER_WEIGHTS:
            with pytest.raises(ValueError, match="under a temperature"):
                bound.reduce(bound.terms(model, guide, rows))
        else:
            assert torch.isfinite(bound.reduce(bound.terms(model, guide, rows))).all()
