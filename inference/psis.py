r"""Pareto-smoothed importance sampling: stabilised weights, and k-hat, which says whether to trust them.

.. math:: r_s = \log p(x, z_s) - \log q(z_s), \qquad
          p(r \mid r > u) \approx \mathrm{GPD}(k, \sigma)

The :math:`M = \lceil\min(S/5, 3\sqrt S)\rceil` largest of S ratios are replaced by the expected order statistics of a
generalised Pareto fitted to them. **The sign is pinned here:** the input is log p - log q, so that large is heavy.
(ArviZ 0.x takes these ratios, ArviZ 1.x takes log-likelihoods, with the other sign.)

Source: Vehtari, Simpson, Gelman, Yao, Gabry (2024), JMLR 25(72), https://jmlr.org/papers/v25/19-556.html;
Zhang, Stephens (2009), Technometrics 51(3), https://doi.org/10.1198/tech.2009.08017 (the fit, with the weak prior
towards k = 1/2 worth ten observations).

Differs from the paper: k-hat is 0 where the largest ratios are all equal, so that an exact guide, whose weights are
constant, is not reported as a failure.
"""

import numpy as np

# Columns are fitted in blocks, because the fit tries about 50 candidates for each of the M tail values of a column.
_BLOCK_ELEMENTS = 4_000_000
_PRIOR_DRAWS, _PRIOR_K = 10, 0.5
_MIN_TAIL = 5
#: Below GOOD the weights have a finite variance; from USABLE on no correction by them helps.
GOOD, USABLE = 0.5, 0.7


def psis(log_ratios):
    """Smooth and normalise importance ratios along the first axis.

    :param log_ratios: log p - log q in nats, shape (S, ...), draws first. ``-inf`` is a draw of weight zero.
    :returns: ``(log_weights, k_hat)``: log weights of shape (S, ...), which sum to one over draws after ``exp``, and
        k_hat of shape (...). Below .5 is good, .5 to .7 usable, above .7 not to be trusted. Two conventions: k_hat is
        0 where the M + 1 largest ratios are equal up to rounding (constant weights: nothing to smooth), and ``inf``
        where fewer than five draws lie in the tail, so that it cannot be estimated (always so for S <= 20).
    :raises ValueError: for no draws, a NaN, a ratio of plus infinity, or a column in which every weight is zero.

    >>> import numpy as np
    >>> z = np.random.default_rng(0).standard_normal((1000, 2)) * 0.5  # q = N(0, 1/4), p = N(0, 1): k = 3/4
    >>> log_weights, k_hat = psis(np.log(0.5) + 1.5 * z**2)
    >>> log_weights.shape, k_hat.shape
    ((1000, 2), (2,))
    >>> np.allclose(np.exp(log_weights).sum(0), 1)
    True
    """
    ratios = np.asarray(log_ratios)
    eps = np.finfo(ratios.dtype if ratios.dtype.kind == "f" else float).eps
    if ratios.ndim == 0 or ratios.shape[0] == 0:
        raise ValueError(f"psis needs log ratios of shape (S, ...) with S >= 1 draws, got shape {ratios.shape}")
    # One row per column of the input: sorting and fitting then run over contiguous memory.
    x = ratios.reshape(ratios.shape[0], -1).T.astype(float, order="C")
    largest = x.max(1, initial=-np.inf)
    if not np.isfinite(largest).all():
        bad = int(np.argmin(np.isfinite(largest)))
        raise ValueError(
            f"psis: column {bad} of the log ratios has maximum {largest[bad]}; needed are numbers below +inf, at least "
            "one of them finite. Check log p - log q of that datum for a NaN or a draw outside the support."
        )
    scale = np.maximum(1.0, np.abs(largest))
    x -= largest[:, None]
    k_hat = np.full(len(x), np.inf)
    block = max(1, _BLOCK_ELEMENTS // (60 * _tail_size(x.shape[1])))
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        _smooth(x[rows], k_hat[rows], 8 * eps * scale[rows])
    x -= np.log(np.exp(x).sum(1))[:, None]
    return np.ascontiguousarray(x.T).reshape(ratios.shape), k_hat.reshape(ratios.shape[1:])


def trust(k_hat):
    """What k-hat allows, in words: ``good`` below .5, ``usable`` (with correction) below .7, else ``do not trust``.

    NaN, which is no k-hat at all, is not to be trusted either.

    >>> trust(0.3), trust(0.5), trust(0.7), trust(float("nan"))
    ('good', 'usable', 'do not trust', 'do not trust')
    """
    return "good" if k_hat < GOOD else "usable" if k_hat < USABLE else "do not trust"


def pareto_k(log_weights):
    """k-hat of importance weights, draws first: as :func:`psis`, and 0 where all weights agree to one per cent.

    Fewer than 25 draws have no tail to fit: NaN.

    Where the guide is the posterior, up to rounding, the tail holds nothing but rounding errors, whose shape says nothing
    of the weights; an average of numbers that agree to one per cent needs no warning.
    """
    log_weights = np.asarray(log_weights)
    if len(log_weights) < 25:
        return np.full(log_weights.shape[1:], np.nan)
    return np.where(np.ptp(log_weights, axis=0) < 0.01, 0.0, psis(log_weights)[1])


def _tail_size(num_draws):
    return int(np.ceil(min(num_draws / 5, 3 * num_draws**0.5)))


def _smooth(x, k_hat, rounding):
    """Smooth the tails of x (rows, S), whose row maxima are 0, and fill k_hat (rows,), both in place."""
    tail = _tail_size(x.shape[1])
    if tail < _MIN_TAIL:
        return
    index = np.argpartition(x, -tail - 1, axis=1)[:, -tail - 1 :]
    values = np.take_along_axis(x, index, 1)
    order = np.argsort(values, axis=1)
    index, values = np.take_along_axis(index, order, 1), np.take_along_axis(values, order, 1)
    k_hat[values[:, 0] >= -rounding] = 0.0
    # Beyond the smallest positive double a weight is zero: such draws are no tail.
    cutoff = np.maximum(values[:, 0], np.log(np.finfo(float).tiny))
    sizes = (values > cutoff[:, None]).sum(1)
    sizes[k_hat == 0.0] = 0
    # Ties shorten a tail; rows with tails of one length are fitted together (nearly always a single group).
    for size in np.unique(sizes[sizes >= _MIN_TAIL]):
        rows = np.flatnonzero(sizes == size)
        u = cutoff[rows, None]
        excess = np.exp(u) * np.expm1(values[rows, -size:] - u)
        k, sigma = _fit_pareto(excess)
        ranks = np.log1p(-np.arange(0.5, size) / size)
        with np.errstate(all="ignore"):
            inverse = np.where(np.abs(k) < 1e-15, -ranks, np.expm1(-k * ranks) / k)
            # The largest smoothed weight never exceeds the largest raw one, which is exp(0).
            smoothed = np.minimum(np.log(inverse * sigma + np.exp(u)), 0.0)
        good = np.isfinite(k[:, 0]) & np.isfinite(smoothed).all(1)
        k_hat[rows[good]] = k[good, 0]
        x[rows[good, None], index[rows[good], -size:]] = smoothed[good]


def _fit_pareto(excess):
    """Fit a generalised Pareto to sorted positive rows (rows, n): returns k and sigma, (rows, 1) each.

    Zhang and Stephens: the mean of a quasi-posterior of b = -k / sigma over a grid; k is then the mean log(1 - b x).
    """
    n = excess.shape[1]
    grid = 30 + int(n**0.5)
    with np.errstate(all="ignore"):  # a row that underflows ends as NaN, which the caller leaves unsmoothed
        b = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
        b = b / (3 * excess[:, int(n / 4 + 0.5) - 1, None]) + 1 / excess[:, -1:]
        k = np.stack([np.log1p(-b[:, j, None] * excess).mean(1) for j in range(grid)], axis=1)
        profile = n * (np.log(-b / k) - k - 1)
        weights = np.exp(profile - profile.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        weights[weights < 10 * np.finfo(float).eps] = 0
        b = (b * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
        k = np.log1p(-b * excess).mean(1, keepdims=True)
        return (n * k + _PRIOR_DRAWS * _PRIOR_K) / (n + _PRIOR_DRAWS), -k / b
