r"""How many nats a code holds of a label or of a number: a lower bound, by the held-out error of a classifier.

.. math:: I(y; z) = H(y) - H(y \mid z) \ge H(y) - \mathbb E[-\log q(y \mid z)]

for any classifier q; here each label's codes get a Gaussian of their own, fitted on the other folds. A continuous quantity
is cut into bins of equal counts first, which can only lose information.

Source: Barber & Agakov (2003), The IM algorithm: a variational approach to information maximization.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Information:
    """A lower bound on a mutual information, in nats.

    :ivar float nats: the bound; below zero (by its error) where the code says nothing.
    :ivar float error: its standard error over the data.
    :ivar float entropy: H(y), the most that it can be.
    """

    nats: float
    error: float
    entropy: float


def label_information(codes, labels, *, folds=5, seed=0):
    """A lower bound on the nats that codes hold of discrete labels.

    :param codes: (N, units). One *draw* from the guide per datum measures what the code says; posterior means, from
        which the guide's noise is gone, measure more than that.
    :param labels: (N,) integers.
    :param int folds: parts of the data, each graded by the classifier of the others.
    :param int seed: seed of the division into parts.
    :returns: :class:`Information`.
    :raises ValueError: for shapes that do not fit, or a label with fewer data than folds.

    >>> import numpy as np
    >>> labels = np.arange(1000) % 2
    >>> found = label_information(10.0 * labels[:, None] + np.random.default_rng(0).normal(size=(1000, 1)), labels)
    >>> round(found.nats, 2), round(found.entropy, 2)
    (0.69, 0.69)
    """
    codes, labels = np.asarray(codes, np.float64), np.asarray(labels)
    if codes.ndim != 2 or labels.shape != codes.shape[:1]:
        raise ValueError(f"codes must be (N, units) and labels (N,), not {codes.shape} and {labels.shape}")
    if folds < 2:
        raise ValueError(f"folds must be at least 2, not {folds}")
    names, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min() < max(folds, 2):
        raise ValueError(f"label {names[counts.argmin()]} has {counts.min()} data: give fewer folds than {folds}")
    part = np.empty(len(labels), int)
    shuffled = np.random.default_rng(seed)
    for label in range(len(names)):  # each part holds every label
        rows = shuffled.permutation(np.flatnonzero(index == label))
        part[rows] = np.arange(len(rows)) % folds
    surprise = np.empty(len(labels))
    for fold in range(folds):
        test = part == fold
        scores = _log_posterior(codes[~test], index[~test], codes[test], len(names))
        surprise[test] = -scores[np.arange(test.sum()), index[test]]
    share = counts / len(labels)
    entropy = float(-(share * np.log(share)).sum())
    gain = -np.log(share)[index] - surprise
    return Information(float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(len(gain))), entropy)


def number_information(codes, numbers, *, bins=10, folds=5, seed=0):
    """The same of a continuous quantity (N,), cut into bins of equal counts: at most log(bins) nats."""
    numbers = np.asarray(numbers)
    if numbers.ndim != 1 or bins < 2:
        raise ValueError(f"numbers must be (N,) and bins at least 2, not {numbers.shape} and {bins}")
    inner = np.quantile(numbers, np.arange(1, bins) / bins)
    return label_information(codes, np.searchsorted(inner, numbers), folds=folds, seed=seed)


def _log_posterior(codes, index, at, num):
    """log q(label | code), (M, num), of one Gaussian a label, its covariance drawn a little to the pooled one."""
    units = codes.shape[1]
    means = np.stack([codes[index == label].mean(0) for label in range(num)])
    pooled = np.atleast_2d(np.cov(codes - means[index], rowvar=False)) + 1e-9 * np.eye(units)
    scores = np.empty((len(at), num))
    for label in range(num):
        own = codes[index == label] - means[label]
        covariance = (own.T @ own + (units + 1) * pooled) / (len(own) + units + 1)
        factor = np.linalg.cholesky(covariance)
        white = np.linalg.solve(factor, (at - means[label]).T)
        scores[:, label] = math.log(len(own)) - np.log(factor.diagonal()).sum() - 0.5 * (white**2).sum(0)
    top = scores.max(1, keepdims=True)
    return scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))
