"""Eight schools against two-dimensional quadrature: the model, the bounds' log Z, and how near each guide comes."""

import math
from functools import cache

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyrarchy.guides.full_rank import FullRank
from pyrarchy.guides.joint_iaf import JointIAF
from pyrarchy.guides.mean_field import MeanField
from pyrarchy.inference import ELBO, evaluate, fit, isolated, psis
from pyrarchy.inference.terms import make_terms, trace_pair
from pyrarchy.zoo.eight_schools import EightSchools, EightSchoolsNonCentred

Y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
SIGMA = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
DATA = (Y, SIGMA)


@cache
def exact(nodes=(701, 1101)):
    """log Z, and (mean, sd) of mu, tau, log tau and of each theta, by the trapezoidal rule over (mu, log tau)."""
    y, sigma = Y.double().numpy(), SIGMA.double().numpy()
    mu, log_tau = np.linspace(-30, 40, nodes[0])[:, None], np.linspace(-14, 8, nodes[1])[None]
    tau = np.exp(log_tau)
    log_p = -0.5 * (mu / 5) ** 2 - 0.5 * math.log(2 * math.pi * 25)
    log_p = log_p + math.log(2 / (5 * math.pi)) - np.log1p((tau / 5) ** 2) + log_tau  # d tau = tau d log tau
    for y_j, sigma_j in zip(y, sigma, strict=True):
        variance = tau**2 + sigma_j**2
        log_p = log_p - 0.5 * (y_j - mu) ** 2 / variance - 0.5 * np.log(2 * math.pi * variance)
    weight = np.exp(log_p) * (mu[1, 0] - mu[0, 0]) * (log_tau[0, 1] - log_tau[0, 0])
    z = weight.sum()
    weight /= z

    def moments(mean, variance=0.0):
        first = (weight * mean).sum()
        return float(first), float(math.sqrt((weight * (mean**2 + variance)).sum() - first**2))

    out = {"log_z": float(np.log(z)), "mu": moments(mu), "tau": moments(tau), "log_tau": moments(log_tau)}
    theta = []
    for y_j, sigma_j in zip(y, sigma, strict=True):
        variance = 1 / (1 / tau**2 + 1 / sigma_j**2)
        theta.append(moments(variance * (mu / tau**2 + y_j / sigma_j**2), variance))
    out["theta"] = tuple(np.array(theta).T)
    return out


def test_quadrature_agrees_with_the_reference_and_with_a_coarser_grid():
    truth = exact()
    assert truth["log_z"] == pytest.approx(-31.311348, abs=1e-6)
    assert truth["mu"] == pytest.approx((4.396821, 3.317704), abs=1e-6)
    assert truth["tau"] == pytest.approx((3.597706, 3.219958), abs=1e-6)
    assert truth["log_tau"][0] == pytest.approx(0.802142, abs=1e-6)
    reference = [6.21188, 4.94018, 3.92700, 4.75710, 3.61548, 4.04261, 6.29672, 4.85425]
    np.testing.assert_allclose(truth["theta"][0], reference, atol=5e-6)
    assert exact((301, 451))["log_z"] == pytest.approx(truth["log_z"], abs=1e-6)


def log_joint(model, **values):
    trace = poutine.trace(poutine.condition(model, values)).get_trace(*DATA)
    return trace.log_prob_sum()


def test_both_forms_have_the_joint_density_written_by_hand():
    theta = torch.tensor([3.0, -1, 2.5, 7, 0.3, 1.1, 9, -4])
    for mu, tau in ((1.7, 2.3), (-4.0, 0.4)):
        by_hand = (
            dist.Normal(0.0, 5.0).log_prob(torch.tensor(mu))
            + math.log(2 / (5 * math.pi * (1 + (tau / 5) ** 2)))
            + dist.Normal(mu, tau).log_prob(theta).sum()
            + dist.Normal(theta, SIGMA).log_prob(Y).sum()
        )
        mu, tau = torch.tensor(mu), torch.tensor(tau)
        centred = log_joint(EightSchools(), mu=mu, tau=tau, theta=theta)
        torch.testing.assert_close(centred, by_hand)
        # d theta = tau^8 d theta_std
        other = log_joint(EightSchoolsNonCentred(), mu=mu, tau=tau, theta_std=(theta - mu) / tau)
        torch.testing.assert_close(other - 8 * tau.log(), centred)


def train(model, make, seed, steps, rate, num_particles):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = make(model, *DATA)
    fit(model, guide, DATA, objective=ELBO(num_particles), optimizer=rate, steps=steps, seed=seed,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))  # fmt: skip
    return guide


def grade(model, guide, draws=200_000, seed=5):
    """Gap with its standard error (nats), importance-sampled log Z with its own, errors of means in posterior sd."""
    truth = exact()
    with isolated(model, guide, seed=seed), torch.no_grad():
        traces = trace_pair(model, guide, DATA, num_particles=draws)
        log_w = make_terms(*traces, num_particles=draws).log_w[:, 0].double()
    out = {"gap": truth["log_z"] - log_w.mean().item(), "gap_error": log_w.std().item() / draws**0.5}
    weight = (log_w - log_w.max()).exp()
    out["log_z"] = (log_w.max() + weight.mean().log()).item()
    out["log_z_error"] = (weight.std() / weight.mean()).item() / draws**0.5
    for name in ("mu", "tau", "theta"):
        value = traces[0].nodes[name]["value"].double().reshape(draws, -1).mean(0).numpy()
        mean, sd = truth[name]
        out[name] = float(np.abs((value - mean) / sd).max())
    return out


FULL_RANK = dict(rate=0.03, steps=3000, num_particles=128)
IAF = dict(rate=0.02, steps=2000, num_particles=16)


def check(figures, gap, tau, mean=0.1):
    assert -4 * figures["gap_error"] < figures["gap"] < gap
    assert figures["tau"] < tau
    assert figures["mu"] < mean and figures["theta"] < mean
    return figures


def test_full_rank_in_a_short_run():
    model = EightSchoolsNonCentred()
    guide = train(model, FullRank, 0, steps=1000, rate=0.05, num_particles=32)
    # the deterministic optimum of this family: gap .222, tau -.168, theta within .092
    check(grade(model, guide), gap=0.25, tau=0.2, mean=0.12)


def test_flow_in_a_short_run_and_its_log_z_is_the_quadrature_s():
    model = EightSchoolsNonCentred()
    guide = train(model, JointIAF, 0, steps=1000, rate=0.02, num_particles=16)
    figures = check(grade(model, guide), gap=0.1, tau=0.1)
    assert figures["log_z_error"] < 0.01
    assert abs(figures["log_z"] - exact()["log_z"]) < 4 * figures["log_z_error"]
    graded = evaluate(model, guide, DATA, num_samples=20_000, rows_per_pass=20_000)
    assert graded.mean_log_p == pytest.approx(exact()["log_z"], abs=0.03)
    assert graded.elbo.shape == (1,) and graded.rates == {}


def test_mean_field_of_the_centred_form_is_not_to_be_trusted():
    model = EightSchools()
    guide = train(model, MeanField, 0, steps=600, rate=0.05, num_particles=16)
    k_hats, gaps = [], []
    for seed in range(7):  # single estimates scatter by .2: take the median
        graded = evaluate(model, guide, DATA, num_samples=10_000, rows_per_pass=10_000, seed=seed)
        k_hats.append(graded.k_hat[0])
        gaps.append(exact()["log_z"] - graded.mean_elbo)
    assert np.median(k_hats) > 0.7
    assert np.median(gaps) > 1.0  # measured 3.5: a funnel that it does not see
    assert set(graded.rates) == {"mu", "tau", "theta"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_full_rank_with_the_defaults_of_its_row(seed):
    model = EightSchoolsNonCentred()
    check(grade(model, train(model, FullRank, seed, **FULL_RANK), draws=1_000_000), gap=0.25, tau=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_flow_with_the_defaults_of_its_row(seed):
    model = EightSchoolsNonCentred()
    guide = train(model, JointIAF, seed, **IAF)
    figures = check(grade(model, guide, draws=1_000_000), gap=0.1, tau=0.1)
    assert abs(figures["log_z"] - exact()["log_z"]) < 4 * figures["log_z_error"]
    with isolated(model, guide, seed=1), torch.no_grad():
        terms = ELBO(num_particles=10_000).terms(model, guide, *DATA)
    assert psis(terms.log_w.double().numpy())[1][0] < 0.7
