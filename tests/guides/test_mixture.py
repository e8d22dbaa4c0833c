"""The mixture's density and gradients against closed forms; as a guide it is exact on a mixture posterior."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides.mixture import GaussianMixtureDensity, Mixture
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair, evaluate
from pyrarchy.inference.terms import make_terms, trace_pair

C, D = 3, 4


def parameters(spread=1.0):
    """Overlapping correlated components: logits, means, factors, with gradients."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tril = 0.4 * normal(C, D, D).tril(-1) + torch.diag_embed(0.6 + 0.5 * normal(C, D).abs())
    return [p.requires_grad_() for p in (0.7 * normal(C), spread * 0.7 * normal(C, D), tril)]


def test_density_is_the_mixture():
    logits, loc, tril = parameters()
    q = GaussianMixtureDensity(logits, loc, tril)
    expected = dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.MultivariateNormal(loc, scale_tril=tril))
    u = 2 * torch.randn(5, 2, D, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(u), expected.log_prob(u))
    each = dist.MultivariateNormal(loc, scale_tril=tril).log_prob(u.unsqueeze(-2))
    torch.testing.assert_close(q.log_components(u), each)
    assert q.rsample((6, 2)).shape == (6, 2, D) and q.has_rsample


@pytest.mark.stochastic
def test_draws_and_their_gradients_are_those_of_the_expectation():
    """E sin(a u) and its gradient by every parameter have closed forms; weights, means and factors are unbiased."""
    values = parameters()
    a = torch.tensor([0.9, -0.7, 0.5, 0.8], dtype=torch.float64)

    def exact(logits, loc, tril):
        return (logits.softmax(0) * (-0.5 * (a @ tril).square().sum(-1)).exp() * (loc @ a).sin()).sum()

    wanted = torch.cat([g.reshape(-1) for g in torch.autograd.grad(exact(*values), values)])
    rows = []
    for _ in range(40):
        q = GaussianMixtureDensity(*values)
        value = (q.rsample((2000,)) @ a).sin().mean()
        grads = torch.autograd.grad(value, values)
        rows.append(torch.cat([value.detach().reshape(1), *(g.reshape(-1) for g in grads)]))
    rows = torch.stack(rows)
    mean, error = rows.mean(0), rows.std(0) / len(rows) ** 0.5
    assert abs(mean[0] - exact(*values)) < 4.5 * error[0]
    assert ((mean[1:] - wanted).abs() < 4.5 * error[1:] + 1e-12).all()
    assert (error[1 : 1 + C] < 0.1 * wanted[:C].abs().max()).all() and wanted[:C].abs().max() > 0.03


class TwoHills(PyroModule):
    """A posterior of two Gaussian hills in R^2, known with its normaliser: log Z = log 3."""

    def __init__(self, apart=3.0):
        super().__init__("model")
        self.weights = torch.tensor([0.35, 0.65], dtype=torch.float64)
        self.loc = apart * torch.tensor([[-1.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
        self.tril = torch.tensor([[[0.8, 0.0], [0.5, 0.6]], [[1.1, 0.0], [-0.4, 0.7]]], dtype=torch.float64)

    def target(self):
        return GaussianMixtureDensity(self.weights.log(), self.loc, self.tril)

    def forward(self):
        base = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)
        u = pyro.sample("u", base)
        pyro.factor("tilt", self.target().log_prob(u) - base.log_prob(u) + math.log(3.0))


def set_exactly(guide, model):
    with torch.no_grad():
        guide.logits[0].copy_((model.weights[1] / model.weights[0]).log())
        for c in range(2):
            scale = model.tril[c].diagonal()
            guide.locs[c].copy_(model.loc[c])
            guide.raw_scales[c].copy_((scale - 1e-6).expm1().log())
            guide.couplings[c].copy_((model.tril[c, 1, :1]) / scale[1])


@pytest.mark.parametrize("k", [1, 6])
def test_two_components_are_the_posterior_of_two_hills(k):
    model = TwoHills()
    guide = Mixture(model, components=2)
    set_exactly(guide, model)
    terms = make_terms(*trace_pair(model, guide, num_particles=k), num_particles=k)
    torch.testing.assert_close(terms.log_w, torch.full((k, 1), math.log(3.0), dtype=torch.float64), rtol=0, atol=1e-9)


def test_every_parameter_is_trained_and_every_tool_takes_it():
    model = TwoHills(0.7)
    guide = Mixture(model, components=3, init_scale=0.5)
    check_pair(model, guide)
    bounds = ELBO(40), ImportanceWeighted(40), ELBO(40, estimator="stl"), ImportanceWeighted(40, estimator="dreg")
    for objective in bounds:
        guide.zero_grad()
        objective.loss_and_grads(model, guide)
        assert all(p.grad is not None and p.grad.any() for p in guide.parameters())
    pyro.set_rng_seed(1)
    value = ELBO(3).loss(*copy.deepcopy((model, guide)))
    pyro.set_rng_seed(1)
    assert ELBO(3).loss(model, guide) == value
    assert evaluate(model, guide, None, num_samples=200).mean_log_p == pytest.approx(math.log(3.0), abs=0.5)


def test_growing_and_shrinking_keep_the_others_shares():
    guide = Mixture(TwoHills(), components=2)
    with torch.no_grad():
        guide.logits[0].fill_(1.3)
    before = guide.distribution().log_weights.exp()
    guide.grow(torch.ones(2), weight=0.2, scale=torch.tensor([0.3, 0.7]))
    after = guide.distribution().log_weights.exp().detach()
    torch.testing.assert_close(after, torch.cat([0.8 * before, after.new_tensor([0.2])]).detach())
    with guide.only(2):
        torch.testing.assert_close(guide.distribution().stddev, torch.tensor([0.3, 0.7], dtype=torch.float64))
    assert guide.components == 3 and len(guide.state_dict()) == len(dict(guide.named_buffers())) + 3 * 3 + 2
    guide.shrink()
    torch.testing.assert_close(guide.distribution().log_weights.exp(), before)
    with guide.only(1):
        assert isinstance(guide.distribution(), dist.MultivariateNormal)
        torch.testing.assert_close(guide.distribution().mean, guide.locs[1])
    assert isinstance(guide.distribution(), GaussianMixtureDensity)
    guide.shrink()
    with pytest.raises(ValueError, match="one component left"):
        guide.shrink()


def test_refusals():
    with pytest.raises(ValueError, match="at least one component"):
        Mixture(TwoHills(), components=0)
    with pytest.raises(ValueError, match="init_scale"):
        Mixture(TwoHills(), init_scale=0.0)

    def discrete():
        pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="site 'k'"):
        Mixture(discrete)
