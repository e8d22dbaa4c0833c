"""Curved targets: four inverse autoregressive steps come near them where no diagonal Gaussian can."""

import importlib.util
from pathlib import Path

import pyro
import pytest
import torch

from pyrarchy.guides import JointIAF
from pyrarchy.inference import ELBO, isolated

_spec = importlib.util.spec_from_file_location("flow_targets", Path(__file__).with_name("flow_targets.py"))
targets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(targets)
TARGETS = (targets.banana, targets.funnel)


def by_name(target):
    return target.__name__


@pytest.mark.parametrize("target", TARGETS, ids=by_name)
def test_the_best_diagonal_gaussian(target):
    best = targets.best_mean_field(target)
    assert best == pytest.approx(targets.BEST_MEAN_FIELD[target.__name__], abs=1e-4)
    assert targets.best_mean_field(target, points=60) == pytest.approx(best, abs=1e-6)


@pytest.mark.stochastic
def test_the_closed_form_is_the_sampled_kl():
    """At a diagonal Gaussian of no merit, the quadrature's KL is what a fit's grade would say."""
    import pyro.distributions as dist

    class Diagonal(pyro.nn.PyroModule):
        def forward(self):
            pyro.sample("z1", dist.Normal(0.2, 0.7))
            pyro.sample("z2", dist.Normal(-0.3, 0.6))

    n = 100_000
    e = torch.randn(n, 2).double()
    for target in TARGETS:
        with isolated(target, Diagonal("guide"), seed=1), torch.no_grad():
            gap = -ELBO(n).terms(target, Diagonal("guide")).log_w.squeeze(-1)
        z1, z2 = 0.2 + 0.7 * e[:, 0], -0.3 + 0.6 * e[:, 1]
        mean, scale = (0.5 * (z1**2 - 2.25), 0.5) if target is targets.banana else (0.0, (z1 / 2).exp())
        log_p = dist.Normal(0.0, 1.5).log_prob(z1) + dist.Normal(mean, scale).log_prob(z2)
        log_q = dist.Normal(0.2, 0.7).log_prob(z1) + dist.Normal(-0.3, 0.6).log_prob(z2)
        error = (2 * gap.var() / n) ** 0.5
        assert abs(gap.mean() - (log_q - log_p).mean()) < 4.5 * error


@pytest.mark.parametrize("target", TARGETS, ids=by_name)
def test_four_steps_reach_the_target(target):
    pyro.set_rng_seed(0)
    kl, error = targets.fitted_kl(target, JointIAF(target, flow_steps=4))
    assert error < 0.002 and -4 * error < kl < 0.05
