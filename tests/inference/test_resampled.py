"""Resampled: its log-weight is the log mean of K weights, its draws approach the posterior, its density is right."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy import get_pair, load_data
from pyrarchy.guides import BottomUp, Exact
from pyrarchy.inference import ELBO, ImportanceWeighted, evaluate, to_inference_data
from pyrarchy.inference.resampled import Resampled
from pyrarchy.zoo import MarkovHVAE

B = 6


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def prior(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def data():
    return torch.randn(B, 2, generator=torch.Generator().manual_seed(1))


def log_p(x):
    return dist.Normal(0.0, 1.25**0.5).log_prob(x).sum(-1)


@pytest.mark.stochastic
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("k", [1, 4])
def test_its_log_weight_is_the_log_mean_of_its_proposals(k, copies):
    """The ELBO of Resampled(K) is L_K: the same mean over many draws, within their standard errors."""
    x, draws = data(), 3000
    again = x.repeat(draws, 1)  # every row draws for itself
    found = ELBO(copies).value(model, Resampled(model, prior, k), again[: draws // copies * B]).reshape(-1, B).sum(1)
    expected = ImportanceWeighted(k).value(model, prior, again).reshape(-1, B).sum(1)
    error = (found.var() / len(found) + expected.var() / draws).sqrt()
    assert (found.mean() - expected.mean()).abs() < 4.5 * error


def test_with_many_proposals_the_prior_alone_gives_the_posterior():
    """K = 2,000 from the prior: mean and scale of the draws are the exact posterior's."""
    x, draws = data(), 400
    guide = Resampled(model, prior, 2000)
    z = torch.stack([pyro.poutine.trace(guide).get_trace(x).nodes["z1"]["value"] for _ in range(draws)])
    mean, scale = x / 1.25, 0.2**0.5
    assert ((z.mean(0) - mean).abs() < 5 * scale / math.sqrt(draws)).all()
    assert (z.var(0).sqrt() / scale - 1).abs().max() < 5 / math.sqrt(2 * draws)


def test_density_of_one_proposal_is_the_guide_s_and_integrates_to_one():
    x = data()[:1]
    z = {"z1": torch.tensor([[0.3, -0.2]])}
    assert torch.allclose(Resampled(model, prior, 1).log_prob(z, x), dist.Normal(0.0, 1.0).log_prob(z["z1"]).sum(-1))
    grid = torch.linspace(-4, 4, 33)
    cell = (grid[1] - grid[0]) ** 2
    points = torch.cartesian_prod(grid, grid)
    guide = Resampled(model, prior, 5)
    log_q = guide.log_prob({"z1": points}, x.expand(len(points), 2), num_estimates=300)
    assert (log_q.exp().sum() * cell).item() == pytest.approx(1.0, abs=0.02)


def test_two_layers_and_arviz():
    """A hierarchy is resampled as a whole, and evaluate and ArviZ take the result as any guide."""
    pyro.set_rng_seed(0)
    hvae, x = MarkovHVAE(7, (3, 2), (6, 5)), torch.bernoulli(torch.full((4, 7), 0.5))
    guide = Resampled(hvae, BottomUp(7, (3, 2), (6, 5)), 8)
    assert evaluate(hvae, guide, x, num_samples=50).log_p.shape == (4,)
    draws = to_inference_data(hvae, guide, (x,), num_samples=11).posterior
    assert draws["z2"].shape == (1, 11, 4, 2) and draws["z1"].shape == (1, 11, 4, 3)


def test_global_latents():
    """Eight schools: the resampled mean-field guide has a higher ELBO than the guide it resamples."""
    schools, guide = get_pair("eight_schools_mean_field")(load_data("eight_schools"))
    args = tuple(torch.from_numpy(part) for part in load_data("eight_schools").train)
    better = Resampled(schools, guide, 50)
    plain = torch.stack([ELBO(20).value(schools, guide, *args) for _ in range(20)])
    tight = torch.stack([ELBO(20).value(schools, better, *args) for _ in range(20)])
    assert tight.mean() > plain.mean() + 4 * (plain.var() / 20).sqrt()


def test_an_exact_proposal_stays_exact():
    ppca, _ = get_pair("ppca")(load_data("digits"))
    x = torch.from_numpy(load_data("digits").train[:5])
    value = ELBO().value(ppca, Resampled(ppca, Exact(ppca), 3), x)
    assert torch.allclose(value, ppca.log_marginal(x), atol=1e-3)


def test_refusals():
    with pytest.raises(ValueError, match="positive integer"):
        Resampled(model, prior, 0)
