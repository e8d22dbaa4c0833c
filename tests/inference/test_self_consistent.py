"""Rounds end where EM for the prior ends, in a point where codes are points, and nowhere where the family is wrong."""

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import Amortized, Encoder, Exact
from pyrarchy.inference import refit_prior, self_consistent
from pyrarchy.zoo import PPCA, VAE, FlowPrior, GaussianPrior, MixturePrior

N, NOISE = 300, 0.7


class Line(PyroModule):
    """x = z1 + noise, z1 from ``top``."""

    def __init__(self, top):
        super().__init__("model")
        self.top, self.z_dims = top, (1,)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", self.top(x))
            pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)

    def moments(self, x):
        m, v = self.top.loc, self.top.scale_tril**2
        gain = v / (v + NOISE**2)
        return m + gain * (x - m), (gain * NOISE**2).sqrt()

    def posterior(self, x):
        return dist.Normal(*self.moments(x)).to_event(1)


def points(model, width=1e-3):
    """A guide whose codes are (nearly) the posterior's means."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(model.moments(x)[0], width).to_event(1))

    return guide


def gaussian_data(scale):
    """Rows whose mean is 1 and whose standard deviation is ``scale``, as exactly as quantiles give it."""
    u = dist.Normal(0.0, 1.0).icdf((torch.arange(N).double() + 0.5) / N)
    return (1 + scale * u / u.std(correction=0)).unsqueeze(1)


def test_the_exact_posterior_leads_to_the_prior_of_maximum_likelihood():
    """N(mean, data's variance less the noise's), and there prior and average posterior agree."""
    x, model = gaussian_data(2.0), Line(GaussianPrior(1)).double()
    found = self_consistent(model, Exact(model), x, rounds=25, tolerance=-1)
    assert found.cuts[0].marginal_kl > 0.1 and abs(found.cuts[-1].marginal_kl) < 0.02
    assert self_consistent(model, Exact(model), x, rounds=2, tolerance=0.05).table().endswith("the two agree")
    assert model.top.loc.item() == pytest.approx(1.0, abs=0.12)  # 10,000 draws a refit
    assert model.top.scale_tril.item() ** 2 == pytest.approx(4 - NOISE**2, rel=0.1)


@pytest.mark.parametrize(("scale", "collapses"), [(1.2, True), (2.5, False)])
def test_codes_that_are_points_end_in_a_point_unless_the_data_are_wide(scale, collapses):
    """v <- (v / (v + s^2))^2 V has a fixed point but zero only where V >= 4 s^2; a floor holds the prior there."""
    x, model = gaussian_data(scale), Line(GaussianPrior(1, floor=1e-2)).double()
    self_consistent(model, points(model), x, rounds=15, tolerance=-1)
    v, noise, total = model.top.scale_tril.item() ** 2, NOISE**2, scale**2
    if collapses:
        assert total < 4 * noise and v == pytest.approx(1e-4, rel=0.05)  # the floor
    else:
        half = (total - 2 * noise) / 2
        assert v == pytest.approx(half + math.sqrt(half**2 - noise**2), rel=0.1)


def test_the_wrong_family_never_agrees_and_a_mixture_does():
    """Codes in two heaps: a Gaussian prior misses them whatever the rounds; two components and a flow's 2-D twin do not."""
    x = torch.cat([torch.full((N // 2, 1), v) for v in (-3.0, 3.0)]).double() + 0.1 * torch.randn(N, 1).double()
    left = {}
    for name, top in (("Gaussian", GaussianPrior(1)), ("mixture", MixturePrior(1, 2))):
        model = Line(top).double()

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z1", dist.Normal(x, 0.5).to_event(1))

        found = self_consistent(model, guide, x, rounds=3)
        left[name] = found.cuts[-1]
        assert found.agreed == (name == "mixture")
    assert left["Gaussian"].marginal_kl > 0.5 > 20 * left["Gaussian"].errors[2]
    assert left["mixture"].information == pytest.approx(left["Gaussian"].information, abs=0.02)


def test_a_collapsed_layer_agrees_at_once():
    model = Line(GaussianPrior(1)).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))

    found = self_consistent(model, guide, gaussian_data(1.0))
    assert found.agreed and len(found.cuts) == 1 and found.cuts[0].average_kl == pytest.approx(0, abs=1e-6)


def test_refits_reach_the_maximum_likelihood():
    """A Gaussian's is in closed form; a flow by gradients comes near the entropy of correlated draws."""
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    draws = torch.randn(4000, 2) @ factor.T + 2
    best = -dist.MultivariateNormal(torch.zeros(2), scale_tril=factor).entropy().item()
    gaussian = GaussianPrior(2)
    reached = refit_prior(gaussian, draws)
    assert reached == pytest.approx(best, abs=4.5 / 4000**0.5)
    torch.testing.assert_close(
        gaussian(draws).covariance_matrix, torch.cov(draws.T, correction=0), rtol=1e-4, atol=1e-5
    )
    flow = FlowPrior(2, 2, (8,))
    before = flow(draws).log_prob(draws).mean().item()
    assert before < best - 1 and refit_prior(flow, draws, steps=250, lr=2e-2) > reached - 0.1


def test_em_never_falls():
    draws = torch.randn(300, 2).abs()
    values = []
    for iterations in (1, 3, 10, 30):
        torch.manual_seed(0)
        values.append(refit_prior(MixturePrior(2, 5, iterations=iterations), draws))
    assert all(b > a - 1e-5 for a, b in pairwise(values)) and values[-1] > values[0] + 0.05


def test_only_refit_moves_it_and_only_top_is_moved():
    x = torch.bernoulli(torch.full((30, 6), 0.5))
    model = VAE(6, 2, (5,), top=GaussianPrior(2))
    guide = Amortized(model, Encoder(6, (2,), ((7,),)))
    assert not list(model.top.parameters())
    weights = [p.clone() for p in model.parameters()]
    calls = []
    self_consistent(model, guide, x, rounds=2, tolerance=-1, retrain=lambda *pair: calls.append(pair))
    assert calls == [(model, guide)] * 2 and all(map(torch.equal, weights, model.parameters()))
    assert not torch.equal(model.top.scale_tril, torch.eye(2))


def test_what_it_refuses():
    model = PPCA(5, 2)
    with pytest.raises(ValueError, match="PPCA has no prior module 'top'"):
        self_consistent(model, Exact(model), torch.zeros(7, 5))
    with pytest.raises(ValueError, match="neither refit"):
        refit_prior(lambda like: dist.Normal(0.0, 1.0), torch.zeros(7, 5))
    with pytest.raises(ValueError, match="more draws"):
        MixturePrior(2, 9).refit(torch.zeros(5, 2))
