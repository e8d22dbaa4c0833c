"""Expected coverage: uniform for exact posteriors, off for each bug that it can see, and blind where it must be."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import Exact, Guide
from pyrarchy.inference import bayes_loop, nearest_truth, tarp
from pyrarchy.inference.tarp import Coverage, previous_truth
from pyrarchy.zoo import PPCA, GaussianTree

REFERENCES = [previous_truth, nearest_truth]


def model():
    torch.manual_seed(2)
    found = PPCA(4, 2)
    with torch.no_grad():
        found.loadings.copy_(torch.tensor([[1.0, 0.9], [1.0, 1.0], [0.5, 0.7], [0.3, -0.1]]))
    return found


class Wrong(Guide):
    """The exact posterior with its mean moved, its covariance widened, or its correlations left out."""

    def __init__(self, model, shift=0.0, width=1.0, diagonal=False):
        super().__init__(model)
        self.shift, self.width, self.diagonal = shift, width, diagonal

    def encode(self, x):
        return self.model.posterior(x)

    def posterior(self, name, prior):
        q = self.evidence
        if self.diagonal:
            return dist.Normal(q.mean, q.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()).to_event(1)
        return dist.MultivariateNormal(q.mean + self.shift, scale_tril=self.width * q.scale_tril)


class Prior(Guide):
    def posterior(self, name, prior):
        return prior


def loop_of(guide, num=1000):
    return bayes_loop(guide.model, guide, torch.zeros(7, 4), num=num)


@pytest.mark.parametrize("references", REFERENCES)
def test_exact_posteriors_pass_and_cover(references):
    for exact in (model(), GaussianTree(4)):
        found = tarp(loop_of(Exact(exact)), references=references)
        assert found.flagged == [] and len(found.ranks) == 999
        levels = np.array([0.1, 0.5, 0.9])
        assert (np.abs(found.coverage(levels) - levels) < 4 * (levels * (1 - levels) / 999) ** 0.5).all()


@pytest.mark.stochastic
@pytest.mark.parametrize("references", REFERENCES)
def test_no_reference_makes_alarms_beyond_their_rate(references):
    """60 reseeds of 200 data sets at 5 %: no more alarms than 3 expected, with 4 standard errors."""
    right = model()
    alarms = 0
    for seed in range(60):
        loop = bayes_loop(right, Exact(right), torch.zeros(7, 4), num=200, draws=19, seed=seed)
        alarms += bool(tarp(loop, references=references, false_alarms=0.05).flagged)
    assert alarms <= 3 + 4 * 3**0.5


@pytest.mark.parametrize("references", REFERENCES)
@pytest.mark.parametrize("change", [{"width": 0.7}, {"width": 1.5}, {"shift": 0.7}])
def test_wrong_widths_and_biases_are_flagged(references, change):
    found = tarp(loop_of(Wrong(model(), **change)), references=references)
    assert found.flagged
    if "width" in change:
        assert np.sign(found.tests["rank scale"][0]) == np.sign(1 - change["width"])


def test_missing_correlations_are_flagged_where_single_units_pass():
    """Marginals are exact, so the rank of each unit is uniform; the joint is not."""
    loop = loop_of(Wrong(model(), diagonal=True), num=2000)
    assert not {"z1[0]", "z1[1]"} & set(loop.flagged_by())
    assert tarp(loop).flagged


def test_the_prior_passes_unless_the_reference_saw_the_data():
    loop = loop_of(Prior(model()))
    assert tarp(loop).flagged == []
    assert {flag.statistic for flag in tarp(loop, references=nearest_truth).flagged} >= {"rank mean", "KS"}


def test_coverage_is_the_share_of_middles_of_ranks_below():
    """Ranks 0, 4 and 9 of nine draws stand at .05, .45 and .95."""
    found = Coverage(np.array([0, 4, 9]), 9, {}, 1e-3).coverage([0.04, 0.06, 0.44, 0.46, 0.94, 0.96])
    np.testing.assert_allclose(3 * found, [0, 1, 1, 2, 2, 3])


def test_ranks_are_distances_counted():
    loop = loop_of(Exact(model()), num=50)
    scale = (np.quantile(loop.truth[:, :2], 0.841345, 0) - np.quantile(loop.truth[:, :2], 0.158655, 0)) / 2
    z, draws = loop.truth[:, :2] / scale, loop.draws[..., :2] / scale
    expected = [sum(np.hypot(*(d - z[s - 1])) < np.hypot(*(z[s] - z[s - 1])) for d in draws[s]) for s in range(1, 50)]
    np.testing.assert_array_equal(tarp(loop).ranks, expected)
    assert "0.50" in tarp(loop).table() and "flagged: nothing" in tarp(loop).table()


def test_nearest_is_the_nearest_of_the_earlier():
    data = np.array([[0.0], [10.0], [1.0], [9.0], [0.4]])
    np.testing.assert_array_equal(nearest_truth(np.arange(5.0)[:, None], data), [[0], [0], [1], [0]])
    beside = np.column_stack([data, 0.001 * np.array([0.0, 1.0, 9.0, 8.0, 10.0])])  # a column counts whatever its unit
    np.testing.assert_array_equal(nearest_truth(np.arange(5.0)[:, None], beside), [[0], [0], [1], [2]])


def test_references_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="every data set but the first"):
        tarp(loop_of(Exact(model()), num=20), references=lambda truth, data: truth)
