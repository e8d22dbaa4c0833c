"""The dense hierarchy: with linear networks it is one Gaussian, whose marginal and whose guides' gaps are exact."""

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import MultivariateNormal
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import kl_divergence

from pyrarchy.guides import Guide
from pyrarchy.inference import ELBO, ImportanceWeighted, evaluate
from pyrarchy.zoo import DenseHVAE, MarkovHVAE

X, Z, H, B = 5, (4, 2, 3), (6, 8, 7), 3


class ConstantScale(nn.Module):
    """A Gaussian with a linear mean and scales that are parameters."""

    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.loc = nn.Linear(in_dim, out_dim)
        self.scale = nn.Parameter(torch.rand(out_dim) + 0.4)

    def forward(self, h):
        return dist.Normal(self.loc(h), self.scale).to_event(1)


class LinearGaussian(DenseHVAE):
    """The dense hierarchy with linear networks and Gaussian data, and its marginal as one dense Gaussian."""

    def __init__(self, x_dim, z_dims, hidden):
        super().__init__(x_dim, z_dims, hidden, activation=nn.Identity)

    def make_head(self, in_dim, out_dim):
        return ConstantScale(in_dim, out_dim)

    def make_likelihood(self, in_dim, x_dim, x_mean):
        return ConstantScale(in_dim, x_dim)

    def joint(self):
        """Mean and covariance of (zL, ..., z1, x): every variable an affine map of independent standard noises."""
        sizes = (*reversed(self.z_dims), self.likelihood.loc.out_features)
        total = sum(sizes)

        def linear(layers, mean, root):
            for layer in layers:
                if isinstance(layer, nn.Linear):
                    mean, root = layer.weight @ mean + layer.bias, layer.weight @ root
            return mean, root

        noise = torch.eye(total, dtype=torch.float64).split(sizes)
        z = torch.zeros(sizes[0], dtype=torch.float64), noise[0]
        h = linear(self.blocks[-1], *z)
        out = [z]
        heads = [*reversed(self.heads), self.likelihood]
        for head, block, eps in zip(heads, [*reversed(self.blocks[:-1]), ()], noise[1:], strict=True):
            mean, root = linear([head.loc], *h)
            z = mean, root + head.scale[:, None] * eps
            h = linear(block, *(torch.cat(both) for both in zip(z, h, strict=True)))
            out.append(z)
        mean, root = (torch.cat(parts) for parts in zip(*out, strict=True))
        return mean.detach(), (root @ root.mT).detach()

    def log_marginal(self, x):
        mean, covariance = self.joint()
        d = x.shape[-1]
        return MultivariateNormal(mean[-d:], covariance[-d:, -d:]).log_prob(x)


def linear_model(z_dims=Z, hidden=H):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LinearGaussian(X, z_dims, hidden).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.3)
    return model


def data(n=B):
    return 1.5 * torch.randn(n, X, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def given(mean, covariance, known, value):
    """Mean (..., rest) and covariance of the rest of a Gaussian, given the entries of the index ``known``."""
    rest = torch.tensor([i for i in range(len(mean)) if i not in set(known.tolist())])
    gain = covariance[rest][:, known] @ covariance[known][:, known].inverse()
    return mean[rest] + (value - mean[known]) @ gain.mT, covariance[rest][:, rest] - gain @ covariance[known][:, rest]


def posterior(model, x):
    """p(zL ... z1 | x), batch (B,)."""
    mean, covariance = model.joint()
    latents = len(mean) - X
    loc, cov = given(mean, covariance, torch.arange(latents, len(mean)), x)
    return MultivariateNormal(loc, cov)


class Conditionals(Guide):
    """q(z_i | z_>i) of a given joint Gaussian q(zL ... z1 | x), with a full covariance at every site."""

    def __init__(self, model, joint):
        super().__init__(model)
        self.joint = joint

    def posterior(self, name, prior):
        q = self.joint
        drawn = [site["value"] for name, site in self.trace.nodes.items() if name in ("z3", "z2", "z1")]
        done, size = sum(v.shape[-1] for v in drawn), prior.event_shape[0]
        cov = q.covariance_matrix[0]
        cut = cov[: done + size, : done + size]
        if not done:
            return MultivariateNormal(q.loc[:, :size], cut)
        gain = cut[done:, :done] @ cut[:done, :done].inverse()
        shift = (torch.cat(drawn, -1) - q.loc[:, :done]) @ gain.mT
        return MultivariateNormal(q.loc[:, done : done + size] + shift, cut[done:, done:] - gain @ cut[:done, done:])


@pytest.mark.parametrize("k", [1, B, 7])
def test_every_weight_is_the_dense_marginal_where_the_guide_is_the_posterior(k):
    model, x = linear_model(), data()
    terms = ImportanceWeighted(k).terms(model, Conditionals(model, posterior(model, x)), x)
    torch.testing.assert_close(terms.log_w, model.log_marginal(x).expand(k, B), rtol=1e-9, atol=1e-9)


@pytest.mark.stochastic
def test_importance_samples_of_a_wider_guide_give_the_marginal():
    model, x, k = linear_model(), data(), 20_000
    exact = posterior(model, x)
    wide = MultivariateNormal(exact.loc + 0.1, exact.covariance_matrix * 1.3)
    with torch.no_grad():
        log_w = ImportanceWeighted(k).terms(model, Conditionals(model, wide), x).log_w
    ratio = (log_w - model.log_marginal(x)).exp()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / math.sqrt(k)).all()
    assert (ratio.std(0) / math.sqrt(k)).max() < 0.02 and ratio.std(0).min() > 0.1
    found = evaluate(model, Conditionals(model, exact), x, num_samples=30)
    assert found.log_p == pytest.approx(model.log_marginal(x).numpy(), abs=1e-9)


def cut_above(q, sizes):
    """q with each layer given the next above alone: p(zL|x) p(zL-1|zL,x) ... p(z1|z2,x), a Gaussian of its own."""
    cov, n = q.covariance_matrix[0], sum(sizes)
    map_, noise = torch.zeros(n, n, dtype=cov.dtype), torch.zeros(n, n, dtype=cov.dtype)
    first = 0
    for i, size in enumerate(sizes):
        now = slice(first, first + size)
        if i:
            above = slice(first - sizes[i - 1], first)
            map_[now, above] = cov[now, above] @ cov[above, above].inverse()
            noise[now, now] = cov[now, now] - map_[now, above] @ cov[above, now]
        else:
            noise[now, now] = cov[now, now]
        first += size
    root = (torch.eye(n, dtype=cov.dtype) - map_).inverse()
    return MultivariateNormal(q.loc, root @ noise @ root.mT)


@pytest.mark.stochastic
def test_the_gaps_of_other_guides_are_their_divergences():
    """Mean-field, and a guide that is given one layer above: log p(x) - ELBO is the closed-form KL."""
    model, x, k = linear_model(), data(), 40_000
    exact = posterior(model, x)
    field = torch.diag(exact.precision_matrix[0].diagonal().reciprocal())
    others = {
        "field": MultivariateNormal(exact.loc, field),
        "markov": cut_above(exact, tuple(reversed(Z))),
    }
    gaps = {}
    for name, q in others.items():
        with torch.no_grad():
            log_w = ELBO(k).terms(model, Conditionals(model, q), x).log_w
        gap, error = model.log_marginal(x) - log_w.mean(0), log_w.std(0) / math.sqrt(k)
        gaps[name] = kl_divergence(q, exact)
        assert ((gap - gaps[name]).abs() < 4.5 * error).all() and error.max() < 0.03
    # mean-field's is the textbook's; one layer is not enough of a context in a dense hierarchy
    precision = exact.precision_matrix[0]
    textbook = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    torch.testing.assert_close(gaps["field"], textbook.expand(B))
    assert 0.01 < gaps["markov"][0] < gaps["field"][0]


def test_a_markov_chain_is_the_dense_one_without_its_skips():
    """With the weights on the state cut, each layer is given the one above alone."""
    model = linear_model()
    with torch.no_grad():
        for block, z in zip(model.blocks[:-1], Z[:-1], strict=True):
            block[0].weight[:, z:] = 0.0
    _, covariance = model.joint()
    precision = covariance.inverse()
    sizes = (*reversed(Z), X)
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    part = [slice(a, b) for a, b in pairwise(starts)]
    assert precision[part[0], part[2]].abs().max() < 1e-9 and precision[part[1], part[3]].abs().max() < 1e-9
    _, dense = linear_model().joint()
    assert dense.inverse()[part[0], part[2]].abs().max() > 1e-2 and dense.inverse()[part[0], part[3]].abs().max() > 1e-2


@pytest.mark.parametrize("lead", [(), (4,)], ids=["one", "particles"])
def test_densities_by_hand(lead):
    pyro.set_rng_seed(1)
    m, x = DenseHVAE(X, Z, H), torch.bernoulli(torch.full((B, X), 0.4))
    z = {f"z{i}": torch.randn(*lead, B, d) for i, d in enumerate(Z, 1)}
    conditioned = poutine.condition(m, z)
    if lead:
        conditioned = pyro.plate("particles", lead[0], dim=-2)(conditioned)
    trace = poutine.trace(conditioned).get_trace(x)
    trace.compute_log_prob()
    assert [n for n in trace.nodes if n[0] == "z"] == ["z3", "z2", "z1"]
    h2 = m.blocks[2](z["z3"])
    h1 = m.blocks[1](torch.cat([z["z2"], h2], -1))
    h0 = m.blocks[0](torch.cat([z["z1"], h1], -1))
    q2, q1 = m.heads[1](h2), m.heads[0](h1)
    bits = F.binary_cross_entropy_with_logits(m.likelihood.logits(h0), x.expand(*lead, B, X), reduction="none")
    expected = {
        "z3": dist.Normal(0.0, 1.0).log_prob(z["z3"]).sum(-1),
        "z2": q2.log_prob(z["z2"]),
        "z1": q1.log_prob(z["z1"]),
        "x": -bits.sum(-1),
    }
    for name, value in expected.items():
        assert value.shape == (*lead, B)
        torch.testing.assert_close(trace.nodes[name]["log_prob"], value)


def test_every_parameter_is_reached_and_no_state_is_left():
    m, x = DenseHVAE(X, Z, H), torch.ones(B, X)
    poutine.trace(m).get_trace(x).log_prob_sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in m.parameters())
    assert m.state is None and "state" not in m.__dict__

    def fails(module, given):
        raise RuntimeError("in the middle of a pass")

    m.likelihood.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="middle"):
        m(x)
    assert m.state is None


def test_one_layer_is_the_plain_autoencoder():
    """L = 1 has no skip: the same network as the Markov chain's."""
    dense, chain = DenseHVAE(X, (3,), (6,)), MarkovHVAE(X, (3,), (6,))
    assert [tuple(p.shape) for p in dense.parameters()] == [tuple(p.shape) for p in chain.parameters()]
    assert isinstance(dense, PyroModule) and dense._pyro_name == "model"


@pytest.mark.parametrize("bad", [{"z_dims": Z, "hidden": (8, 9)}, {"z_dims": (), "hidden": ()}])
def test_sizes_are_checked(bad):
    with pytest.raises(ValueError, match="one entry a layer"):
        DenseHVAE(X, **bad)
