r"""Linear-Gaussian models as numpy functions of the sufficient statistics: no torch, no data matrix after one pass.

.. math::

    z \sim N(0, I_K), \quad x \mid z \sim N(\mu + W z, \Psi), \qquad
    \log p(x) = \log N(x \mid \mu, W W^\top + \Psi)

With ``S = X'X / N`` (``X`` centred) computed once (:mod:`.sufficient_statistics`), a likelihood or an EM step costs
O(D^2 K), whatever N is.

Source: Rubin and Thayer (1982), EM algorithms for ML factor analysis, https://doi.org/10.1007/BF02293851; Liu, Rubin
and Wu (1998), parameter expansion to accelerate EM, https://doi.org/10.1093/biomet/85.4.755; Tipping and Bishop (1999),
probabilistic principal component analysis, https://doi.org/10.1111/1467-9868.00196.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .sufficient_statistics import check_statistics

_LOG_TWO_PI = float(np.log(2.0 * np.pi))


class Expectations(NamedTuple):
    """An E step averaged over the data: ``cross`` E[x z'] (D, K), ``second`` E[z z'] (K, K), and log p(x) in nats."""

    log_likelihood: float
    cross: np.ndarray
    second: np.ndarray


def fa_expectations(covariance, loadings, noise_variance):
    """The E step on ``covariance`` (D, D) for ``loadings`` (D, K) and ``noise_variance`` (D,) or a scalar."""
    noise_variance = np.broadcast_to(noise_variance, covariance.shape[:1])
    scaled = loadings / noise_variance[:, None]
    precision = np.eye(loadings.shape[1]) + loadings.T @ scaled
    posterior_covariance = np.linalg.inv(precision)
    gain = scaled @ posterior_covariance  # (D, K): E[z | x] = gain' x
    cross = covariance @ gain
    explained = gain.T @ cross
    # The distance as residual plus prior term: E[z|x] minimises it, so rounding in ``gain`` enters squared only. The
    # textbook difference of two traces loses ten digits when a noise variance is small.
    residual = np.diag(covariance) - 2.0 * (loadings * cross).sum(1) + ((loadings @ explained) * loadings).sum(1)
    distance = (residual / noise_variance).sum() + np.trace(explained)
    log_det = np.log(noise_variance).sum() + np.linalg.slogdet(precision)[1]
    log_likelihood = -0.5 * (len(covariance) * _LOG_TWO_PI + log_det + distance)
    second = posterior_covariance + explained
    return Expectations(float(log_likelihood), cross, 0.5 * (second + second.T))


def fa_log_likelihood(covariance, loadings, noise_variance):
    """Mean of log N(x | mean, W W' + Psi) over the data behind ``covariance``, in nats per datum.

    Woodbury's identity: O(D^2 K), never a D x D factorisation. Shapes (D, D), (D, K), and (D,) or a scalar.

    >>> round(fa_log_likelihood(np.eye(3), np.zeros((3, 2)), np.ones(3)), 6)
    -4.256816
    """
    return fa_expectations(covariance, loadings, noise_variance).log_likelihood


def fa_m_step(variances, expectations, noise_floor=0.0):
    """Loadings (D, K) and noise variances (D,), at least ``noise_floor`` (in the data's units), from an E step.

    The loadings do not depend on the noise, so a floor on the noise leaves this the exact constrained maximum.
    """
    loadings = np.linalg.solve(expectations.second, expectations.cross.T).T
    return loadings, np.maximum(variances - (loadings * expectations.cross).sum(axis=1), noise_floor)


def fa_em_step(covariance, loadings, noise_variance, noise_floor=0.0):
    """One EM step of factor analysis: new ``(loadings, noise_variance)``; the likelihood never falls."""
    return fa_m_step(np.diag(covariance), fa_expectations(covariance, loadings, noise_variance), noise_floor)


def expand_loadings(loadings, expectations):
    """Reduce the expanded model z ~ N(0, R) to z ~ N(0, I): the loadings times the Cholesky factor of R = E[z z']."""
    return loadings @ np.linalg.cholesky(expectations.second)


def fa_px_em(covariance, loadings, noise_variance, noise_floor=0.0):
    """One parameter-expanded EM step: EM in the model whose factors have a free covariance, reduced to N(0, I).

    Costs what :func:`fa_em_step` costs, never lowers the likelihood and has the same fixed points.
    """
    expectations = fa_expectations(covariance, loadings, noise_variance)
    loadings, noise_variance = fa_m_step(np.diag(covariance), expectations, noise_floor)
    return expand_loadings(loadings, expectations), noise_variance


def ppca_em_step(covariance, loadings, sigma2, noise_floor=0.0):
    """One EM step of probabilistic PCA, (D, K) and a scalar: new ``(loadings, sigma2)``."""
    expectations = fa_expectations(covariance, loadings, sigma2)
    loadings, noise_variance = fa_m_step(np.diag(covariance), expectations, -np.inf)
    return loadings, max(float(noise_variance.mean()), noise_floor)


def ppca_closed_form(statistics, z_dim, names=None):
    r"""Maximum likelihood of probabilistic PCA: ``(loadings (D, K), sigma2, log-likelihood in nats per datum)``.

    .. math::

        \sigma^2 = \frac{1}{D - K} \sum_{i > K} l_i, \qquad W = U_K (L_K - \sigma^2 I)^{1/2}

    with eigenvalues ``l`` of the covariance, largest first, and the rotation left at the principal axes. Raises
    ValueError where ``z_dim`` is not in 1..D-1, is not below the number of rows, or where the data lie in a subspace of
    ``z_dim`` dimensions, so that sigma2 -> 0 has no maximum.

    >>> from pyrarchy.zoo.sufficient_statistics import Statistics
    >>> loadings, sigma2, value = ppca_closed_form(Statistics(10, np.zeros(3), np.diag([4.0, 2.0, 1.0])), 1)
    >>> sigma2, round(value, 6)
    (1.5, -5.355428)
    """
    n, _, covariance = statistics
    dim = len(covariance)
    if not 1 <= z_dim < dim or n <= z_dim:
        check_statistics(statistics, z_dim, names)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    sigma2 = float(values[z_dim:].mean())
    if sigma2 <= dim * np.finfo(float).eps * values[0]:
        raise ValueError(
            f"z_dim: {z_dim} factors given, and the data lie in a subspace of that many dimensions, so the likelihood "
            "grows without bound as the noise vanishes: choose a smaller z_dim."
        )
    loadings = vectors[:, :z_dim] * np.sqrt(np.maximum(values[:z_dim] - sigma2, 0.0))
    log_det = np.log(values[:z_dim]).sum() + (dim - z_dim) * np.log(sigma2)
    return loadings, sigma2, float(-0.5 * (dim * _LOG_TWO_PI + log_det + dim))
