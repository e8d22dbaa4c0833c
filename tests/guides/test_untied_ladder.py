"""The untied ladder: its own top-down networks; with the prior's weights it is the tied ladder, exact on the tree."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import Encoder, Ladder, UntiedLadder, precision_weighted
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair, log_prob
from pyrarchy.zoo import MarkovHVAE
from pyrarchy.zoo.gaussian_tree import GaussianTree

X, Z, H, B = 7, (4, 3, 2), (9, 8, 5), 6


def bits():
    return torch.bernoulli(torch.full((B, X), 0.5))


def pair():
    return (m := MarkovHVAE(X, Z, H)), UntiedLadder(m, Encoder(X, Z, H), Z, H[1:])


@pytest.mark.parametrize(("dim", "t2", "s2"), [(1, 0.1, 1.0), (2, 0.1, 1.0), (5, 0.6, 0.3)])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_with_the_trees_own_step_it_is_the_posterior(dim, t2, s2, k):
    tree = GaussianTree(dim, z1_scale=t2**0.5, x_scale=s2**0.5).double()
    v = t2 + s2

    def evidence(x):
        top = dist.Normal(x.sum(-1, keepdim=True) / (v + dim), math.sqrt(v / (v + dim))).to_event(1)
        return {"z1": dist.Normal(x, s2**0.5).to_event(1), "z2": top}

    guide = UntiedLadder(tree, evidence, (dim, 1), ((),)).double()
    normal = guide.top_down["z1"][1]
    with torch.no_grad():
        normal.loc.weight.fill_(1.0)
        normal.raw_scale.weight.zero_()
        normal.raw_scale.bias.fill_(math.log(math.expm1(t2**0.5 - normal.floor)))
    x = 1.5 * torch.randn(4, dim, dtype=torch.float64)
    log_w = ImportanceWeighted(k).terms(tree, guide, x).log_w
    torch.testing.assert_close(log_w, tree.log_marginal(x).expand(k, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5])
def test_every_layers_density_by_hand_and_the_tied_ladder_as_a_case(k):
    model, guide = pair()
    x = bits()
    check_pair(model, guide, x)
    terms = ELBO(k).terms(model, guide, x)
    message, z = guide.encoder(x), terms.values
    expected = {"z3": message["z3"]}
    for i in (2, 1):
        expected[f"z{i}"] = precision_weighted(guide.top_down[f"z{i}"](z[f"z{i + 1}"]), message[f"z{i}"])
    for name, q in expected.items():
        torch.testing.assert_close(terms.log_q[name], q.log_prob(z[name]).reshape(-1, B).expand(k, B))
    ELBO(k).differentiable_loss(model, guide, x).backward()
    assert all(p.grad is not None and p.grad.any() for p in (*model.parameters(), *guide.parameters()))
    for i in (1, 2):
        guide.top_down[f"z{i}"].load_state_dict(model.priors[i - 1].state_dict())
    values = []
    for q in (guide, Ladder(model, guide.encoder)):
        pyro.set_rng_seed(4)
        values.append(ELBO(k).value(model, q, x))
    torch.testing.assert_close(*values)


def test_nothing_is_shared_with_the_model():
    """log q at given latents has no gradient in the model, where the tied ladder's has one."""
    model, guide = pair()
    x = bits()
    with torch.no_grad():
        z = ELBO(1).terms(model, guide, x).values
    for q, tied in ((guide, False), (Ladder(model, guide.encoder), True)):
        log_prob(q, z, x)["z1"].sum().backward()
        reached = model.priors[0][1].loc.weight.grad
        assert (reached is not None and bool(reached.any())) == tied
        assert guide.encoder.heads[0].loc.weight.grad.any()
    assert {id(p) for p in model.parameters()}.isdisjoint({id(p) for p in guide.parameters()})


def test_sizes_and_sites_are_refused_by_name():
    model = MarkovHVAE(X, Z, H)
    with pytest.raises(ValueError, match="each layer but the top, 2, not 3"):
        UntiedLadder(model, Encoder(X, Z, H), Z, H)
    with pytest.raises(ValueError, match=r"site 'z2' is not at the top.*\['z1'\]"):
        UntiedLadder(model, Encoder(X, Z, H), Z[:2], H[1:2])(bits())

    def laplace(x):
        return {n: dist.Laplace(q.mean, 1.0).to_event(1) for n, q in Encoder(X, Z, H)(x).items()}

    with pytest.raises(ValueError, match=r"site 'z2'.*Laplace"):
        UntiedLadder(model, laplace, Z, H[1:])(bits())
