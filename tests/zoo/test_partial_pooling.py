"""Batting averages against quadrature: two dimensions outside, one inside for each player."""

import math
from functools import cache

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.special import expit, gammaln

import pyrarchy
from pyrarchy.guides import FullRank, JointIAF, MeanField
from pyrarchy.inference import ELBO, evaluate, fit
from pyrarchy.zoo import PartialPooling

HITS, AT_BATS = (torch.from_numpy(part) for part in pyrarchy.load_data("baseball").train)


@cache
def exact(size=121, inner=161, hits=None, trials=None, reach=(-3.0, 0.8)):
    """log Z, (mean, sd) of mu, log sigma and theta, by the trapezoidal rule over (mu, log sigma) and over epsilon."""
    y = HITS.double().numpy() if hits is None else np.array(hits)
    n = AT_BATS.double().numpy() if trials is None else np.array(trials)
    mu, log_sigma = np.linspace(*reach, size), np.linspace(-9, 1.6, size)
    epsilon = np.linspace(-8, 8, inner)
    sigma = np.exp(log_sigma)
    base = -0.5 * epsilon**2 - 0.5 * math.log(2 * math.pi) + math.log(epsilon[1] - epsilon[0])
    log_p = -0.5 * (mu[:, None] + 1) ** 2 - 0.5 * math.log(2 * math.pi)
    log_p = log_p + math.log(2) - 0.5 * math.log(2 * math.pi) - 0.5 * sigma**2 + log_sigma
    log_odds = mu[:, None, None] + sigma[:, None] * epsilon
    theta, log_theta, log_miss = expit(log_odds), -np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)
    first, second = [], []
    done = {}
    for pair in zip(y, n, strict=True):
        if pair not in done:
            y_j, n_j = pair
            choose = gammaln(n_j + 1) - gammaln(y_j + 1) - gammaln(n_j - y_j + 1)
            weight = np.exp(choose + y_j * log_theta + (n_j - y_j) * log_miss + base)
            total = weight.sum(-1)
            done[pair] = np.log(total), (weight * theta).sum(-1) / total, (weight * theta**2).sum(-1) / total
        log_p = log_p + done[pair][0]
        first.append(done[pair][1])
        second.append(done[pair][2])
    weight = np.exp(log_p - log_p.max())
    cell = (mu[1] - mu[0]) * (log_sigma[1] - log_sigma[0])
    log_z = math.log(weight.sum() * cell) + log_p.max()
    weight /= weight.sum()

    def moments(mean, square):
        m = (weight * mean).sum()
        return m, math.sqrt((weight * square).sum() - m**2)

    theta = np.array([moments(a, b) for a, b in zip(first, second, strict=True)]).T
    return {
        "log_z": log_z,
        "mu": moments(mu[:, None], mu[:, None] ** 2),
        "log_sigma": moments(log_sigma, log_sigma**2),
        "theta": (theta[0], theta[1]),
    }


@pytest.mark.stochastic
def test_quadrature_agrees_with_a_coarser_grid_and_with_sampling_from_the_prior():
    fine, coarse = exact(), exact(81, 121)
    assert fine["log_z"] == pytest.approx(coarse["log_z"], abs=1e-5)
    assert fine["log_sigma"] == pytest.approx(coarse["log_sigma"], abs=1e-3)
    # Two players only, so that plain Monte Carlo over the prior is precise: no integral shared with the quadrature.
    y, n = (3.0, 1.0), (5.0, 7.0)
    rng = np.random.default_rng(0)
    draws = 400_000
    mu, sigma = rng.normal(-1, 1, draws), np.abs(rng.normal(0, 1, draws))
    value = np.ones(draws)
    for y_j, n_j in zip(y, n, strict=True):
        theta = expit(mu + sigma * rng.normal(size=draws))
        value *= math.comb(int(n_j), int(y_j)) * theta**y_j * (1 - theta) ** (n_j - y_j)
    by_hand, error = value.mean(), value.std() / draws**0.5
    wide = exact(hits=y, trials=n, reach=(-6.0, 4.0))
    assert math.exp(wide["log_z"]) == pytest.approx(by_hand, abs=4 * error)


def test_log_joint_is_the_one_written_by_hand():
    epsilon = torch.linspace(-1.5, 2.0, 18)
    for mu, sigma in ((-1.3, 0.4), (0.2, 1.7)):
        given = {"mu": torch.tensor(mu), "sigma": torch.tensor(sigma), "epsilon": epsilon}
        trace = poutine.trace(poutine.condition(PartialPooling(), given)).get_trace(HITS, AT_BATS)
        theta = torch.sigmoid(mu + sigma * epsilon)
        by_hand = (
            -0.5 * (mu + 1) ** 2
            - 0.5 * sigma**2
            + math.log(2)
            - math.log(2 * math.pi)
            + dist.Normal(0.0, 1.0).log_prob(epsilon).sum()
            + dist.Binomial(AT_BATS, theta).log_prob(HITS).sum()
        )
        torch.testing.assert_close(trace.log_prob_sum(), by_hand)
        torch.testing.assert_close(trace.nodes["theta"]["value"], theta)


def trained(make, steps, rate, particles):
    model = PartialPooling()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = make(model, HITS, AT_BATS)
    fit(model, guide, (HITS, AT_BATS), objective=ELBO(particles), optimizer=rate, steps=steps,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))  # fmt: skip
    return model, guide


def test_full_rank_comes_as_near_as_a_gaussian_in_log_sigma_can():
    model, guide = trained(FullRank, 400, 0.05, 8)
    found = evaluate(model, guide, (HITS, AT_BATS), num_samples=20_000, rows_per_pass=20_000)
    # The left tail of log sigma falls like sigma, a Gaussian's faster: gap .47 after 2000 steps, and heavy weights.
    assert 0.3 < exact()["log_z"] - found.mean_elbo < 0.8
    assert found.mean_log_p == pytest.approx(exact()["log_z"], abs=0.2)


@pytest.mark.slow
def test_flow_with_the_defaults_of_its_row():
    model, guide = trained(JointIAF, 2000, 0.02, 16)
    found = evaluate(model, guide, (HITS, AT_BATS), num_samples=100_000, rows_per_pass=20_000)
    assert 0.05 < exact()["log_z"] - found.mean_elbo < 0.2  # measured .118
    assert found.mean_log_p == pytest.approx(exact()["log_z"], abs=0.1)


def test_partial_pooling_predicts_the_rest_of_the_season_better_than_none_or_all():
    hits, at_bats = pyrarchy.load_data("baseball_remainder").train
    truth, seen = hits / at_bats, (HITS / AT_BATS).numpy()
    pooled = exact()["theta"][0]

    def error(estimate):
        return ((estimate - truth) ** 2).sum()

    assert error(pooled) < error(seen) / 3  # measured .311
    assert error(pooled) < error(np.full(18, seen.mean()))


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"'y'.*must agree"):
        PartialPooling()(HITS, AT_BATS[:17])
    with pytest.raises(ValueError, match="more than there are trials"):
        PartialPooling()(AT_BATS + 1, AT_BATS)
    guide = MeanField(PartialPooling(), HITS, AT_BATS)
    with pytest.raises(ValueError, match=r"'epsilon'.*plate 'player' of size 11.*size of 18"):
        guide(HITS[:11], AT_BATS[:11])
