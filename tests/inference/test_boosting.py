"""Boosting finds the second hill that one Gaussian misses, never lowers the bound, and stops when nothing is gained."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import FullRank, Mixture
from pyrarchy.inference import ELBO, boost, evaluate, isolated
from pyrarchy.inference.boosting import _bound, _reweigh

LOG_Z = math.log(3.0)


class Hills(PyroModule):
    """A posterior of Gaussian hills in R^2 whose normaliser is 3; ``nuisance`` is a parameter that must stay."""

    def __init__(self, weights, loc):
        super().__init__("model")
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.loc = torch.tensor(loc, dtype=torch.float64)
        self.nuisance = torch.nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self):
        base = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)
        u = pyro.sample("u", base)
        hills = dist.MultivariateNormal(self.loc, torch.tensor([[0.8, 0.3], [0.3, 0.5]], dtype=torch.float64))
        target = dist.MixtureSameFamily(dist.Categorical(self.weights), hills)
        pyro.factor("tilt", target.log_prob(u) - base.log_prob(u) + self.nuisance.log())


def test_two_components_close_the_gap_of_two_hills():
    model = Hills([0.35, 0.65], [[-2.5, 1.0], [2.5, -1.0]])
    guide = Mixture(model, components=1)
    before = torch.get_rng_state()
    found = boost(model, guide, components=2, steps=150, optimizer=0.1, num_particles=16, num_draws=2000)
    assert torch.equal(before, torch.get_rng_state()) and model.nuisance.item() == 3.0
    assert all(p.requires_grad for p in (*guide.parameters(), *model.parameters()))
    gaps = [LOG_Z - bound for bound in found.bounds]
    # One Gaussian on one of two hills that do not touch: KL = -log of the hill's weight.
    assert min(abs(gaps[0] + math.log(w)) for w in (0.35, 0.65)) < 0.05
    assert gaps[1] < 0.03 and gaps[1] > -4.5 * found.errors[1]
    assert sorted(found.weights) == pytest.approx([0.35, 0.65], abs=0.03)
    graded = evaluate(model, guide, None, num_samples=2000)
    assert graded.mean_elbo == pytest.approx(found.bounds[-1], abs=0.05)
    assert graded.mean_log_p == pytest.approx(LOG_Z, abs=0.03)


def test_what_gains_nothing_is_taken_away():
    model = Hills([1.0], [[0.5, -0.3]])
    guide = Mixture(model, components=1)
    found = boost(model, guide, components=4, steps=150, optimizer=0.1, num_particles=16, num_draws=500)
    assert found.bounds == sorted(found.bounds) and LOG_Z - found.bounds[-1] < 0.02
    assert guide.components == len(found.bounds) == len(found.weights) <= 4
    assert sum(found.weights) == pytest.approx(1.0)
    if found.refused is not None:
        assert found.refused <= found.bounds[-1]


def exactly_placed(logit):
    model = Hills([0.35, 0.65], [[-2.5, 1.0], [2.5, -1.0]])
    guide = Mixture(model, components=2)
    tril = torch.linalg.cholesky(torch.tensor([[0.8, 0.3], [0.3, 0.5]], dtype=torch.float64))
    with torch.no_grad():
        guide.logits[0].fill_(logit)
        for c in range(2):
            guide.locs[c].copy_(model.loc[c])
            guide.raw_scales[c].copy_((tril.diagonal() - 1e-6).expm1().log())
            guide.couplings[c].copy_(tril[1, :1] / tril[1, 1])
    return model, guide


def test_weights_are_set_where_no_draw_could_show_the_way():
    """Hills far apart: the path of the weights never sees the gap between them, the stratified bound does."""
    model, guide = exactly_placed(logit=-2.0)
    with isolated(model, guide, seed=1), torch.no_grad():
        before, error = _bound(model, guide, (), 3000)
        weights = torch.tensor([1, math.exp(-2.0)]) / (1 + math.exp(-2.0))
        kl = (weights * (weights / torch.tensor([0.35, 0.65])).log()).sum().item()
        assert before == pytest.approx(LOG_Z - kl, abs=4.5 * error + 1e-3)
        _reweigh(model, guide, (), 3000)
        assert guide.distribution().log_weights.exp().tolist() == pytest.approx([0.35, 0.65], abs=1e-3)
        after, _ = _bound(model, guide, (), 3000)
    assert after == pytest.approx(LOG_Z, abs=1e-4)


@pytest.mark.stochastic
def test_the_stratified_bound_is_the_elbo():
    model, guide = exactly_placed(logit=0.4)
    with torch.no_grad():
        guide.locs[0].add_(0.7)
        guide.couplings[1].add_(0.5)
    with isolated(model, guide, seed=1), torch.no_grad():
        bound, error = _bound(model, guide, (), 5000)
        log_w = ELBO(20_000).terms(model, guide).log_w
    spread = log_w.std().item() / 20_000**0.5
    assert abs(bound - log_w.mean().item()) < 4.5 * math.hypot(error, spread) < 0.1
    assert error < spread * 2.1  # the draws are 10,000 in all, and stratified


def test_refusals():
    model = Hills([1.0], [[0.5, -0.3]])
    with pytest.raises(TypeError, match="FullRank has no grow"):
        boost(model, FullRank(model))
    with pytest.raises(ValueError, match="has 2 components"):
        boost(model, Mixture(model, components=2))

    def local(x):
        with pyro.plate("data", 3, dim=-1):
            z = pyro.sample("z1", dist.Normal(torch.zeros(3), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.zeros(3)
    with pytest.raises(ValueError, match="one density for all rows of site"):
        boost(local, Mixture(local, x, components=1), x, steps=2)
