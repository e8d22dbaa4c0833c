"""Samples from codes: the chain is a Gibbs sampler where the guide is exact; distances have honest errors."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import Encoder, Exact, Ladder
from pyrarchy.inference import alternating_chain, energy_distance, sample, sample_from_average, side_by_side
from pyrarchy.zoo import PPCA, GaussianTree, MarkovHVAE

X, Z, N = 5, 2, 3000


def ppca():
    model = PPCA(X, Z).double()
    with (
        torch.random.fork_rng()
    ):  # one problem, whatever the draws: with large loadings its chain would need more steps
        torch.manual_seed(0)
        loadings = 0.7 * torch.randn(X, Z, dtype=torch.float64)
    model.set_parameters(np.arange(X) / X, loadings.numpy(), 1.0)
    return model, np.arange(X) / X, (loadings @ loadings.T + torch.eye(X)).numpy()


@pytest.mark.stochastic
def test_the_chain_ends_in_the_model_s_own_marginal():
    """From a start far off, with the exact guide: mean and covariance of p(x). A guide deaf to x gets there in a step."""
    model, mean, covariance = ppca()
    chain = alternating_chain(model, Exact(model), torch.full((N, X), 6.0, dtype=torch.float64), 40)
    assert chain.shape == (41, N, X) and (chain[0] == 6).all()
    error = np.sqrt(covariance.diagonal() / N)
    assert (np.abs(chain[-1].mean(0) - mean) < 4.5 * error).all() and (chain[1].mean(0) > mean + 20 * error).any()
    np.testing.assert_allclose(np.cov(chain[-1].T), covariance, atol=6 * covariance.max() * (2 / N) ** 0.5)

    def deaf(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(Z).double(), 1.0).to_event(1))

    after = alternating_chain(model, deaf, torch.full((N, X), 6.0, dtype=torch.float64), 1)[1]
    assert (np.abs(after.mean(0) - mean) < 4.5 * error).all()


def test_a_narrow_guide_s_chain_ends_elsewhere():
    model, _, covariance = ppca()

    def narrow(x):
        q = model.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.MultivariateNormal(q.mean, scale_tril=0.3 * q.scale_tril, validate_args=False))

    chain = alternating_chain(model, narrow, torch.zeros(N, X).double(), 40)
    assert np.trace(np.cov(chain[-1].T)) < 0.9 * np.trace(covariance)


@pytest.mark.stochastic
def test_samples_from_the_average_have_the_codes_mean():
    """The prior's samples lie about the model's mean; those from codes of data at 4 about the data's reconstructions."""
    model, mean, _ = ppca()
    x = 4 + torch.randn(50, X, dtype=torch.float64)
    found = sample_from_average(model, Exact(model), x, N)
    assert found["x"].shape == (N, X) and found["z1"].shape == (N, Z)
    with torch.no_grad():
        q = model.posterior(x)
        expected = (model.mean + q.mean.mean(0) @ model.loadings.mT).numpy()
    error = found["x"].std(0) / math.sqrt(N)
    assert (np.abs(found["x"].mean(0) - expected) < 4.5 * error).all() and (np.abs(expected - mean) > 9 * error).any()
    means = sample_from_average(model, Exact(model), x, N, mean=True)["x"]
    assert np.cov(means.T).trace() < np.cov(found["x"].T).trace() - 0.9 * X  # noise of variance one left out
    tree = GaussianTree(2)
    with pytest.raises(ValueError, match="give site="):
        sample_from_average(tree, Exact(tree), torch.zeros(7, 2), 3)


def test_a_hierarchy_is_sampled_below_its_top_code():
    model = MarkovHVAE(6, (4, 2), (7, 5))
    x = torch.bernoulli(torch.full((23, 6), 0.5))
    found = sample_from_average(model, Ladder(model, Encoder(6, (4, 2), (7, 5))), x, 31, "z2")
    assert found["x"].shape == (31, 6) and set(np.unique(found["x"])) <= {0.0, 1.0}


def test_energy_distance_of_points_by_hand():
    """E|X - Y| over all pairs, twice, less the means over different pairs of each."""
    x, y = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [2.0], [2.0], [5.0]])
    cross = np.abs(x - y.T).mean()
    own = [np.abs(v - v.T).sum() / (len(v) * (len(v) - 1)) for v in (x, y)]
    assert energy_distance(x, y)[0] == pytest.approx(2 * cross - sum(own))
    with pytest.raises(ValueError, match="three rows"):
        energy_distance(x[:2], y)


@pytest.mark.stochastic
@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_its_error_is_its_spread(shift):
    """Also where the two distributions are one and the linear part of the error is nil; and unbiased there."""
    rng = np.random.default_rng(1)
    runs = np.array([energy_distance(rng.normal(size=(60, 3)), shift + rng.normal(size=(90, 3))) for _ in range(300)])
    spread = runs[:, 0].std(ddof=1)
    assert 0.8 * spread < runs[:, 1].mean() < (1.5 if shift == 0 else 1.25) * spread
    assert (abs(runs[:, 0].mean()) < 4.5 * spread / 300**0.5) == (shift == 0)


def test_side_by_side_tells_a_bad_prior_from_a_bad_decoder():
    """PPCA whose codes lie off the prior: reconstructions and samples from q(z) are near the data, the prior's are not."""
    model, _, _ = ppca()
    with torch.no_grad():
        model.loadings.mul_(3.0)
        z = 0.3 * torch.randn(600, Z, dtype=torch.float64) + 2
        x = model.mean + z @ model.loadings.mT + torch.randn(600, X, dtype=torch.float64)
    found = side_by_side(model, Exact(model), x)
    value, error = found.rows["samples from the prior"]
    assert value > 10 * error
    for name in ("data", "reconstructions", "samples from q(z)"):
        assert found.rows[name][0] < 0.3 * value, name
    exact = -0.5 * X * (math.log(2 * math.pi) + 1)  # about: the residual's variance is the noise's
    assert found.log_lik[0] == pytest.approx(exact, abs=0.5) and found.samples["data"].shape == (300, X)
    assert "reconstructions" in found.table()


def test_nothing_outside_is_moved():
    model, _, _ = ppca()
    x = torch.randn(20, X, dtype=torch.float64)
    before = torch.get_rng_state()
    alternating_chain(model, Exact(model), x, 2)
    side_by_side(model, Exact(model), x)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(sample(model, (x,), 4)["x"], sample(model, (x,), 4)["x"])
