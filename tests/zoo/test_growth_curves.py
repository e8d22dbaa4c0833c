"""Rats: at equal, centred ages lines reduce to means and slopes, so quadrature over the three scales is exact."""

import math
from functools import cache

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrarchy
from pyrarchy.guides import Structured
from pyrarchy.inference import ELBO, evaluate, fit, isolated
from pyrarchy.inference.terms import trace_pair
from pyrarchy.zoo import GrowthCurves

DATA = tuple(torch.from_numpy(part) for part in pyrarchy.load_data("rats").train)


def normal(value, mean, variance):
    return -0.5 * (value - mean) ** 2 / variance - 0.5 * np.log(2 * math.pi * variance)


def population(estimates, variance, prior, prior_scale, sigmas):
    """One kind of coefficient, for one variance of its estimates, on a grid of population scales.

    Returns log p(estimates, sigma), and mean and variance of mu and of each coefficient given sigma.
    """
    (loc, scale), n = prior, len(estimates)
    total = sigmas**2 + variance
    mean, spread = estimates.mean(), ((estimates - estimates.mean()) ** 2).sum()
    # n observations of mu with variance `total`: their mean, and what is left
    log_p = -0.5 * (n - 1) * np.log(2 * math.pi * total) - 0.5 * spread / total - 0.5 * math.log(n)
    log_p = log_p + normal(mean, loc, total / n + scale**2)
    log_p = log_p + math.log(2) + normal(sigmas, 0, prior_scale**2)
    mu_var = 1 / (n / total + 1 / scale**2)
    mu_mean = mu_var * (n * mean / total + loc / scale**2)
    keep = variance / total  # weight of mu in a coefficient
    each_mean = keep[:, None] * mu_mean[:, None] + (1 - keep)[:, None] * estimates
    each_var = (sigmas**2 * keep + keep**2 * mu_var)[:, None] + np.zeros(n)
    return log_p, (mu_mean, mu_var), (each_mean, each_var)


@cache
def exact(size=401):
    weight, age = (part.double().numpy() for part in DATA)
    d = age[0] - 22
    means, slopes = weight.mean(1), weight @ d / (d @ d)
    rss = ((weight - means[:, None] - slopes[:, None] * d) ** 2).sum()
    sigma_y = np.exp(np.linspace(math.log(4.0), math.log(9.5), 81))
    grids = [np.linspace(1e-3, top, size) for top in (40.0, 1.6)]
    log_z, out, log_parts = [], {}, []
    for s_y in sigma_y:
        log_p = -1.5 * 30 * math.log(2 * math.pi * s_y**2) - 0.5 * rss / s_y**2 - 15 * math.log(5 * (d @ d))
        log_p += math.log(2) + normal(s_y, 0, 20.0**2) + math.log(s_y)
        moments = {}
        for key, values, share, prior, prior_scale, grid in (
            ("alpha", means, 5, (250.0, 100.0), 50.0, grids[0]),
            ("beta", slopes, d @ d, (6.0, 5.0), 2.0, grids[1]),
        ):
            table, mu, each = population(values, s_y**2 / share, prior, prior_scale, grid)
            w = np.exp(table - table.max())
            log_p += math.log(w.sum() * (grid[1] - grid[0])) + table.max()
            w /= w.sum()
            moments[f"mu_{key}"] = (w @ mu[0], w @ (mu[1] + mu[0] ** 2))
            moments[key] = (w @ each[0], w @ (each[1] + each[0] ** 2))
            moments[f"sigma_{key}"] = (w @ grid, w @ grid**2)
        log_z.append(log_p)
        log_parts.append(moments | {"sigma_weight": (s_y, s_y**2)})
    log_z = np.array(log_z)
    w = np.exp(log_z - log_z.max())
    out["log_z"] = math.log(w.sum() * math.log(sigma_y[1] / sigma_y[0])) + log_z.max()
    w /= w.sum()
    for name in log_parts[0]:
        first = sum(a * part[name][0] for a, part in zip(w, log_parts, strict=True))
        second = sum(a * part[name][1] for a, part in zip(w, log_parts, strict=True))
        out[name] = (first, np.sqrt(second - first**2))
    return out


def log_joint(**values):
    given = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
    return poutine.trace(poutine.condition(GrowthCurves(), given)).get_trace(*DATA).log_prob_sum().item()


def test_quadrature_agrees_with_a_coarser_grid_and_with_the_published_posterior():
    assert exact()["log_z"] == pytest.approx(exact(201)["log_z"], abs=1e-6)
    # BUGS's example, under vague priors: intercept at age 0 106.6, slope 6.19 +- 0.11, sigma 6.1 +- 0.5.
    assert exact()["mu_alpha"][0] - 22 * exact()["mu_beta"][0] == pytest.approx(106.6, abs=0.1)
    assert exact()["mu_beta"] == pytest.approx((6.19, 0.11), abs=0.01)
    assert exact()["sigma_weight"] == pytest.approx((6.1, 0.46), abs=0.05)


def test_log_joint_is_the_one_written_by_hand_and_its_gaussian_integral_is_the_quadrature_s():
    weight, age = DATA
    alpha, beta = torch.linspace(215, 270, 30), torch.linspace(5.2, 7.0, 30)
    at = {"mu_alpha": 240.0, "mu_beta": 6.1, "sigma_alpha": 13.0, "sigma_beta": 0.4, "sigma_weight": 5.5}
    by_hand = (
        dist.Normal(250.0, 100.0).log_prob(torch.tensor(240.0))
        + dist.Normal(6.0, 5.0).log_prob(torch.tensor(6.1))
        + sum(dist.HalfNormal(s).log_prob(torch.tensor(v)) for s, v in ((50.0, 13.0), (2.0, 0.4), (20.0, 5.5)))
        + dist.Normal(240.0, 13.0).log_prob(alpha).sum()
        + dist.Normal(6.1, 0.4).log_prob(beta).sum()
        + dist.Normal(alpha[:, None] + beta[:, None] * (age - 22), 5.5).log_prob(weight).sum()
    )
    assert log_joint(**at, alpha=alpha, beta=beta) == pytest.approx(by_hand.item(), rel=1e-5)
    # log p(y | mu, sigma) = log joint - log p(coefficients | y, mu, sigma), and `population` at one sigma the same way
    d, values = (age[0] - 22).double(), weight.double()
    means, slopes = values.mean(1), values @ d / (d @ d)
    for estimates, variance, prior in ((means, 5.5**2 / 5, (250.0, 100.0)), (slopes, 5.5**2 / 490, (6.0, 5.0))):
        sigma = np.array([0.7])
        table = population(estimates.numpy(), variance, prior, 3.0, sigma)[0][0]
        cov = (0.7**2 + variance) * torch.eye(30).double() + prior[1] ** 2 * torch.ones(30, 30).double()
        dense = dist.MultivariateNormal(torch.full((30,), prior[0]).double(), cov).log_prob(estimates).item()
        assert table - math.log(2) - normal(0.7, 0, 9.0) == pytest.approx(dense, abs=1e-6)


def train(steps, rate, particles):
    model = GrowthCurves()
    guide = Structured(model, *DATA)
    fit(model, guide, DATA, objective=ELBO(particles), optimizer=rate, steps=steps,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))  # fmt: skip
    return model, guide


def errors(model, guide, draws=10_000):
    with isolated(model, guide, seed=3), torch.no_grad():
        trace = trace_pair(model, guide, DATA, num_particles=draws)[0]
    out = {}
    for name in ("mu_alpha", "mu_beta", "alpha", "beta", "sigma_weight", "sigma_alpha", "sigma_beta"):
        value = trace.nodes[name]["value"].double().reshape(draws, -1).mean(0).numpy()
        out[name] = float(np.abs((value - exact()[name][0]) / exact()[name][1]).max())
    return out


@pytest.mark.slow
def test_structured_guide_with_the_defaults_of_its_row():
    model, guide = train(3000, 0.05, 16)
    found = evaluate(model, guide, DATA, num_samples=20_000, rows_per_pass=10_000)
    assert -0.05 < exact()["log_z"] - found.mean_elbo < 1.5
    assert max(errors(model, guide).values()) < 0.3


def test_misuse_is_named():
    weight, age = DATA
    with pytest.raises(ValueError, match=r"'weight'.*\(30, 5\).*\(30, 4\)"):
        GrowthCurves()(weight, age[:, :4])
    guide = Structured(GrowthCurves(), *DATA)
    with pytest.raises(ValueError, match=r"'alpha'.*plate 'rat' of size 7.*size of 30"):
        guide(weight[:7], age[:7])
