r"""Factor analysis and probabilistic PCA as numpy arrays: fitted, kept and evaluated without torch.

.. math::

    \log p(x) = -\tfrac12 \left[ D \ln 2\pi + \ln|\Psi| + \ln|I + W^\top \Psi^{-1} W|
        + (x - \mu - W m)^\top \Psi^{-1} (x - \mu - W m) + m^\top m \right], \qquad m = \mathbb{E}[z \mid x]

What a command needs that fits a file and no more. The parameters are those of :class:`~.factor_analysis.FactorAnalysis`
or :class:`~.ppca.PPCA`, which take them over as they are and add what Pyro is for.

Source: as :mod:`.linear_gaussian`.
"""

from __future__ import annotations

import math

import numpy as np

from .factor_analysis_em import FactorAnalysisFit, fit_factor_analysis
from .linear_gaussian import ppca_closed_form
from .sufficient_statistics import sufficient_statistics

MIN_SCALE = 1e-6  # a gradient step cannot send the density to infinity
_ROWS = 4096  # of a chunk


def check_factors(x_dim, z_dim, noise_floor):
    """Raise ValueError for ``z_dim`` not in 1..x_dim-1, or a floor that is no fraction of a variance."""
    if not 1 <= z_dim < x_dim:
        raise ValueError(f"z_dim: {z_dim} given for x_dim {x_dim}; 1 to x_dim - 1 factors can be told from noise.")
    if not 0.0 < noise_floor < 1.0:
        raise ValueError(f"noise_floor: {noise_floor} given; a fraction of a column's variance in (0, 1) is needed.")


def raw_scale_of(scale):
    """The parameter, a float64 array, whose softplus is ``scale - MIN_SCALE``; ValueError where that is not above zero."""
    above = np.asarray(scale, np.float64) - MIN_SCALE
    if (above <= 0.0).any():
        raise ValueError(f"scale: {float(above.min()) + MIN_SCALE:g} given; it must be above {MIN_SCALE:g}.")
    return above + np.log(-np.expm1(-above))


class FactorAnalysisArrays:
    """``x_dim`` columns, ``z_dim`` factors; ``isotropic`` gives all columns one noise scale (probabilistic PCA).

    ``parameters`` is ``None`` before :meth:`fit`, then the arrays ``mean`` (D,), ``loadings`` (D, K) and ``raw_scale``,
    (D,) or (), in ``dtype``. Raises ValueError as :func:`check_factors` does.

    >>> model = FactorAnalysisArrays(2, 1, isotropic=True)
    >>> _ = model.fit([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> model.log_marginal(np.zeros((4, 2))).shape
    (4,)
    """

    def __init__(self, x_dim, z_dim, *, noise_floor=1e-4, isotropic=False, dtype="float32"):
        check_factors(x_dim, z_dim, noise_floor)
        self.x_dim, self.z_dim, self.noise_floor, self.isotropic = x_dim, z_dim, noise_floor, isotropic
        self.dtype, self.parameters = dtype, None

    def fit(self, x, **options) -> FactorAnalysisFit:
        """Maximise the likelihood of ``x`` (N, D) and keep the parameters.

        ``options`` and the record returned are those of :func:`~.factor_analysis_em.fit_factor_analysis`; the closed form
        of probabilistic PCA has no use for them. Raises what that, or :func:`~.linear_gaussian.ppca_closed_form`, raises.
        """
        statistics = sufficient_statistics(np.asarray(x, np.float64) if self.dtype == "float64" else x)
        if self.isotropic:
            fit = fit_ppca(statistics, self.z_dim)
        else:
            fit = fit_factor_analysis(statistics, self.z_dim, **{"noise_floor": self.noise_floor, **options})
        variance = fit.noise_variance[0] if self.isotropic else fit.noise_variance
        found = {"mean": statistics.mean, "loadings": fit.loadings, "raw_scale": raw_scale_of(variance**0.5)}
        self.parameters = {name: np.asarray(value, self.dtype) for name, value in found.items()}
        return fit

    def log_marginal(self, x):
        """log p(x) in nats, (N,) in float64, for ``x`` (N, D) under the parameters as they are kept."""
        mean, loadings, raw_scale = (
            self.parameters[name].astype(np.float64) for name in ("mean", "loadings", "raw_scale")
        )
        scale = np.broadcast_to(np.logaddexp(0.0, raw_scale) + MIN_SCALE, self.x_dim)
        whitened = loadings / scale[:, None]
        precision = np.eye(self.z_dim) + whitened.T @ whitened
        log_det = 2.0 * np.log(scale).sum() + np.linalg.slogdet(precision)[1]
        gain = np.linalg.solve(precision, whitened.T).T  # (D, K)
        distance = np.empty(len(x))
        for i in range(0, len(x), _ROWS):
            rows = (np.asarray(x[i : i + _ROWS], np.float64) - mean) / scale
            z = rows @ gain
            # residual plus prior term: the difference of two large terms would lose their digits
            distance[i : i + _ROWS] = np.square(rows - z @ whitened.T).sum(1) + np.square(z).sum(1)
        return -0.5 * (self.x_dim * math.log(2.0 * math.pi) + log_det + distance)


def fit_ppca(statistics, z_dim) -> FactorAnalysisFit:
    """Probabilistic PCA's closed form as a record with one start and no steps; raises as it does."""
    loadings, sigma2, value = ppca_closed_form(statistics, z_dim)
    return FactorAnalysisFit(
        loadings=loadings,
        noise_variance=np.full(len(loadings), sigma2),
        log_likelihood=value,
        trace=np.array([value]),
        start_values=np.array([value]),
        start_kinds=("closed form",),
        heywood=(),
        noise_floor=0.0,
        steps=0,
        converged=True,
    )
