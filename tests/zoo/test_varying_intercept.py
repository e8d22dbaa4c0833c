"""Radon in Minnesota: given the two scales all else is Gaussian, so two dimensions of quadrature are the truth."""

import math
from functools import cache

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

import pyrarchy
from pyrarchy.guides import MeanField, Structured
from pyrarchy.inference import ELBO, evaluate, fit, isolated
from pyrarchy.inference.terms import trace_pair
from pyrarchy.zoo import VaryingIntercept

DATA = tuple(torch.from_numpy(part) for part in pyrarchy.load_data("radon").train)
J = 85


@cache
def exact(size=(41, 61), rows=None):
    """log Z, and (mean, sd) of gamma, beta, both log sigmas and each alpha, by the trapezoidal rule over the log sigmas."""
    y, x, group, u = (part.double().numpy()[:rows] for part in DATA)
    group = group.astype(int)
    groups = group.max() + 1
    u_group = np.array([u[group == j][0] for j in range(groups)])
    design = np.column_stack([np.ones(len(y)), u, x, np.eye(groups)[group]])
    gram, moment, square = design.T @ design, design.T @ y, y @ y
    reach = ((-0.6, 0.1), (-8.0, 0.2)) if rows is None else ((-4.0, 1.6), (-8.0, 1.6))
    log_y, log_alpha = (np.linspace(*r, n) for r, n in zip(reach, size, strict=True))
    log_p, means, squares = np.empty(size), {}, {}
    for i, s_y in enumerate(np.exp(log_y)):
        for k, s_alpha in enumerate(np.exp(log_alpha)):
            scale = np.array([2.0, 2, 2, *[s_alpha] * groups])
            inner = np.eye(groups + 3) + scale[:, None] * gram * scale / s_y**2
            root = np.linalg.cholesky(inner)
            half = np.linalg.solve(root, scale * moment / s_y**2)
            log_p[i, k] = 0.5 * half @ half - np.log(root.diagonal()).sum() - 0.5 * square / s_y**2
            log_p[i, k] -= len(y) * (log_y[i] + 0.5 * math.log(2 * math.pi))
            log_p[i, k] += math.log(2 / math.pi) - 0.5 * (s_y**2 + s_alpha**2) + log_y[i] + log_alpha[k]
            mean = scale * np.linalg.solve(root.T, half)
            cov = scale[:, None] * np.linalg.inv(inner) * scale
            turn = np.zeros((groups + 3, groups + 3))  # gamma, beta and alpha from gamma, beta and the deviations
            turn[:3, :3] = turn[3:, 3:] = 0
            turn[:3, :3], turn[3:, 3:] = np.eye(3), np.eye(groups)
            turn[3:, 0], turn[3:, 1] = 1, u_group
            means[i, k] = turn @ mean
            squares[i, k] = ((turn @ cov) * turn).sum(1) + means[i, k] ** 2
    weight = np.exp(log_p - log_p.max())
    cell = (log_y[1] - log_y[0]) * (log_alpha[1] - log_alpha[0])
    log_z = math.log(weight.sum() * cell) + log_p.max()
    weight /= weight.sum()
    first = sum(weight[key] * value for key, value in means.items())
    sd = np.sqrt(sum(weight[key] * value for key, value in squares.items()) - first**2)
    out = {"log_z": log_z, "gamma": (first[:2], sd[:2]), "beta": (first[2], sd[2]), "alpha": (first[3:], sd[3:])}
    for name, grid in (("log_sigma_y", log_y[:, None]), ("log_sigma_alpha", log_alpha[None])):
        m = (weight * grid).sum()
        out[name] = (m, math.sqrt((weight * grid**2).sum() - m**2))
    return out


@pytest.mark.stochastic
def test_quadrature_agrees_with_a_coarser_grid_and_with_the_dense_marginal():
    assert exact()["log_z"] == pytest.approx(exact((21, 31))["log_z"], abs=2e-3)
    assert exact()["alpha"][0] == pytest.approx(exact((21, 31))["alpha"][0], abs=1e-3)
    # The same integral for six rows of two counties by Monte Carlo over the prior of the scales, densely.
    rng, draws = np.random.default_rng(0), 4000
    y, x, group, u = (part.double().numpy()[:6] for part in DATA)
    same = group[:, None] == group
    fixed = 4 * (1 + np.outer(u, u) + np.outer(x, x))
    values = []
    for s_y, s_alpha in np.abs(rng.normal(size=(draws, 2))):
        cov = fixed + s_alpha**2 * same + s_y**2 * np.eye(6)
        values.append(math.exp(-0.5 * (y @ np.linalg.solve(cov, y) + np.linalg.slogdet(2 * math.pi * cov)[1])))
    by_hand, error = np.mean(values), np.std(values) / draws**0.5
    assert math.exp(exact((81, 81), rows=6)["log_z"]) == pytest.approx(by_hand, abs=4 * error)


@pytest.mark.stochastic
def test_log_joint_is_the_one_written_by_hand():
    y, x, group, u = DATA
    epsilon = torch.linspace(-2, 2, J)
    given = {"gamma": torch.tensor([1.4, 0.7]), "beta": torch.tensor(-0.6), "sigma_alpha": torch.tensor(0.3)}
    given |= {"sigma_y": torch.tensor(0.8), "epsilon": epsilon}
    trace = poutine.trace(poutine.condition(VaryingIntercept(J), given)).get_trace(*DATA)
    mean = 1.4 + 0.7 * u + 0.3 * epsilon[group] - 0.6 * x
    prior = dist.Normal(0.0, 2.0).log_prob(torch.tensor([1.4, 0.7, -0.6])).sum()
    prior = prior + dist.HalfNormal(1.0).log_prob(torch.tensor([0.3, 0.8])).sum()
    by_hand = prior + dist.Normal(0.0, 1.0).log_prob(epsilon).sum() + dist.Normal(mean, 0.8).log_prob(y).sum()
    torch.testing.assert_close(trace.log_prob_sum(), by_hand)
    # A subsample of rows is scaled up to all of them, and the counties stay whole; in evaluation there is none.
    part = VaryingIntercept(J, subsample_size=100)
    trace = poutine.trace(poutine.condition(part.eval(), given)).get_trace(*DATA)
    torch.testing.assert_close(trace.log_prob_sum(), by_hand)
    part.train()
    draws = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(300):
            trace = poutine.trace(poutine.condition(part, given)).get_trace(*DATA)
            assert trace.nodes["y"]["value"].shape == (100,)
            draws.append(trace.log_prob_sum().item())
    assert np.mean(draws) == pytest.approx(by_hand.item(), abs=4 * np.std(draws) / 300**0.5)


def train(model, guide, objective, steps, rate):
    fit(model, guide, DATA, objective=objective, optimizer=rate, steps=steps,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))  # fmt: skip
    return guide


def standard_errors(model, guide, draws=4000):
    """Largest error of a posterior mean in exact sd, by site; subsampled rows do not matter to the latents."""
    with isolated(model, guide, seed=3), torch.no_grad():
        trace = trace_pair(model, guide, DATA, num_particles=draws)[0]
    out = {}
    for name in ("gamma", "beta", "alpha"):
        value = trace.nodes[name]["value"].double().reshape(draws, -1).mean(0).numpy()
        out[name] = float(np.abs((value - exact()[name][0]) / exact()[name][1]).max())
    for name in ("sigma_y", "sigma_alpha"):
        mean, sd = exact()[f"log_{name}"]
        out[name] = abs(trace.nodes[name]["value"].double().log().mean().item() - mean) / sd
    return out


def test_structured_guide_finds_coefficients_and_intercepts():
    model = VaryingIntercept(J)
    guide = train(model, Structured(model, *DATA), ELBO(4), 600, 0.05)
    errors = standard_errors(model, guide)
    assert errors["alpha"] < 0.25 and errors["beta"] < 0.15 and errors["gamma"] < 0.25 and errors["sigma_y"] < 0.2
    found = evaluate(model, guide, DATA, num_samples=2000, rows_per_pass=1000)
    assert 0 < exact()["log_z"] - found.mean_elbo < 2.5


@pytest.mark.slow
def test_batches_of_rows_come_near_the_posterior_of_all_rows():
    model = VaryingIntercept(J, subsample_size=100)
    guide = Structured(model, *DATA)
    objective = Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=1)
    errors = standard_errors(model, train(model, guide, objective, 1200, 0.03))
    # Posterior sd; measured .44, .28, .27, .48, .12: the noise of batches is what 1200 steps leave.
    assert max(errors.values()) < 0.7, errors
    found = evaluate(model, guide, DATA, num_samples=2000, rows_per_pass=1000)
    assert 0 < exact()["log_z"] - found.mean_elbo < 6  # in evaluation all rows are taken


def test_misuse_is_named():
    y, x, group, u = DATA
    with pytest.raises(ValueError, match=r"'epsilon'.*made for 85 groups.*of 2, numbered up to 1:"):
        VaryingIntercept(J)(y[:20], x[:20], group[:20], u[:20])
    with pytest.raises(ValueError, match=r"'epsilon'.*made for 80 groups"):
        VaryingIntercept(80)(*DATA)
    with pytest.raises(ValueError, match=r"'y'.*'x': \(918,\)"):
        VaryingIntercept(J)(y, x[1:], group, u)
    guide = MeanField(VaryingIntercept(J), *DATA)
    other = VaryingIntercept(J)
    with pytest.raises(ValueError, match="another model"):
        ELBO().value(other, guide, *DATA)
    subsampled = VaryingIntercept(J, subsample_size=100)
    with pytest.raises(ValueError, match=r"'y'.*subsampled plate 'house'.*Trace_ELBO"):
        ELBO().value(subsampled, MeanField(subsampled, *DATA), *DATA)
