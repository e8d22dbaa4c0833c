r"""Maximum-likelihood factor analysis on sufficient statistics: many short climbs, a few long ones, each monotone.

.. math::

    \max_{W, \Psi}\ -\tfrac12 \left[ D \ln 2\pi + \ln |W W^\top + \Psi| + \mathrm{tr}\,(W W^\top + \Psi)^{-1} S \right],
    \qquad \Psi_{jj} \ge \text{noise\_floor} \cdot S_{jj}

The likelihood has several maxima, and the best often puts a column's noise on the floor (a Heywood case). Where S is
singular the likelihood is unbounded without a floor; else ``-[D ln 2 pi + ln|S| + D] / 2`` bounds it, and the floor keeps
the arithmetic finite. So some starts let a factor run through one column each, the others are principal components and
random draws. The work is done on the correlation matrix: the fit does not depend on the columns' units.

Source: Rubin and Thayer (1982), https://doi.org/10.1007/BF02293851; Liu, Rubin and Wu (1998), PX-EM,
https://doi.org/10.1093/biomet/85.4.755; Varadhan and Roland (2008), SQUAREM,
https://doi.org/10.1111/j.1467-9469.2007.00585.x; short runs before long ones: Biernacki, Celeux and Govaert (2003),
https://doi.org/10.1016/S0167-9473(02)00163-9.
Differs from the paper: an extrapolated point is taken only if its likelihood is no lower than one EM step's, so the
trace never falls; the extrapolation is in the loadings and the *logarithms* of the noise variances.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from .linear_gaussian import check_statistics, expand_loadings, fa_expectations, fa_m_step

_COLUMNS = 32  # most columns that are tried as a factor
_RANDOM = 4  # random candidates per start climbed to the end
_SHORT = 40  # EM steps of a candidate
_LOOSE = 100.0  # times ``tol`` for all starts; the best alone is climbed to ``tol`` itself
_LONGEST_STEP = 1e4  # an EM rate of 1 - 1e-4; longer extrapolations only meet the safeguard
_LITTLE_NOISE = 1e-2  # of a column's variance: such a column is tried on the floor
_SETTLE = 3  # EM steps by which the loadings follow it there


class HeywoodWarning(UserWarning):
    """A column's noise variance ended on the floor: it is itself a factor, and the likelihood depends on the floor."""


@dataclass(frozen=True)
class FactorAnalysisFit:
    """The best maximum found by :func:`fit_factor_analysis`; log-likelihoods in nats per datum.

    ``loadings`` (D, K) and ``noise_variance`` (D,) in the data's units; ``trace`` the log-likelihoods along the best
    start's climb; ``start_values`` the final value of each start, in the order of ``start_kinds``; ``heywood`` the
    columns on the floor, ``noise_floor`` times the column's variance; ``steps`` EM steps (E steps) of the best start.
    """

    loadings: np.ndarray
    noise_variance: np.ndarray
    log_likelihood: float
    trace: np.ndarray
    start_values: np.ndarray
    start_kinds: tuple[str, ...]
    heywood: tuple[int, ...]
    noise_floor: float
    steps: int
    converged: bool


class _Climb:
    """One start: a point, its E step, and the log-likelihoods so far. ``advance`` is a plain EM step."""

    def __init__(self, correlation, floor, kind, loadings, noise):
        self.correlation, self.floor, self.kind = correlation, floor, kind
        self.steps, self.converged, self.trace = 0, False, []
        self.move(self.evaluate(loadings, np.clip(noise, floor, 1.0)))

    def evaluate(self, loadings, noise):
        self.steps += 1
        return loadings, noise, fa_expectations(self.correlation, loadings, noise)

    def move(self, point):
        self.point = point
        self.trace.append(point[2].log_likelihood)

    def step(self, point):
        return fa_m_step(1.0, point[2], self.floor)

    def advance(self):
        self.move(self.evaluate(*self.step(self.point)))

    def run(self, tol, max_iter):
        quiet, self.converged = 0, False
        while self.steps < max_iter:
            before = self.trace[-1]
            self.advance()
            # One small gain can be a rejected extrapolation; two in a row are the end of the climb.
            quiet = quiet + 1 if self.trace[-1] - before < tol else 0
            if quiet == 2:
                self.converged = True
                break
        return self

    def touch_floor(self):
        """Put columns of little noise on the floor where that is higher; returns whether any went.

        A Heywood column nears the floor as one over the number of steps: a climb that ends by its gain stops short.
        """
        moved = False
        noise = self.point[1]
        for column in np.flatnonzero((noise < max(_LITTLE_NOISE, 3.0 * self.floor)) & (noise > self.floor)):
            loadings, noise, _ = self.point
            noise = noise.copy()
            noise[column] = self.floor
            point = self.evaluate(loadings, noise)
            for _ in range(_SETTLE):
                point = self.evaluate(*self.step(point))
            if point[2].log_likelihood > self.trace[-1]:
                self.move(point)
                moved = True
        return moved


class _AcceleratedClimb(_Climb):
    """``advance`` is a SQUAREM cycle on the parameter-expanded EM step."""

    def step(self, point):
        loadings, noise = super().step(point)
        return expand_loadings(loadings, point[2]), noise

    def advance(self):
        origin = self.point
        first = self.evaluate(*self.step(origin))
        self.move(first)
        second = self.step(first)
        start, one, two = (np.column_stack([p[0], np.log(p[1])]) for p in (origin, first, second))
        change, curve = one - start, two - 2.0 * one + start
        length = np.linalg.norm(change) / max(np.linalg.norm(curve), np.finfo(float).tiny)
        length = min(max(length, 1.0), _LONGEST_STEP)
        if length > 1.0:
            far = start + 2.0 * length * change + length**2 * curve
            noise = np.exp(np.clip(far[:, -1], np.log(self.floor), 0.0))
            candidate = self.evaluate(far[:, :-1], noise)
            if candidate[2].log_likelihood >= first[2].log_likelihood:
                return self.move(candidate)
        return self.move(self.evaluate(*second))


def fit_factor_analysis(
    statistics, z_dim, *, starts=8, seed=0, tol=1e-9, max_iter=20_000, noise_floor=1e-4, accelerate=True, names=None
):
    """Fit ``z_dim`` factors to ``statistics`` (:func:`~.linear_gaussian.sufficient_statistics`): FactorAnalysisFit.

    Candidates (principal components, a factor through each of up to 32 columns, four random draws per start) take a
    short climb; principal components and the best of the others, ``starts`` in all, are climbed to 100 ``tol``, and the
    best of these until a cycle gains less than ``tol`` nats per datum twice running, or for ``max_iter`` EM steps.
    No finite number of starts proves a maximum global: with many factors raise ``starts``.
    ``noise_floor`` is the least noise variance as a fraction of the column's own variance (on standardised data:
    absolute). ``accelerate=False`` is plain EM. ``names`` (D) of the columns appear in messages.

    Raises ValueError for constant columns, for ``z_dim`` not in 1..D-1, and for no more rows than factors.
    Warns with :class:`HeywoodWarning` where columns end on the floor.
    """
    if starts < 1 or max_iter < 1:
        raise ValueError(f"starts, max_iter: {starts}, {max_iter} given; both are counts of at least 1.")
    if not 0.0 < noise_floor < 1.0:
        raise ValueError(
            f"noise_floor: {noise_floor} given; a fraction of a column's variance between 0 and 1 is needed, because "
            "the noise of a Heywood case goes to zero: 1e-4 is usual."
        )
    check_statistics(statistics, z_dim, names)
    deviation = np.sqrt(np.diag(statistics.covariance))
    correlation = statistics.covariance / np.outer(deviation, deviation)
    climb = _AcceleratedClimb if accelerate else _Climb
    candidates = _starting_points(correlation, z_dim, _RANDOM * starts, np.random.default_rng(seed))
    pool = [climb(correlation, noise_floor, *candidate).run(tol, min(_SHORT, max_iter)) for candidate in candidates]
    ranked = sorted(pool[1:], key=lambda c: c.trace[-1], reverse=True)
    climbs = [c if c.converged else c.run(_LOOSE * tol, max_iter) for c in [pool[0], *ranked[: starts - 1]]]
    best = max(climbs, key=lambda c: c.trace[-1]).run(tol, max_iter)
    if best.converged and best.touch_floor():
        best.run(tol, max_iter)

    jacobian = np.log(deviation).sum()  # from densities of standardised columns to densities in the data's units
    loadings, noise, _ = best.point
    heywood = np.flatnonzero(noise <= noise_floor * (1.0 + 1e-6))
    if heywood.size:
        found = ", ".join(str(j) if names is None else f"{j} ({names[j]})" for j in heywood)
        warnings.warn(
            f"Heywood case: the noise of column(s) {found} sits on the floor ({noise_floor:g} of the column's "
            "variance); the log-likelihood depends on that floor.",
            HeywoodWarning,
            stacklevel=2,
        )
    trace = np.asarray(best.trace) - jacobian
    return FactorAnalysisFit(
        loadings=loadings * deviation[:, None],
        noise_variance=noise * deviation**2,
        log_likelihood=float(trace[-1]),
        trace=trace,
        start_values=np.array([c.trace[-1] for c in climbs]) - jacobian,
        start_kinds=tuple(c.kind for c in climbs),
        heywood=tuple(heywood.tolist()),
        noise_floor=noise_floor,
        steps=best.steps,
        converged=best.converged,
    )


def _starting_points(correlation, z_dim, num_random, rng):
    """Triples (kind, loadings, noise): principal components, a factor through each column, random draws."""
    dim = len(correlation)
    values, vectors = np.linalg.eigh(correlation)
    values, vectors = values[::-1], vectors[:, ::-1]
    principal = vectors[:, :z_dim] * np.sqrt(np.maximum(values[:z_dim], 0.0))
    shrunk = vectors[:, :z_dim] * np.sqrt(np.maximum(values[:z_dim] - values[z_dim:].mean(), 0.0))
    points = [("principal", shrunk, 1.0 - (shrunk**2).sum(axis=1))]
    for column in rng.permutation(dim)[:_COLUMNS]:
        # Rotate the principal loadings so that one factor carries the column, then put it exactly through the column.
        rest = np.linalg.svd(principal[column][None])[2][1:].T
        loadings = np.column_stack([correlation[:, column], principal @ rest])
        points.append((f"column {column}", loadings, np.maximum(1.0 - (loadings**2).sum(axis=1), 0.01)))
    for i in range(num_random):
        # The noise decides which maximum is near. Columns that start low tend to become Heywood cases, so half of the
        # draws give each column a level of its own, and half one of three common levels.
        loadings = rng.standard_normal((dim, z_dim))
        levels = rng.uniform(-4.0, 0.0, dim) if i % 2 else np.full(dim, -(i // 2 % 3))
        points.append((f"random {i}", loadings, 10.0**levels))
    return points
