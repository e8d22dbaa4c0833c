"""The bound against mutual informations known by quadrature; never above them, and tight where the Gaussians are right."""

import math

import numpy as np
import pytest
from scipy import stats

from pyrarchy.inference import label_information, number_information

N = 20_000


def rng():
    return np.random.default_rng(0)


def two_classes(distance):
    """I(y; z) for z | y ~ N(+-distance / 2, 1) and equal labels, by quadrature of h(z) - h(z | y)."""
    z = np.linspace(-15, 15, 40_001)
    density = 0.5 * (stats.norm.pdf(z, distance / 2) + stats.norm.pdf(z, -distance / 2))
    return -np.trapezoid(density * np.log(density), z) - 0.5 * math.log(2 * math.pi * math.e)


@pytest.mark.stochastic
@pytest.mark.parametrize("distance", [0.5, 1.5, 3.0])
def test_two_gaussian_classes(distance):
    labels = rng().integers(2, size=N)
    codes = np.stack([rng().normal(size=N), (labels - 0.5) * distance + np.random.default_rng(1).normal(size=N)], 1)
    found = label_information(codes, labels)
    assert abs(found.nats - two_classes(distance)) < 4 * found.error
    assert found.entropy == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.stochastic
def test_classes_of_unlike_variance_are_told_apart():
    """Equal means: what a linear classifier would miss. Three labels, one rarer."""
    scales, share = np.array([0.2, 1.0, 4.0]), np.array([0.5, 0.3, 0.2])
    labels = rng().choice(3, size=N, p=share)
    codes = (scales[labels] * np.random.default_rng(1).normal(size=N))[:, None]
    z = np.concatenate([-np.logspace(2, -4, 20_000), np.logspace(-4, 2, 20_000)])
    density = sum(p * stats.norm.pdf(z, 0, s) for p, s in zip(share, scales, strict=True))
    safe = np.where(density > 0, density, 1.0)
    exact = -np.trapezoid(density * np.log(safe), z) - (share * np.log(scales * math.sqrt(2 * math.pi * math.e))).sum()
    found = label_information(codes, labels)
    assert abs(found.nats - exact) < 4 * found.error


def test_a_code_of_noise_holds_nothing_and_a_perfect_one_everything():
    labels = np.arange(N) % 7
    noise = label_information(np.random.default_rng(1).normal(size=(N, 3)), labels)
    assert abs(noise.nats) < 4 * noise.error + 70 / N  # held-out price of the 63 fitted numbers, half a nat each over N
    whole = label_information(np.eye(7)[labels] * 10 + np.random.default_rng(1).normal(size=(N, 7)), labels)
    assert whole.nats == pytest.approx(math.log(7), abs=1e-3) and whole.entropy == pytest.approx(math.log(7), abs=1e-6)


@pytest.mark.stochastic
@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_a_correlated_number(rho):
    """Deciles of s against z, jointly Gaussian: I(bin; z) by quadrature, which lies below -log(1 - rho^2) / 2."""
    z, noise = np.random.default_rng(1).normal(size=(2, N))
    s = rho * z + math.sqrt(1 - rho**2) * noise
    grid = np.linspace(-8, 8, 4001)
    edges = np.concatenate([[-np.inf], stats.norm.ppf(np.arange(1, 10) / 10), [np.inf]])
    p = np.diff(stats.norm.cdf((edges[:, None] - rho * grid) / math.sqrt(1 - rho**2)), axis=0)
    exact = np.trapezoid(stats.norm.pdf(grid) * (p * np.log(np.maximum(p, 1e-300))).sum(0), grid) + math.log(10)
    assert exact < -0.5 * math.log(1 - rho**2)
    found = number_information(z[:, None], s)
    assert found.nats < exact + 3 * found.error
    assert found.nats > exact - 0.05  # the codes of a bin are not quite Gaussian


def test_the_classifier_is_graded_on_data_that_it_has_not_seen():
    """Few data, many units of noise: graded on its own data the classifier would find a good part of log 2."""
    codes, labels = rng().normal(size=(200, 20)), np.arange(200) % 2
    found = label_information(codes, labels)
    assert found.nats < 2 * found.error


def test_misfits_are_named():
    with pytest.raises(ValueError, match=r"codes must be \(N, units\)"):
        label_information(np.zeros(5), np.zeros(5, int))
    with pytest.raises(ValueError, match="label 3 has 2 data"):
        label_information(np.zeros((12, 1)), np.array([1] * 10 + [3] * 2))
    with pytest.raises(ValueError, match="folds must be at least 2"):
        label_information(np.zeros((12, 1)), np.zeros(12, int), folds=1)
    with pytest.raises(ValueError, match="bins at least 2"):
        number_information(np.zeros((12, 1)), np.zeros(12), bins=1)
