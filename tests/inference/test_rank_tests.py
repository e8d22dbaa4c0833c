"""Tests of ranks: against scipy, at their stated rate under the truth, and each against what it is there to see."""

import numpy as np
import pytest
from scipy import stats

from pyrarchy.inference.rank_tests import (
    average_tests,
    kolmogorov_p,
    location_and_scale,
    number_of_bins,
    rank_tests,
    ranks_among,
    two_sided,
)


def rng(seed=3):
    return np.random.default_rng(seed)


def test_tails_are_scipys():
    z = np.array([0.0, 1.0, -2.5, 6.0])
    np.testing.assert_allclose(two_sided(z), 2 * stats.norm.sf(np.abs(z)), rtol=1e-10)
    for num in (50, 1000):
        distance = np.array([0.5, 1.0, 1.6, 2.3]) / num**0.5
        np.testing.assert_allclose(kolmogorov_p(distance, num), stats.kstwo.sf(distance, num), rtol=0.04)
    assert kolmogorov_p(np.array([1e-6]), 100) == 1.0


def test_statistics_are_what_they_say():
    """By hand on ranks of L = 4: moments of the uniform on 0..4 are 2 (mean), 2 (variance), 6.8 (fourth)."""
    ranks = np.array([[0], [1], [4], [4], [2], [3], [4]] * 6)
    tests = rank_tests(ranks, 4, rng())
    assert tests["rank mean"][0] == pytest.approx((ranks.mean() - 2) / (2 / 42) ** 0.5)
    spread = ((6.8 - 4) / 42) ** 0.5
    assert tests["rank scale"][0] == pytest.approx((((ranks - 2.0) ** 2).mean() - 2) / spread)
    value, p = tests["KS"]
    assert p == pytest.approx(kolmogorov_p(value, 42))
    even = rng().integers(0, 100, (400, 3))
    chi2, p = rank_tests(even, 99, rng())["chi-square"]
    for q in range(3):
        expected = stats.chisquare(np.histogram(even[:, q], np.arange(0, 101, 5))[0])
        assert chi2[q] == pytest.approx(expected.statistic) and p[q] == pytest.approx(expected.pvalue)


def test_bins_divide_the_ranks_and_hold_enough():
    assert [number_of_bins(*sizes) for sizes in ((1000, 99), (200, 99), (1000, 9), (40, 99))] == [20, 10, 10, 2]
    assert number_of_bins(1000, 100) == 20  # 101 is a prime: bins of two sizes, each with its own chance
    levels = rng().integers(0, 101, (20_000, 1))
    assert rank_tests(levels, 100, rng())["chi-square"][1] > 1e-3


@pytest.mark.stochastic
def test_p_values_are_uniform_under_the_truth():
    """500 columns of right ranks: as many below .05 and .01 of each statistic as a binomial of these shares has.

    Five of 500 are too few for a normal's quantiles: 14 of them are 4 standard errors and no rarity in ten such checks.
    """
    truth, draws = rng().normal(size=(300, 500)), rng(4).normal(size=(300, 19, 500))
    ranks = ranks_among(truth, draws, rng())
    for name, (_, p) in {**rank_tests(ranks, 19, rng()), **average_tests(truth, draws)}.items():
        for level in (0.05, 0.01):
            fewest, most = stats.binom.ppf([1e-5, 1 - 1e-5], 500, level)
            assert fewest <= (p < level).sum() <= most, name


def test_ties_are_broken_at_random():
    truth = np.zeros((4000, 2))
    draws = np.zeros((4000, 9, 2))
    draws[..., 1] = np.where(np.arange(9) < 3, -1.0, 0.0)
    ranks = ranks_among(truth, draws, rng())
    assert set(ranks[:, 0]) == set(range(10)) and set(ranks[:, 1]) == set(range(3, 10))
    near = ranks_among(np.ones((500, 1)), np.ones((500, 9, 1)) + 1e-7, rng(), eps=1e-7)
    assert (
        len(set(near[:, 0])) == 10 and (ranks_among(np.ones((500, 1)), np.ones((500, 9, 1)) + 1e-7, rng()) == 0).all()
    )


@pytest.mark.parametrize(
    ("shift", "width", "seen", "unseen"),
    [
        (0.5, 1.0, "rank mean", "rank scale"),
        (0.0, 0.6, "rank scale", "rank mean"),
        (0.0, 1.7, "rank scale", "rank mean"),
    ],
)
def test_location_and_scale_see_one_thing_each(shift, width, seen, unseen):
    truth, draws = rng().normal(size=(1000, 1)), shift + width * rng(4).normal(size=(1000, 99, 1))
    tests = {**rank_tests(ranks_among(truth, draws, rng()), 99, rng()), **average_tests(truth, draws)}
    assert tests[seen][1] < 1e-9 < 1e-4 < tests[unseen][1]
    assert np.sign(tests["rank scale"][0]) == (1 if width < 1 else -1) or shift
    average = "mean" if shift else "scale"
    assert tests[average][1] < 1e-9 and np.sign(tests[average][0]) == (1 if shift or width > 1 else -1)


def test_a_constant_has_nothing_to_differ_in():
    constant = {**average_tests(np.ones((50, 1)), np.ones((50, 9, 1)))}
    assert all(z == 0 and p == 1 for z, p in constant.values())


def test_location_and_scale_are_a_gaussians():
    middle, half = location_and_scale(5 + 2 * rng().normal(size=(200_000, 1)))
    assert middle == pytest.approx(5, abs=0.02) and half == pytest.approx(2, abs=0.02)
