"""The flow prior's density against the Jacobian of its map, by autograd; both directions agree."""

import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import ELBO, check_pair
from pyrarchy.zoo import VAE, FlowPrior

DIM, X, B = 4, 6, 5


def stirred(dim=DIM, steps=3):
    prior = FlowPrior(dim, steps, (9,)).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return prior


def test_density_by_the_jacobian():
    prior, z = stirred(), torch.randn(B, DIM, dtype=torch.float64)

    def whiten(v):
        for step in prior.steps:
            v = step(v)
        return v

    jacobian = torch.stack([torch.autograd.functional.jacobian(whiten, row) for row in z])
    by_hand = dist.Normal(0.0, 1.0).log_prob(whiten(z)).sum(-1) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(prior(z).log_prob(z), by_hand)
    assert (by_hand - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)).abs().min() > 0.05  # the flow does something


def test_density_is_normalised():
    prior = stirred(dim=2, steps=2)
    axis = torch.linspace(-40, 40, 1601, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        density = prior(axis).log_prob(grid).exp()
    total = torch.trapezoid(torch.trapezoid(density, axis), axis)
    assert total.item() == pytest.approx(1.0, abs=2e-4)


def test_samples_are_scored_as_foreign_values_are():
    prior = stirred()
    q = prior(torch.zeros(1, dtype=torch.float64))
    z = q.sample((B, 3))
    assert z.shape == (B, 3, DIM) and z.dtype == torch.float64
    torch.testing.assert_close(q.log_prob(z), prior(z).log_prob(z.clone()))
    eps = z
    for step in prior.steps:
        eps = step(eps.clone())
    back = q.base_dist.log_prob(eps)
    assert back.isfinite().all() and (eps.abs() < 6).all()


@pytest.mark.stochastic
def test_samples_have_the_density():
    """E_p[r(z) / p(z)] = 1 for a normalised r: sampling and scoring are of one distribution."""
    prior = stirred(steps=2)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(0.3)
        q = prior(torch.zeros(1, dtype=torch.float64))
        z = q.sample((20_000,))
        ratio = (dist.Normal(0.0, 0.7).log_prob(z).sum(-1) - q.log_prob(z.clone())).exp()
    error = ratio.std().item() / 20_000**0.5
    assert error < 0.03
    assert abs(ratio.mean().item() - 1) < 4.5 * error


def test_in_a_vae_every_parameter_is_trained():
    model = VAE(X, DIM, (7,), top=FlowPrior(DIM, 2, (8,)))
    guide = Amortized(model, Encoder(X, (DIM,), ((7,),)))
    x = torch.bernoulli(torch.full((B, X), 0.5))
    check_pair(model, guide, x)
    terms = ELBO(3).terms(model, guide, x)
    torch.testing.assert_close(terms.log_p["z1"], model.top(x).log_prob(terms.values["z1"].clone()))
    terms.log_w.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in (*model.parameters(), *guide.parameters()))


def test_one_step_is_a_flow_too():
    assert len(stirred(steps=1).steps) == 1


def test_refusals():
    with pytest.raises(ValueError, match="dim >= 2"):
        FlowPrior(1)
    with pytest.raises(ValueError, match="at least one step"):
        FlowPrior(3, steps=0)
    with pytest.raises(ValueError, match="at least dim = 9"):
        FlowPrior(9, hidden=(8,))
