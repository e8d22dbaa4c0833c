r"""Tests of ranks: is the truth's place among the draws uniform, and is the average posterior the prior?

.. math:: r_s = \#\{l : f(z_{sl}) < f(z_s)\} \sim \mathrm{Uniform}\{0, \dots, L\}, \qquad
          p(z) = \int q(z | x)\, p(x)\, dx \quad \text{for } q(z | x) = p(z | x)

Six statistics, because a bug shows in some and not in others: a bias moves the ranks' mean, an overconfident guide widens
them towards both ends and leaves the mean alone, a bump in the middle needs the histogram.

Source: Talts et al. (2018), https://arxiv.org/abs/1804.06788 (ranks); Geweke (2004),
https://doi.org/10.1198/016214504000001132 (moments of the two joint distributions). The scale statistics and the exact
moments under uniformity are the project's own choice.
"""

import math

import numpy as np
import torch

RANK_STATISTICS = ("chi-square", "KS", "rank mean", "rank scale")
AVERAGE_STATISTICS = ("mean", "scale")


def ranks_among(truth, draws, rng, eps=0.0):
    """Rank of the truth among its draws, ties broken at random.

    Values within a few roundings of each other count as tied: a quantity that does not depend on the latents at all has
    ranks of pure rounding otherwise.

    :param truth: (S, Q). :param draws: (S, L, Q). :param rng: a numpy generator.
    :param float eps: relative rounding of the values.
    :returns: integers (S, Q) in 0..L.

    >>> ranks_among(np.array([[2.5]]), np.array([[[1.0], [2.0], [3.0]]]), np.random.default_rng(0))
    array([[2]])
    """
    close = 16 * eps * np.abs(truth)[:, None]
    below = (draws < truth[:, None] - close).sum(1)
    tied = (np.abs(draws - truth[:, None]) <= close).sum(1)
    return below + rng.integers(0, tied + 1)


def number_of_bins(num, num_draws):
    """The largest divisor of L + 1, at most 20, that leaves 20 data sets to a bin; at least 2 of some size."""
    most = max(2, min(20, num // 20))
    return max((b for b in range(2, most + 1) if (num_draws + 1) % b == 0), default=min(most, num_draws + 1))


def rank_tests(ranks, num_draws, rng):
    """Test that ranks are uniform on 0..L.

    :param ranks: integers (S, Q). :param int num_draws: L. :param rng: breaks the ties of the Kolmogorov-Smirnov test,
        so that its reference distribution is the continuous one.
    :returns: dictionary statistic -> (value (Q,), p (Q,)). ``rank mean`` and ``rank scale`` are z-scores: positive where
        the truth lies above the draws, and where it lies outside them (an overconfident guide).

    >>> rng = np.random.default_rng(0)
    >>> wide = rng.integers(0, 2, (1000, 1)) * 99  # the truth is always outside the draws
    >>> tests = rank_tests(wide, 99, rng)
    >>> {name: bool(p[0] < 1e-6) for name, (_, p) in tests.items()}
    {'chi-square': True, 'KS': True, 'rank mean': False, 'rank scale': True}
    """
    ranks = np.asarray(ranks)
    num, levels = len(ranks), num_draws + 1
    bins = number_of_bins(num, num_draws)
    place = (ranks * bins) // levels
    chance = np.bincount((np.arange(levels) * bins) // levels, minlength=bins) / levels
    counts = np.stack([np.bincount(column, minlength=bins) for column in place.T], 1)
    expected = num * chance[:, None]
    chi2 = ((counts - expected) ** 2 / expected).sum(0)
    chi2_p = torch.special.gammaincc(torch.tensor((bins - 1) / 2).double(), torch.from_numpy(chi2 / 2)).numpy()
    u = np.sort((ranks + rng.random(ranks.shape)) / levels, 0)
    steps = np.arange(num)[:, None]
    distance = np.maximum((steps + 1) / num - u, u - steps / num).max(0)
    centred = ranks - num_draws / 2
    variance = (levels**2 - 1) / 12
    fourth = (levels**2 - 1) * (3 * levels**2 - 7) / 240
    mean_z = centred.mean(0) / math.sqrt(variance / num)
    scale_z = ((centred**2).mean(0) - variance) / math.sqrt((fourth - variance**2) / num)
    return {
        "chi-square": (chi2, chi2_p),
        "KS": (distance, kolmogorov_p(distance, num)),
        "rank mean": (mean_z, two_sided(mean_z)),
        "rank scale": (scale_z, two_sided(scale_z)),
    }


def average_tests(truth, draws):
    """Test that the draws of all data sets together have the prior's location and scale.

    Each value is replaced by its place u in (0, 1) among all values, true and drawn (so that priors without moments are
    welcome), then u and (u - 1/2)^2 are compared, paired by data set.

    :param truth: (S, Q). :param draws: (S, L, Q).
    :returns: ``mean`` and ``scale``: (z-score (Q,), p (Q,)), positive where the average posterior lies above the prior
        or is wider.
    """
    num, _, columns = draws.shape
    found = {name: np.zeros(columns) for name in AVERAGE_STATISTICS}
    for q in range(columns):
        values = np.concatenate([truth[:, q, None], draws[:, :, q]], 1)
        ordered = np.sort(values, None)
        places = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        u = places / (2 * values.size) - 0.5
        for name, score in (("mean", u), ("scale", u**2)):
            difference = score[:, 1:].mean(1) - score[:, 0]
            spread = difference.std(ddof=1)
            # a constant (the diagonal of a correlation matrix) has no spread, and nothing to differ in
            found[name][q] = difference.mean() / (spread / math.sqrt(num)) if spread > 1e-12 else 0.0
    return {name: (z, two_sided(z)) for name, z in found.items()}


def two_sided(z):
    """P(abs(Z) > abs(z)) of a standard normal."""
    return torch.special.erfc(torch.from_numpy(np.abs(np.atleast_1d(z)) / math.sqrt(2))).numpy()


def kolmogorov_p(distance, num):
    """P(D > distance) of the Kolmogorov-Smirnov distance of ``num`` uniforms, to a few per cent from num = 5 on.

    Source: Stephens (1970), https://doi.org/10.1111/j.2517-6161.1970.tb00821.x.
    """
    root = math.sqrt(num)
    x = (root + 0.12 + 0.11 / root) * np.atleast_1d(distance)
    k = np.arange(1, 101)[:, None]
    series = 2 * ((-1.0) ** (k - 1) * np.exp(-2 * k**2 * x**2)).sum(0)
    return np.where(x < 0.2, 1.0, np.clip(series, 0.0, 1.0))


def location_and_scale(values):
    """Median and half the central 68.27 % of (n, Q): a Gaussian's mean and standard deviation, and defined for all."""
    low, middle, high = np.quantile(values, [0.158655, 0.5, 0.841345], axis=0)
    return middle, (high - low) / 2
