"""Heads that read the samples above: exact on the tree with linear heads, and every layer's density by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import Features, MarkovTopDown, TopDown
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair
from pyrarchy.zoo import DenseHVAE, MarkovHVAE
from pyrarchy.zoo.gaussian_tree import GaussianTree

X, Z, H, B = 7, (4, 3, 2), (9, 8, 5), 6


def bits():
    return torch.bernoulli(torch.full((B, X), 0.5))


def pair(kind=TopDown, model=DenseHVAE):
    pyro.set_rng_seed(2)
    return (m := model(X, Z, H)), kind(m, Features(X, (10, 11, 12)), Z, (6, (5, 4), ()))


def set_linear(head, weight, scale):
    """Make a linear head the Gaussian of mean ``weight @ inputs`` and a constant scale."""
    normal = head[1]
    with torch.no_grad():
        normal.loc.weight.copy_(weight)
        normal.raw_scale.weight.zero_()
        normal.raw_scale.bias.fill_(math.log(math.expm1(scale - normal.floor)))


def exact_on_the_tree(kind, dim, a, t2, s2):
    tree = GaussianTree(dim, a=a, z1_scale=t2**0.5, x_scale=s2**0.5).double()
    guide = kind(tree, Features(dim, ((), ())), (dim, 1), ((), ())).double()
    v = t2 + s2
    below = torch.cat([torch.eye(dim) * t2 / v, torch.full((dim, 1), s2 * a / v)], 1)
    set_linear(guide.heads[0], below, math.sqrt(t2 * s2 / v))
    set_linear(guide.heads[1], torch.full((1, dim), a / (v + dim * a**2)), math.sqrt(v / (v + dim * a**2)))
    return tree, guide


@pytest.mark.parametrize("kind", [TopDown, MarkovTopDown])
@pytest.mark.parametrize(("dim", "a", "t2", "s2"), [(1, 1.0, 0.1, 1.0), (2, 1.0, 0.1, 1.0), (5, -1.7, 0.6, 0.3)])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_linear_heads_are_the_posterior_on_a_tree(kind, dim, a, t2, s2, k):
    """Gap zero by construction: every importance weight is the marginal."""
    model, guide = exact_on_the_tree(kind, dim, a, t2, s2)
    x = 1.5 * torch.randn(4, dim, dtype=torch.float64)
    log_w = ImportanceWeighted(k).terms(model, guide, x).log_w
    torch.testing.assert_close(log_w, model.log_marginal(x).expand(k, 4), rtol=0, atol=2e-6)


@pytest.mark.stochastic
def test_a_head_that_ignores_the_sample_above_opens_the_gap_of_the_best_such_guide():
    """Cut the path from z2 and the best that is left is mean-field, 1.004215 nats below on the reference tree."""
    model, guide = exact_on_the_tree(TopDown, 2, 1.0, 0.1, 1.0)
    precision = torch.tensor([[21.0, -10.0, -10.0], [-10.0, 11.0, 0.0], [-10.0, 0.0, 11.0]])
    mean = precision.inverse()[:, 1:]  # of (z2, z1) for x: precision^-1 applied to (0, x)
    set_linear(guide.heads[1], mean[:1], 21.0**-0.5)
    set_linear(guide.heads[0], torch.cat([mean[1:], torch.zeros(2, 1)], 1), 11.0**-0.5)
    x, k = 1.5 * torch.randn(3, 2, dtype=torch.float64), 40_000
    with torch.no_grad():
        log_w = ELBO(k).terms(model, guide, x).log_w
    error = log_w.std(0) / math.sqrt(k)
    assert ((model.log_marginal(x) - log_w.mean(0) - 1.004215).abs() < 4.5 * error).all() and error.max() < 0.01


@pytest.mark.parametrize("model", [DenseHVAE, MarkovHVAE])
@pytest.mark.parametrize(("kind", "reads"), [(TopDown, {1: (2, 3), 2: (3,)}), (MarkovTopDown, {1: (2,), 2: (3,)})])
@pytest.mark.parametrize("k", [1, B, 5])
def test_each_layer_reads_features_and_the_samples_above(model, kind, reads, k):
    m, guide = pair(kind, model)
    x = bits()
    terms = ELBO(k).terms(m, guide, x)
    features, z = guide.features(x), terms.values
    for i in (1, 2, 3):
        parts = [features[f"z{i}"], *(z[f"z{j}"] for j in reads.get(i, ()))]
        lead = (k, B) if k > 1 else (B,)
        q = guide.heads[i - 1](torch.cat([p.expand(*lead, p.shape[-1]) for p in parts], -1))
        torch.testing.assert_close(terms.log_q[f"z{i}"], q.log_prob(z[f"z{i}"]).reshape(-1, B))
    assert terms.top_down
    check_pair(m, guide, x)
    ELBO(k).differentiable_loss(m, guide, x).backward()
    assert all(p.grad is not None and p.grad.any() for p in (*m.parameters(), *guide.parameters()))


def test_other_sites_and_orders_are_refused_by_name():
    features = Features(X, ((), (), ()))
    with pytest.raises(ValueError, match="one entry a layer, not 3, 2 and 3"):
        TopDown(None, features, Z, H[:2])

    def other(x):
        with pyro.plate("data", len(x)):
            pyro.sample("theta", dist.Normal(0.0, 1.0).expand([3]).to_event(1))

    with pytest.raises(ValueError, match=r"'theta' is none of z1 \.\.\. z3"):
        TopDown(other, features, Z, H)(torch.zeros(B, X))

    def upwards(x):
        with pyro.plate("data", len(x)):
            for i, dim in enumerate(Z, 1):
                pyro.sample(f"z{i}", dist.Normal(0.0, 1.0).expand([dim]).to_event(1))

    with pytest.raises(ValueError, match=r"site 'z1'.*not sampled 'z2', 'z3' yet"):
        TopDown(upwards, features, Z, H)(torch.zeros(B, X))
    with pytest.raises(ValueError, match=r"none of z1 \.\.\. z2"):
        TopDown(MarkovHVAE(X, Z, H), Features(X, ((), ())), Z[:2], H[:2])(torch.zeros(B, X))


def test_the_gradient_is_the_derivative_of_the_value():
    """Along a random direction through every parameter, by central differences at one seed: no path is cut."""
    model, guide = (m.double() for m in pair())
    x = bits().double()
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
