r"""Maximum-likelihood factor analysis on sufficient statistics: many short climbs, a few long ones, each monotone.

.. math::

    \max_{W, \Psi}\ -\tfrac12 \left[ D \ln 2\pi + \ln |W W^\top + \Psi| + \mathrm{tr}\,(W W^\top + \Psi)^{-1} S \right],
    \qquad \Psi_{jj} \ge \text{noise\_floor} \cdot S_{jj}

The likelihood has several maxima, and the best often puts a column's noise on the floor (a Heywood case). Where S is
singular the likelihood is unbounded without a floor; else ``-[D ln 2 pi + ln|S| + D] / 2`` bounds it, and the floor keeps
the arithmetic finite. So some starts let a factor run through one column each, the others are principal components and
random draws. The work is done on the correlation matrix: the fit does not depend on the columns' units.

Where the model is right and the data plenty, there is nothing to search: with 50 rows a column, a first maximum that a
likelihood-ratio test against the unrestricted Gaussian does not reject is taken as it is. On real data the test rejects.

Source: Rubin and Thayer (1982), https://doi.org/10.1007/BF02293851; the test: Lawley (1940),
https://doi.org/10.1017/S037016460000674X; short runs before long ones: Biernacki, Celeux and Govaert (2003),
https://doi.org/10.1016/S0167-9473(02)00163-9; the climbs: :mod:`.em_climb`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from .em_climb import AcceleratedClimb, Climb
from .sufficient_statistics import check_statistics

_COLUMNS = 32  # most columns that are tried as a factor
_RANDOM = 4  # random candidates per start climbed to the end
_SHORT = 40  # EM steps of a candidate
_LOOSE = 100.0  # times ``tol`` for all starts; the best alone is climbed to ``tol`` itself
_ROWS_A_COLUMN = 50  # from here on the likelihood-ratio test is one by its asymptotic distribution
_FEW = 8  # so many times fewer axes than columns are not worth all eigenvectors
_SPARE = 10  # more axes than asked for, by which the wanted ones settle sooner
_POWERS = 4
_SURPRISE = 3.0  # standard deviations of that distribution above its mean: the model is rejected


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


def fit_factor_analysis(
    statistics, z_dim, *, starts=8, seed=0, tol=1e-9, max_iter=20_000, noise_floor=1e-4, accelerate=True, names=None
):
    """Fit ``z_dim`` factors to ``statistics`` (:func:`~.sufficient_statistics.sufficient_statistics`): FactorAnalysisFit.

    The first start, principal components, is climbed to its maximum. Where that is not the whole answer (see above) and
    ``starts`` is above one, candidates (a factor through each of up to 32 columns, four random draws per start) take a
    short climb; the best of them, ``starts`` with the first, are climbed to 100 ``tol``, and the best of these until a
    cycle gains less than ``tol`` nats per datum twice running, or for ``max_iter`` EM steps.
    No finite number of starts proves a maximum global: with many factors raise ``starts``.
    ``noise_floor`` is the least noise variance as a fraction of the column's own variance (on standardised data:
    absolute). ``accelerate=False`` is plain EM. ``names`` (D) of the columns appear in messages.
    BLAS runs on one thread meanwhile: the products are small, and threads that wait for each other cost more than they do.

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
    climb = AcceleratedClimb if accelerate else Climb
    with threadpool_limits(limits=1, user_api="blas"):
        candidates = (
            climb(correlation, noise_floor, *start).run(tol, min(_SHORT, max_iter))
            for start in starting_points(correlation, z_dim, _RANDOM * starts, np.random.default_rng(seed))
        )
        climbs = [next(candidates)]
        if starts > 1 and not _fits(statistics.num_data, correlation, z_dim, climbs[0].trace[-1]):
            climbs += sorted(candidates, key=lambda c: c.trace[-1], reverse=True)[: starts - 1]
            climbs = [c.run(_LOOSE * tol, max_iter) for c in climbs]
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


def _fits(num_data, correlation, z_dim, log_likelihood):
    """Whether a likelihood-ratio test takes the model, at this log-likelihood, for as good as the unrestricted Gaussian."""
    dim = len(correlation)
    freedom = 0.5 * ((dim - z_dim) ** 2 - dim - z_dim)
    if freedom <= 0.0 or num_data < _ROWS_A_COLUMN * dim:
        return False
    try:
        log_det = 2.0 * np.log(np.diag(np.linalg.cholesky(correlation))).sum()
    except np.linalg.LinAlgError:
        return False
    ratio = -num_data * (dim * (np.log(2.0 * np.pi) + 1.0) + log_det + 2.0 * log_likelihood)
    return bool(ratio < freedom + _SURPRISE * np.sqrt(2.0 * freedom))


def starting_points(correlation, z_dim, num_random, rng):
    """Draw triples (kind, loadings, noise): principal components, a factor through each column, random draws."""
    dim = len(correlation)
    values, vectors = _principal_axes(correlation, z_dim)
    principal = vectors * np.sqrt(np.maximum(values, 0.0))
    shrunk = vectors * np.sqrt(np.maximum(values - (dim - values.sum()) / (dim - z_dim), 0.0))
    yield "principal", shrunk, 1.0 - (shrunk**2).sum(axis=1)
    for column in rng.permutation(dim)[:_COLUMNS]:
        # Rotate the principal loadings so that one factor carries the column, then put it exactly through the column.
        rest = np.linalg.svd(principal[column][None])[2][1:].T
        loadings = np.column_stack([correlation[:, column], principal @ rest])
        yield f"column {column}", loadings, np.maximum(1.0 - (loadings**2).sum(axis=1), 0.01)
    for i in range(num_random):
        # The noise decides which maximum is near. Columns that start low tend to become Heywood cases, so half of the
        # draws give each column a level of its own, and half one of three common levels.
        loadings = rng.standard_normal((dim, z_dim))
        levels = rng.uniform(-4.0, 0.0, dim) if i % 2 else np.full(dim, -(i // 2 % 3))
        yield f"random {i}", loadings, 10.0**levels


def _principal_axes(correlation, z_dim):
    """The ``z_dim`` largest eigenvalues and their vectors (D, K); where they are few of many, near enough for a start."""
    width = z_dim + _SPARE
    if _FEW * width > len(correlation):
        values, vectors = np.linalg.eigh(correlation)
    else:  # subspace iteration from a fixed start: the cost of a few EM steps, where all eigenvectors cost fifty
        basis = np.random.default_rng(0).standard_normal((len(correlation), width))
        for _ in range(_POWERS):
            basis = np.linalg.qr(correlation @ basis)[0]
        values, vectors = np.linalg.eigh(basis.T @ correlation @ basis)
        vectors = basis @ vectors
    return values[: -z_dim - 1 : -1], vectors[:, : -z_dim - 1 : -1]
