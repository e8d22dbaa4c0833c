"""Two curved targets with known densities: no data, so that minus the ELBO of a guide is its KL(q || p)."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from pyrarchy.inference import ELBO, fit, isolated

# the best diagonal Gaussians' KL; test_flow_targets.py checks them
BEST_MEAN_FIELD = {"banana": 0.6072, "funnel": 0.3769}


def banana():
    z1 = pyro.sample("z1", dist.Normal(0.0, 1.5))
    pyro.sample("z2", dist.Normal(0.5 * (z1**2 - 2.25), 0.5))


def funnel():
    z1 = pyro.sample("z1", dist.Normal(0.0, 1.5))
    pyro.sample("z2", dist.Normal(0.0, (z1 / 2).exp()))


def best_mean_field(target, points=200):
    """The least KL(q || p) of a diagonal Gaussian q: Gauss-Hermite nodes, then a search over its four parameters."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    kept = weights > 1e-200
    e, w = torch.tensor(nodes[kept]), torch.tensor(weights[kept] / weights.sum())
    raw = torch.tensor([0.1, 0.0, 0.1, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([raw], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def kl():
        optimiser.zero_grad()
        m1, a1, m2, a2 = raw
        z1 = m1 + a1.exp() * e
        if target is banana:
            mean, log_scale = 0.5 * (z1**2 - 2.25), torch.full_like(z1, math.log(0.5))
        else:
            mean, log_scale = torch.zeros_like(z1), z1 / 2
        # E over z2 of its log density in closed form, given z1
        second = ((m2 - mean) ** 2 + (2 * a2).exp()) / (2 * log_scale).exp()
        log_p = -math.log(1.5) - 0.5 * (z1 / 1.5) ** 2 - log_scale - 0.5 * second
        value = -(a1 + a2) - 1 - (w * log_p).sum()  # the two 0.5 log 2 pi of entropy and density cancel
        value.backward()
        return value

    optimiser.step(kl)
    return kl().item()


def fitted_kl(target, guide, steps=800, lr=1e-2, particles=64, seed=0):
    """Fit a guide and give KL(q || p) with its standard error."""
    fit(target, guide, (), objective=ELBO(particles), optimizer=lr, steps=steps, seed=seed,
        schedule=lambda t: 0.02 + 0.49 * (1 + math.cos(math.pi * t / steps)))  # fmt: skip
    n = 100_000
    with isolated(target, guide, seed=1), torch.no_grad():
        gap = -ELBO(n).terms(target, guide).log_w.squeeze(-1)
    return gap.mean().item(), (gap.std() / n**0.5).item()
