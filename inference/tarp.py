r"""Expected coverage of joint posteriors by random reference points (TARP): one number a data set, for all latents at once.

.. math:: f_s = \frac1L \#\{l : d(z_{sl}, r_s) < d(z_s, r_s)\} \sim \mathrm{Uniform}, \qquad
          \mathrm{ECP}(\alpha) = P(f < \alpha) = \alpha

The ball around a reference point r through the truth holds a share f of the draws; balls of credibility alpha then hold
the truth a share alpha of the time, *whatever* r is, as long as it does not look at the truth. Ranks of single units
are blind to correlations that a guide leaves out; these balls are not.

A reference that does not look at the data either cannot tell a posterior from the prior: :func:`nearest_truth` looks.

Source: Lemos, Coogan, Hezaveh and Perreault-Levasseur (2023), https://arxiv.org/abs/2302.03026.
Differs from the paper: references are truths of *earlier* simulated data sets, so that f is exactly uniform and independent
over data sets, and the same four statistics are tested as for ranks; units are divided by the prior's scale.
"""

from dataclasses import dataclass

import numpy as np

from .bayes_loop import Flag
from .rank_tests import location_and_scale, rank_tests, ranks_among


def previous_truth(truth, data):
    """The truth of the data set before: a draw from the prior, blind to the data. (S, D) to (S - 1, D)."""
    return truth[:-1]


def nearest_truth(truth, data):
    """The truth of that earlier data set whose data are nearest, each datum over its scale: a guess that saw the data.

    :param truth: (S, D). :param data: (S, C). :returns: (S - 1, D), for the second data set on.
    """
    scale = location_and_scale(data)[1]
    data = data / np.where(scale > 0, scale, 1.0)
    square = (data**2).sum(1)
    distance = square[:, None] + square - 2 * data @ data.T
    distance[np.triu_indices(len(data))] = np.inf  # earlier ones only: a mutual pair would tie two data sets together
    return truth[distance[1:].argmin(1)]


@dataclass(frozen=True)
class Coverage:
    """Expected coverage of joint posteriors over S data sets of L draws.

    :ivar ranks: (S,) how many draws are nearer to the reference than the truth is, 0..L.
    :ivar dict tests: statistic -> (value, p), as of ranks: a positive ``rank scale`` is an overconfident posterior.
    :ivar float false_alarms: the chance, at most, that exact posteriors are flagged.
    """

    ranks: np.ndarray
    num_draws: int
    tests: dict
    false_alarms: float

    def coverage(self, credibility):
        """The share of data sets whose ball of the given credibility (a number or an array) holds the truth."""
        f = (self.ranks + 0.5) / (self.num_draws + 1)
        return (f < np.asarray(credibility, float)[..., None]).mean(-1)

    @property
    def flagged(self):
        """The failed statistics as a list of :class:`~pyrarchy.inference.bayes_loop.Flag`, the smallest p first."""
        limit = self.false_alarms / len(self.tests)
        found = [Flag("coverage", name, value, p) for name, (value, p) in self.tests.items() if p < limit]
        return sorted(found, key=lambda flag: flag.p)

    def table(self):
        """Coverage at five credibilities with its standard error under exactness, then the statistics."""
        lines = ["credibility  coverage"]
        for level in (0.1, 0.25, 0.5, 0.75, 0.9):
            error = (level * (1 - level) / len(self.ranks)) ** 0.5
            lines.append(f"{level:11.2f}{float(self.coverage(level)):10.3f} ({level:.2f} +- {error:.3f} if exact)")
        words = ", ".join(f"{name} {value:.3g} (p {p:.2g})" for name, (value, p) in self.tests.items())
        flags = ", ".join(flag.statistic for flag in self.flagged) or "nothing"
        lines.append(f"{words}; flagged: {flags}")
        return "\n".join(lines)


def tarp(loop, *, references=previous_truth, seed=0, false_alarms=1e-3):
    """Test the joint posterior of all latents by its expected coverage.

    :param loop: a :class:`~pyrarchy.inference.BayesLoop`: its truths and draws are used again, nothing is run.
    :param references: function of the truths (S, D), in units of the prior's scale, and the data (S, C) to a reference
        point for each data set but the first, (S - 1, D). It may look at the data set itself and at earlier truths.
    :returns: :class:`Coverage`.
    :raises ValueError: for references of another shape.

    >>> import torch
    >>> from pyrarchy.guides import Exact
    >>> from pyrarchy.inference import bayes_loop, tarp
    >>> from pyrarchy.zoo import PPCA
    >>> model = PPCA(5, 2)
    >>> coverage = tarp(bayes_loop(model, Exact(model), torch.zeros(3, 5), num=400))
    >>> coverage.flagged, bool(abs(coverage.coverage(0.5) - 0.5) < 0.1)
    ([], True)
    """
    truth, draws = loop.truth[:, : loop.num_latent], loop.draws[:, :, : loop.num_latent]
    scale = location_and_scale(truth)[1]
    scale = np.where(scale > 0, scale, 1.0)  # a constant entry tells nothing and adds nothing
    truth, draws = truth / scale, draws / scale
    points = np.asarray(references(truth, loop.data))
    if points.shape != (len(truth) - 1, truth.shape[1]):
        raise ValueError(
            f"references returned shape {points.shape}; a point for every data set but the first is needed, "
            f"{(len(truth) - 1, truth.shape[1])}"
        )
    away = np.linalg.norm(truth[1:] - points, axis=1)[:, None]
    near = np.linalg.norm(draws[1:] - points[:, None], axis=2)[:, :, None]
    rng = np.random.default_rng(seed)
    ranks = ranks_among(away, near, rng)
    tests = {name: (float(v[0]), float(p[0])) for name, (v, p) in rank_tests(ranks, near.shape[1], rng).items()}
    return Coverage(ranks[:, 0], near.shape[1], tests, false_alarms)
