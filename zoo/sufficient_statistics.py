r"""Mean and covariance of a data set in one pass, whatever its size: all that a linear-Gaussian likelihood needs.

.. math::

    S = \frac1N \sum_i (x_i - \bar x)(x_i - \bar x)^\top
      = \frac1N \sum_i (x_i - c)(x_i - c)^\top - (\bar x - c)(\bar x - c)^\top

``c`` is the mean of a few rows: close enough that the second form cancels nothing, so the rows are read once for the
products. A chunk of rows at a time is centred, and multiplied by its own transpose, which numpy hands to BLAS ``syrk``:
half a general product. A file mapped by ``numpy.load(path, mmap_mode="r")`` is never copied whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ROWS = 4096  # of a chunk
_SAMPLE = 500  # rows, at least, whose mean is subtracted
_LARGE = 1e9  # multiplications; fewer take a moment in float64
_FAR = 16.0  # standard deviations from zero: a sixteenth of float32's numbers are left
_CLEAR = 1e-3  # of a column's variance, kept by every direction: far above the rounding of float32 products


class Statistics(NamedTuple):
    """What a linear-Gaussian likelihood needs of a data set: number of rows, ``mean`` (D,), ``covariance`` (D, D)."""

    num_data: int
    mean: np.ndarray
    covariance: np.ndarray


def sufficient_statistics(x, chunk=_ROWS):
    """Number of rows, mean and covariance ``X'X / N`` (divisor N) of real data ``x`` (N, D), returned in float64.

    ``chunk`` rows at a time are centred and multiplied: no other copy of the data is made. The products are float64, with
    one exception: float32 data that need more than 10^9 multiplications are multiplied in float32, each chunk's product
    added up in float64. That is kept only where the correlations are far from singular, so that its rounding is far below
    the least noise variance; else the pass is made again in float64.
    Raises ValueError for anything but a matrix of finite numbers with at least two rows.

    >>> sufficient_statistics([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]).mean
    array([2., 2.])
    """
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"x: shape {x.shape} given; a matrix (rows, columns) is needed: reshape or flatten it first.")
    n, dim = x.shape
    if n < 2:
        raise ValueError(f"x: {n} row(s) given; a covariance needs at least two: pass the whole data set.")
    if chunk < 1:
        raise ValueError(f"chunk: {chunk} given; it is a number of rows, at least 1.")
    if x.dtype == np.float32 and float(n) * dim**2 > _LARGE:
        statistics = _accumulate(x, chunk, np.float32)
        if _is_clear(statistics.covariance):
            return statistics
    statistics = _accumulate(x, chunk, np.float64)
    finite = np.isfinite(statistics.mean)
    if not finite.all():
        raise ValueError(f"x: column(s) {some_columns(~finite)} hold missing or infinite values: drop or fill them.")
    return statistics


def pooled(parts):
    r"""The :class:`Statistics` of all rows from those of parts, :math:`S = \sum_p \frac{n_p}{N} [S_p + d_p d_p^\top]`.

    ``d`` is the distance of a part's mean from the whole one: nothing large is subtracted.

    >>> x = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0], [1.0, 0.0], [3.0, 5.0]])
    >>> both = pooled([sufficient_statistics(x[:2]), sufficient_statistics(x[2:])])
    >>> both.num_data, np.allclose(both.covariance, np.cov(x.T, bias=True))
    (5, True)
    """
    n = sum(part.num_data for part in parts)
    mean = sum(part.num_data / n * part.mean for part in parts)
    around = (part.covariance + np.outer(part.mean - mean, part.mean - mean) for part in parts)
    covariance = sum(part.num_data / n * spread for part, spread in zip(parts, around, strict=True))
    return Statistics(n, mean, covariance)


def _accumulate(x, chunk, dtype):
    """One pass with products in ``dtype``; what overflows or is missing ends as a number that is not finite."""
    n, dim = x.shape
    with np.errstate(over="ignore", invalid="ignore"):
        sample = x[:: max(1, n // _SAMPLE)]
        mean, spread = sample.mean(axis=0, dtype=np.float64), sample.std(axis=0, dtype=np.float64)
        centre = mean.astype(dtype)
        rest = (mean - centre).astype(dtype)
        # Float32 numbers far from zero lie on a grid, and so do their distances from a float32 centre: the sums of their
        # squares would be rounded to one side. A second subtraction takes them off the grid.
        on_grid = rest.any() and (abs(mean) > _FAR * spread).any()
        total, products = np.zeros(dim), np.zeros((dim, dim))
        rows, product = np.empty((min(chunk, n), dim), dtype), np.empty((dim, dim), dtype)
        ones = np.ones(len(rows), dtype)
        for i in range(0, n, chunk):
            part = x[i : i + chunk]
            a = np.subtract(part, centre, out=rows[: len(part)])
            total += ones[: len(part)] @ a
            if on_grid:
                a -= rest
            products += np.matmul(a.T, a, out=product)  # an array with its own transpose: syrk
        mean = centre + total / n
        shift = total / n - on_grid * rest
        return Statistics(n, mean, products / n - np.outer(shift, shift))


def _is_clear(covariance):
    """Whether every direction of the standardised columns keeps a variance above ``_CLEAR``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(np.diag(covariance))
        correlation = covariance / np.outer(deviation, deviation)
    if not np.isfinite(correlation).all():
        return False
    try:
        np.linalg.cholesky(correlation - _CLEAR * np.eye(len(correlation)))
    except np.linalg.LinAlgError:
        return False
    return True


def constant_columns(x):
    """Indices of the columns of ``x`` (N, D) that never change: factor analysis has no likelihood there.

    >>> constant_columns([[1.0, 5.0, 2.0], [2.0, 5.0, 2.0]]).tolist()
    [1, 2]
    """
    x = np.asarray(x)
    return np.flatnonzero((x == x[:1]).all(axis=0))


def check_statistics(statistics, z_dim, names=None):
    """Raise ValueError where ``z_dim`` factors cannot be fitted to ``statistics``; columns are named by ``names``."""
    n, mean, covariance = statistics
    dim = len(covariance)
    if not 1 <= z_dim < dim:
        raise ValueError(f"z_dim: {z_dim} factors given for {dim} columns; 1 to {dim - 1} can be fitted: choose fewer.")
    if n <= z_dim:
        raise ValueError(f"x: {n} row(s) given for {z_dim} factors; more rows than factors are needed: lower z_dim.")
    # A mean is rounded, so a constant column leaves a variance of about (eps * mean)^2, not zero.
    constant = np.diag(covariance) <= (1e-13 * mean) ** 2
    if constant.any():
        raise ValueError(
            f"x: column(s) {some_columns(constant, names)} are constant, so their noise has no maximum likelihood: "
            "drop them first (constant_columns(x) lists them)."
        )


def some_columns(mask, names=None, limit=8):
    """The first columns of a mask in words, for a message."""
    found = [str(i) if names is None else f"{i} ({names[i]})" for i in np.flatnonzero(mask)]
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")
