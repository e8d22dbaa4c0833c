"""The ladder is exact on the tree, where the best diagonal bottom-up and mean-field guides keep known gaps."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import Encoder, Ladder, precision_weighted
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair
from pyrarchy.zoo import MarkovHVAE
from pyrarchy.zoo.gaussian_tree import GaussianTree

D, T2, S2, B = 2, 0.1, 1.0, 3


def tree(dim=D):
    return GaussianTree(dim, a=1.0, z1_scale=T2**0.5, x_scale=S2**0.5).double()


def data(dim=D):
    return torch.randn(B, dim, dtype=torch.float64) * 1.5


def joint_precision(dim=D):
    """Posterior precision of (z2, z1): the tree's arrows, written out."""
    out = torch.diag(torch.tensor([1 + dim / T2] + [1 / T2 + 1 / S2] * dim, dtype=torch.float64))
    out[0, 1:] = out[1:, 0] = -1 / T2
    return out


def posterior_mean(x):
    linear = torch.cat([torch.zeros(len(x), 1, dtype=x.dtype), x / S2], 1)
    return linear @ joint_precision(x.shape[1]).inverse()


def diagonal_gap(precision):
    """The least KL(diagonal Gaussian || N(., precision^-1)), reached at variances 1 / diag."""
    return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()


def evidence(x):
    """What an encoder must say: x itself about z1, the exact marginal posterior at the top."""
    dim, v = x.shape[-1], T2 + S2
    top = dist.Normal(x.sum(-1, keepdim=True) / (v + dim), math.sqrt(v / (v + dim))).to_event(1)
    return {"z1": dist.Normal(x, S2**0.5).to_event(1), "z2": top}


@pytest.mark.parametrize("dim", [1, D, 5])
@pytest.mark.parametrize("k", [1, B, 7])
def test_the_ladder_is_the_posterior_on_a_tree(k, dim):
    model, x = tree(dim), data(dim)
    guide = Ladder(model, evidence)
    terms = ImportanceWeighted(k).terms(model, guide, x)
    torch.testing.assert_close(terms.log_w, model.log_marginal(x).expand(k, B), rtol=0, atol=1e-6)
    assert guide.encoder is evidence


def test_the_numbers_of_the_best_other_guides():
    precision = joint_precision()
    assert diagonal_gap(precision) == pytest.approx(1.004215, abs=5e-7)
    marginal = precision.inverse()[1:, 1:].inverse()  # of z1 alone: q(z2 | z1) can be exact
    assert diagonal_gap(marginal) == pytest.approx(0.436995, abs=5e-7)
    # the closed form is the optimum: a search over the variances finds nothing better
    raw = torch.zeros(D, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([raw], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14)

    def kl():
        optimiser.zero_grad()
        value = 0.5 * ((raw.exp() * marginal.diagonal()).sum() - D - raw.sum() - torch.logdet(marginal))
        value.backward()
        return value

    optimiser.step(kl)
    assert kl().item() == pytest.approx(0.436995, abs=5e-7)


class Best(PyroModule):
    """The best diagonal guides, from the posterior's precision: bottom-up, or without any dependence."""

    def __init__(self, bottom_up):
        super().__init__("guide")
        self.bottom_up = bottom_up

    def forward(self, x):
        precision, mean = joint_precision(), posterior_mean(x)
        marginal = precision.inverse()[1:, 1:].inverse()
        with pyro.plate("data", len(x), dim=-1):
            if self.bottom_up:
                z1 = pyro.sample("z1", dist.Normal(mean[:, 1:], marginal.diagonal() ** -0.5).to_event(1))
                loc = mean[:, :1] - ((z1 - mean[:, 1:]) @ precision[1:, :1]) / precision[0, 0]
                pyro.sample("z2", dist.Normal(loc, precision[0, 0] ** -0.5).to_event(1))
            else:
                pyro.sample("z2", dist.Normal(mean[:, :1], precision[0, 0] ** -0.5).to_event(1))
                pyro.sample("z1", dist.Normal(mean[:, 1:], precision.diagonal()[1:] ** -0.5).to_event(1))


@pytest.mark.stochastic
@pytest.mark.parametrize(("bottom_up", "gap"), [(True, 0.436995), (False, 1.004215)])
def test_our_elbo_shows_the_gap_of_the_best_others(bottom_up, gap):
    k, model, x = 40_000, tree(), data()
    terms = ELBO(k).terms(model, Best(bottom_up), x)
    found = model.log_marginal(x) - ELBO(k).reduce(terms)
    error = terms.log_w.std(0) / k**0.5
    assert ((found - gap).abs() < 4.5 * error).all() and error.max() < 0.01


def test_precision_weighting_by_hand_and_at_extremes():
    p, e = (dist.Normal(torch.randn(4, 3), torch.rand(4, 3) + 0.1).to_event(1) for _ in range(2))
    q = precision_weighted(p.expand((5, 4)), e)
    assert q.batch_shape == (5, 4) and q.event_shape == (3,)
    weight_p, weight_e = p.variance.reciprocal(), e.variance.reciprocal()
    mean = (p.mean * weight_p + e.mean * weight_e) / (weight_p + weight_e)
    torch.testing.assert_close(q.mean, mean.expand(5, 4, 3))
    torch.testing.assert_close(q.variance, (1 / (weight_p + weight_e)).expand(5, 4, 3))
    for narrow, wide in ((1e-15, 1.0), (1.0, 1e15), (1e-12, 1e12)):
        sharp = precision_weighted(dist.Normal(2.0, narrow), dist.Normal(-3.0, wide))
        assert sharp.mean.item() == pytest.approx(2.0, rel=1e-6) and sharp.stddev.item() == pytest.approx(narrow)


@pytest.mark.parametrize("k", [1, 6])
def test_on_a_hierarchy_the_prior_arrives_conditioned(k):
    """log_q of every layer below the top is the density of the product with the model's own prior at the sample."""
    model = MarkovHVAE(7, z_dims=(4, 3, 2), hidden=(8, 6, 5))
    guide = Ladder(model, Encoder(7, z_dims=(4, 3, 2), hidden=(8, 6, 5)))
    x = torch.bernoulli(torch.full((B, 7), 0.5))
    check_pair(model, guide, x)
    terms = ELBO(k).terms(model, guide, x)
    message, z = guide.encoder(x), terms.values
    expected = {"z3": message["z3"]}
    for i in (2, 1):
        expected[f"z{i}"] = precision_weighted(model.priors[i - 1](z[f"z{i + 1}"]), message[f"z{i}"])
    for name, q in expected.items():
        torch.testing.assert_close(terms.log_q[name], q.log_prob(z[name]).reshape(-1, B).expand(k, B))
    ELBO(k).differentiable_loss(model, guide, x).backward()
    assert all(p.grad is not None and p.grad.any() for p in (*model.parameters(), *guide.parameters()))


def test_what_is_not_gaussian_is_refused_by_site():
    def model(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("z2", dist.Normal(0.0, 1.0))
            pyro.sample("z1", dist.Laplace(top, 1.0))

    guide = Ladder(model, lambda x: {"z2": dist.Normal(x, 1.0), "z1": dist.Normal(x, 1.0)})
    with pytest.raises(ValueError, match=r"site 'z1'.*Laplace"):
        guide(torch.zeros(B))
    guide = Ladder(model, lambda x: {"z2": dist.Normal(x, 1.0)})
    with pytest.raises(ValueError, match=r"no distribution.*'z1'.*\['z2'\]"):
        guide(torch.zeros(B))


def test_the_gradient_is_the_derivative_of_the_value():
    """Along a random direction through every parameter, by central differences at one seed: no path is cut."""
    model = MarkovHVAE(7, z_dims=(4, 3, 2), hidden=(8, 6, 5)).double()
    guide = Ladder(model, Encoder(7, z_dims=(4, 3, 2), hidden=(8, 6, 5))).double()
    x = torch.bernoulli(torch.full((B, 7), 0.5)).double()
    parameters = [*model.parameters(), *guide.parameters()]
    direction = [torch.randn_like(p) for p in parameters]

    def loss():
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        return ImportanceWeighted(3).differentiable_loss(model, guide, x)

    loss().backward()
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True)).item()
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(1e-6 * sign * d)
            ends.append(loss().item())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
