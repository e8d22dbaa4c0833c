r"""What K log importance weights of a datum say: the log of their mean, how many of them count, and how far it may be off.

.. math::

    \log \hat p = \log \tfrac1K \sum_k w_k, \qquad \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}, \qquad
    \mathrm{sd}(\log \hat p) \approx \frac{\mathrm{sd}(w)}{\sqrt K \, \bar w} = \sqrt{\frac{K / \mathrm{ESS} - 1}{K - 1}}

The last is the delta method, good while it is small against one; by its second order, log of the mean lies below
log p(x) by half its square.
"""

import math

import numpy as np


def log_mean(log_w):
    """Log of the mean over the first axis, (K, ...) to (...). Where all weights are zero: minus infinity."""
    top = _largest(log_w)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(log_w - top).mean(0))


def effective_number(log_w):
    """Effective number of the weights along the first axis, between 1 and K; NaN where all are zero."""
    w = np.exp(log_w - _largest(log_w))
    with np.errstate(invalid="ignore"):
        return w.sum(0) ** 2 / (w**2).sum(0)


def error_of_log_mean(ess, num):
    """Standard error of the log of the mean of ``num`` independent weights, from their effective number; NaN for one.

    >>> error_of_log_mean(np.array([100.0, 50.0]), 100).round(3)
    array([0.   , 0.101])
    """
    ess = np.asarray(ess, float)
    if num < 2:
        return np.full(ess.shape, math.nan)
    return np.sqrt(np.maximum(num / ess - 1, 0.0) / (num - 1))


def error_of_mean(errors):
    """Standard error of a mean over data of independent figures, from their own standard errors (N,)."""
    return float(np.sqrt(np.square(errors).sum()) / len(errors))


def error_over_data(values):
    """Standard error of the mean of ``values`` (N,) over the data; NaN for one datum."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _largest(log_w):
    top = log_w.max(0)
    return np.where(np.isfinite(top), top, 0.0)
