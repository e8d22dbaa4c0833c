"""With linear networks the deep Markov model is the linear state space, whose answers the Kalman filter knows."""

import math

import pytest
import torch
from pyro import poutine

from pyrarchy.guides import Exact, StructuredChain
from pyrarchy.inference import ImportanceWeighted, check_pair, evaluate, fit
from pyrarchy.zoo import DeepMarkov, LinearStateSpace

T, K, B = 5, 2, 3


def raw(scale):
    return scale + torch.log(-torch.expm1(-scale))


def linear_pair(seed=0):
    """A deep Markov model with its gate shut and linear heads, and the linear state space of the same density."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        deep, linear = DeepMarkov(K, 7, ()).double(), LinearStateSpace(T, K, 0.4, 1.0).double()
    linear.raw_noise.data = torch.diag(linear.raw_noise.data.diagonal())
    s, step, head = linear.system(), deep.transition, deep.emission[1]
    with torch.no_grad():
        step.gate[-1].weight.zero_(), step.gate[-1].bias.fill_(-1e4)
        step.linear.weight.copy_(s.transition)
        step.raw_scale.weight.zero_(), step.raw_scale.bias.copy_(raw(s.noise_tril.diagonal() - step.floor))
        head.loc.weight.copy_(s.loading[None]), head.loc.bias.fill_(s.offset)
        head.raw_scale.weight.zero_(), head.raw_scale.bias.fill_(raw(s.scale - head.floor))
    return deep, linear


def data():
    return torch.randn(B, T, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.5


def test_linear_networks_give_the_linear_density():
    deep, linear = linear_pair()
    x, z = data(), torch.randn(B, T, K, dtype=torch.float64)
    given = {f"z{t + 1}": z[:, t] for t in range(T)}
    scores = [poutine.trace(poutine.condition(m, given)).get_trace(x).log_prob_sum() for m in (deep, linear)]
    assert scores[0].item() == pytest.approx(scores[1].item(), abs=1e-9)


def test_the_kalman_answer_is_reached_by_importance_weights_and_by_the_exact_guide():
    deep, linear = linear_pair()
    x = data()
    exact = linear.log_marginal(x).detach()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        guide = StructuredChain(deep, K, 8).double()
    only_guide = lambda _: torch.optim.Adam(guide.parameters(), 5e-2)  # noqa: E731
    fit(deep, guide, x, optimizer=only_guide, steps=80, schedule=lambda step: 1 - step / 80)
    num = 6000
    found = evaluate(deep, guide, x, num_samples=num)
    error = torch.from_numpy(1 / found.ess - 1 / num).sqrt()
    assert ((torch.from_numpy(found.log_p) - exact).abs() < 4.5 * error).all() and error.max() < 0.05
    deep.posterior = linear.posterior  # the same density, so the same posterior
    log_w = ImportanceWeighted(3).terms(deep, Exact(deep), x).log_w
    torch.testing.assert_close(log_w, exact.expand(3, B), rtol=0, atol=1e-9)


@pytest.mark.stochastic
def test_one_step_by_quadrature():
    """T = 2, K = 1, curved: log p(x) over a grid of z1 and z2, against importance weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = DeepMarkov(1, 6, (5,)).double()
        guide = StructuredChain(model, 1, 6).double()
        guide.head.raw_scale.bias.data.fill_(1.5)  # wide: weights without heavy tails
    x = data()[:, :2]
    z = torch.linspace(-9, 9, 801, dtype=torch.float64)[:, None]
    width = (z[1] - z[0]).item()
    log_1 = -0.5 * (z[:, 0] ** 2 + math.log(2 * math.pi))
    log_2 = model.transition(z[:, None]).log_prob(z)  # (801 of z1, 801 of z2)
    seen = model.emission(z).base_dist
    log_x = torch.distributions.Normal(seen.loc, seen.scale).log_prob(x.mT[:, None])  # (2, 801, B)
    total = log_1[:, None, None] + log_2[..., None] + log_x[0][:, None] + log_x[1]
    exact = total.flatten(0, 1).logsumexp(0) + 2 * math.log(width)
    found = evaluate(model, guide, x, num_samples=20_000)
    error = torch.from_numpy(found.ess) ** -0.5
    assert ((torch.from_numpy(found.log_p) - exact.detach()).abs() < 4.5 * error).all() and error.max() < 0.1


def test_particles_stand_left_and_rows_apart():
    model = DeepMarkov(K, 6, (5,))
    check_pair(model, StructuredChain(model, K, 6), data().float())
