"""The flow's density against the Jacobian of its own map, by autograd."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import IAF, Encoder
from pyrarchy.guides.iaf import GatedFlow
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair, fit
from pyrarchy.zoo import MarkovHVAE

D, C, B = 3, 2, 4


def flow(steps):
    made = GatedFlow(D, C, steps=steps, hidden=(7,))
    with torch.no_grad():  # away from the near-identity start
        for p in made.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return made


def push(made, eps, context):
    for step in made.steps:
        eps = step.condition(context)(eps)
    return eps


@pytest.mark.parametrize("shape", [(), (B,), (5, B)], ids=["one", "batch", "particles"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_density_is_the_bases_over_the_jacobian(steps, shape):
    made, context = flow(steps), torch.randn(*shape[-1:], C)
    base = dist.Normal(torch.randn(D), torch.rand(D) + 0.3).to_event(1)
    q = made(base.expand(shape), context)
    assert q.event_shape == (D,)
    pyro.set_rng_seed(1)
    z = q.rsample()
    pyro.set_rng_seed(1)
    eps = base.expand(shape).rsample()
    torch.testing.assert_close(push(made, eps, context), z)
    got, foreign = q.log_prob(z), q.log_prob(z.view_as(z))
    assert got.shape == shape
    contexts = context.expand(*shape, C).reshape(-1, C)
    for i, (e, c) in enumerate(zip(eps.reshape(-1, D), contexts, strict=True)):
        jacobian = torch.autograd.functional.jacobian(lambda v, c=c: push(made, v, c), e)
        expected = base.log_prob(e) - torch.linalg.slogdet(jacobian)[1]
        assert got.flatten()[i].item() == pytest.approx(expected.item(), abs=1e-4)
    torch.testing.assert_close(foreign, got, rtol=1e-4, atol=1e-4)
    fresh = made(base.expand(shape), context).log_prob(z.detach().clone())
    torch.testing.assert_close(fresh, got, rtol=1e-4, atol=1e-4)


def test_the_order_is_reversed_between_steps():
    """The Jacobian of one step is triangular; the next step's is triangular the other way."""
    made, context = flow(3), torch.randn(C)
    for i, step in enumerate(made.steps):
        at = step.condition(context)
        jacobian = sum(torch.autograd.functional.jacobian(at, torch.randn(D)).abs() for _ in range(20))
        zero, full = (jacobian.triu(1), jacobian.tril(-1)) if i % 2 == 0 else (jacobian.tril(-1), jacobian.triu(1))
        assert (zero == 0).all() and (full[full != 0].numel() == D * (D - 1) // 2)


def test_a_step_is_the_papers_gate():
    made, context, z = flow(1), torch.randn(C), torch.randn(D)
    step = made.steps[0].condition(context)
    m, s = step.arn(z)
    gate = torch.sigmoid(s + 1.5)
    torch.testing.assert_close(step(z), gate * z + (1 - gate) * m)


def pair(steps=2):
    model = MarkovHVAE(6, z_dims=(3, 2), hidden=(7, 5))
    return model, IAF(model, Encoder(6, z_dims=(3, 2), hidden=(7, 5)), steps=steps, hidden=(8,))


@pytest.mark.parametrize("k", [1, B, 5])
def test_the_guides_table_holds_the_flows_own_density(k):
    model, guide = pair()
    x = torch.bernoulli(torch.full((B, 6), 0.5))
    terms = ELBO(k).terms(model, guide, x)
    features = guide.encoder.features(x)
    for i, (head, h) in enumerate(zip(guide.encoder.heads, features, strict=True), 1):
        z = terms.values[f"z{i}"].reshape(k, B, -1).detach().clone()
        density = guide.flows[f"z{i}"](head(h).expand((k, B)), h).log_prob(z)
        torch.testing.assert_close(terms.log_q[f"z{i}"], density, rtol=1e-4, atol=1e-3)


def test_every_parameter_gets_a_gradient_and_trains():
    model, guide = pair(3)
    x = torch.bernoulli(torch.full((B, 6), 0.5))
    check_pair(model, guide, x, objective=ImportanceWeighted(3))
    ImportanceWeighted(3).differentiable_loss(model, guide, x).backward()
    still = [n for n, p in guide.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    before = [p.clone() for p in guide.parameters()]
    fit(model, guide, x, steps=2)
    assert not any(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="at least one step"):
        GatedFlow(D, C, steps=0)


def test_double_precision_survives_a_foreign_value():
    made = flow(2).double()
    base = dist.Normal(torch.zeros(B, D, dtype=torch.float64), 1.0).to_event(1)
    context = torch.randn(B, C, dtype=torch.float64)
    q = made(base, context)
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z.view_as(z)), q.log_prob(z), rtol=1e-9, atol=1e-9)


def test_the_gradient_is_the_derivative_of_the_value():
    """Along a random direction through every parameter, by central differences at one seed: no path is cut."""
    model, guide = (m.double() for m in pair())
    x = torch.bernoulli(torch.full((B, 6), 0.5)).double()
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
