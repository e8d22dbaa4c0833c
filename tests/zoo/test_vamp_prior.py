"""The VampPrior is the mixture that it says, normalised; its encoder's two roles keep their own gradients."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrarchy.guides import Amortized, Encoder, Ladder
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair, isolated
from pyrarchy.zoo import VAE, DenseHVAE, GaussianVAE, MarkovHVAE, VampPrior
from pyrarchy.zoo.networks import NormalHead

X, Z, K, B = 5, 3, 4, 7


def vamp_vae(x_dim=X, z_dim=Z, count=K):
    encoder = Encoder(x_dim, (z_dim,), ((6,),), activation=nn.Tanh)
    model = VAE(x_dim, z_dim, (6,), top=VampPrior(encoder, torch.rand(count, x_dim), "z1"))
    return model, Amortized(model, model.top.encode)


def test_density_is_the_mixture_by_hand():
    model, _ = vamp_vae()
    z = torch.randn(11, B, Z)
    q = model.top.encoder(model.top.pseudo_inputs)["z1"].base_dist
    rows = torch.stack([dist.Normal(m, s).log_prob(z).sum(-1) for m, s in zip(q.loc, q.scale, strict=True)])
    by_hand = torch.logsumexp(rows, 0) - math.log(K)
    torch.testing.assert_close(model.top(z).log_prob(z), by_hand)
    terms = ELBO(11).terms(model, Amortized(model, model.top.encode), torch.ones(B, X))
    torch.testing.assert_close(terms.log_p["z1"], model.top(z).log_prob(terms.values["z1"]))


def test_density_is_normalised():
    prior = VampPrior(NormalHead(X, 1), torch.rand(K, X)).double()
    with torch.no_grad():
        prior.encoder.loc.weight.mul_(6.0)
    grid = torch.linspace(-60, 60, 60_001, dtype=torch.float64).unsqueeze(-1)
    total = torch.trapezoid(prior(grid).log_prob(grid).exp(), grid.squeeze(-1))
    assert total.item() == pytest.approx(1.0, abs=1e-8)


def test_pseudo_inputs_are_clamped_and_all_start_with_a_gradient():
    start = torch.tensor([[0.0, 1.0, 0.5], [0.3, 0.0, 1.0]])
    prior = VampPrior(NormalHead(3, 2), start)
    prior(start).log_prob(torch.ones(2)).backward()
    assert all(p.grad is not None and (p.grad != 0).all() for p in prior.parameters())
    inside = prior(start).log_prob(torch.ones(2))
    with torch.no_grad():
        prior.pseudo_inputs[0, 0], prior.pseudo_inputs[1, 2] = -3.0, 9.0
    moved = prior(start).component_distribution.mean
    with torch.no_grad():
        prior.pseudo_inputs[0, 0], prior.pseudo_inputs[1, 2] = 0.0, 1.0
    torch.testing.assert_close(moved, prior(start).component_distribution.mean)
    free = VampPrior(prior.encoder, 5 * start, bounds=None)
    torch.testing.assert_close(free(start).component_distribution.mean, prior.encoder(5 * start).mean)
    assert inside.isfinite()


def test_every_parameter_is_trained_and_owned_once():
    model, guide = vamp_vae()
    x = torch.bernoulli(torch.full((B, X), 0.5))
    assert not list(guide.parameters()) and "top.encoder.heads.0.loc.weight" in model.state_dict()
    found = check_pair(model, guide, x)
    assert found.num_parameters == sum(p.numel() for p in model.parameters())
    ImportanceWeighted(3).differentiable_loss(model, guide, x).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def gradients(estimator, repeats, copies):
    """Mean and standard error of each parameter's gradient, the same pair and datum."""
    torch.manual_seed(5)
    model, guide = vamp_vae(x_dim=2, z_dim=2, count=3)
    model.double()
    x = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(copies, 2)
    rows = []
    with isolated(model, guide, seed=11 + sum(map(ord, str(estimator))), train=True):
        bound = ELBO(estimator=estimator) if estimator != "dreg" else ELBO(2, estimator="dreg")
        for _ in range(repeats):
            loss = bound.differentiable_loss(model, guide, x) / copies
            rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]))
    rows = torch.stack(rows)
    return rows.mean(0), rows.std(0) / repeats**0.5


@pytest.mark.stochastic
@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_estimators_agree_on_an_encoder_in_two_roles(estimator):
    plain, error = gradients(None, 60, 500)
    other, other_error = gradients(estimator, 60, 500)
    assert error.max() < 0.02 and plain.abs().max() > 0.2
    assert ((plain - other).abs() < 4.5 * (error**2 + other_error**2).sqrt() + 1e-12).all()


def test_the_gradient_is_the_derivative_of_the_value():
    """Along a random direction through every parameter, by central differences at one seed: no role is dropped."""
    model, guide = vamp_vae(2, 2, 3)
    model.double()
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(B, 2)
    parameters = list(model.parameters())
    direction = [torch.randn_like(p) for p in parameters]

    def loss():
        with isolated(model, guide, seed=1):
            return ImportanceWeighted(3).differentiable_loss(model, guide, x)

    grads = torch.autograd.grad(loss(), parameters)
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True)).item()
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(1e-6 * sign * d)
            ends.append(loss().item())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("kind", [MarkovHVAE, DenseHVAE])
def test_top_layer_of_a_hierarchy(kind):
    """With a ladder, the evidence at the top is the component's own encoder: same numbers, and every parameter trained."""
    encoder = Encoder(X, (4, 2), (8, 6))
    model = kind(X, (4, 2), (8, 6), top=VampPrior(encoder, torch.rand(K, X), "z2"))
    guide = Ladder(model, model.top.encode)
    x = torch.bernoulli(torch.full((B, X), 0.5))
    check_pair(model, guide, x)
    terms = ELBO(3).terms(model, guide, x)
    torch.testing.assert_close(terms.log_q["z2"], encoder(x)["z2"].log_prob(terms.values["z2"]))
    torch.testing.assert_close(terms.log_p["z2"], model.top(x).log_prob(terms.values["z2"]))
    terms.log_w.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_default_top_is_the_standard_normal_bit_for_bit():
    for model in (
        VAE(X, Z, (6,)),
        GaussianVAE(X, Z, (6,)),
        MarkovHVAE(X, (4, Z), (8, 6)),
        DenseHVAE(X, (4, Z), (8, 6)),
    ):
        assert not any(name.startswith("top") for name in model.state_dict())
        guide = Amortized(model, Encoder(X, model.z_dims, tuple((6,) for _ in model.z_dims)))
        terms = ELBO(2).terms(model, guide, torch.ones(B, X))
        top = f"z{len(model.z_dims)}"
        assert torch.equal(terms.log_p[top], dist.Normal(0.0, 1.0).log_prob(terms.values[top]).sum(-1))


def test_what_does_not_fit_is_refused_by_name():
    encoder = Encoder(X, (Z,), ((6,),))
    x = torch.ones(B, X)
    with pytest.raises(ValueError, match=r"answers for \['z1'\], not for site 'z2'"):
        VampPrior(encoder, torch.rand(K, X), "z2")(x)
    with pytest.raises(ValueError, match=r"VampPrior has event shape \(3,\); the layer has 2"):
        VAE(X, 2, (6,), top=VampPrior(encoder, torch.rand(K, X), "z1"))(x)
    with pytest.raises(ValueError, match=r"batch shape \(4, 3\) for 4 pseudo-inputs"):
        VampPrior(lambda u: dist.Normal(u[:, :3], 1.0), torch.rand(K, X))(x)
    with pytest.raises(ValueError, match=r"shape \(K, x_dim\)"):
        VampPrior(encoder, torch.rand(X))
    with pytest.raises(ValueError, match="low < high"):
        VampPrior(encoder, torch.rand(K, X), bounds=(1.0, 0.0))
