r"""Factor analysis: correlated columns explained by few Gaussian factors, and each column's own noise.

.. math::

    z_1 \sim N(0, I_K), \quad x \mid z_1 \sim N(\mu + W z_1, \mathrm{diag}(s^2)), \qquad
    \log p(x) = \log N(x \mid \mu, W W^\top + \mathrm{diag}(s^2))

Source: Spearman (1904), https://doi.org/10.2307/1412107; Rubin and Thayer (1982), EM algorithms for ML factor
analysis, https://doi.org/10.1007/BF02293851.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn import functional

from .factor_analysis_arrays import MIN_SCALE, check_factors, raw_scale_of
from .factor_analysis_em import FactorAnalysisFit, fit_factor_analysis
from .sufficient_statistics import Statistics, constant_columns, pooled, sufficient_statistics

__all__ = ["FactorAnalysis", "constant_columns"]


class FactorAnalysis(PyroModule):
    """``x_dim`` real columns, ``z_dim`` factors; sites ``z1`` (K) and ``x`` (D) in plate ``data``.

    Parameters ``mean`` (D,), ``loadings`` (D, K) and ``raw_scale``, which :attr:`scale` (D,) reads through a softplus.
    The exact :meth:`posterior`, :meth:`log_marginal` and :meth:`maximize` need no guide. ``noise_floor`` bounds
    the noise variance of an M step, as a fraction of the column's variance; drop constant columns first
    (:func:`constant_columns`). Raises ValueError for ``z_dim`` not in 1..x_dim-1.

    >>> model = FactorAnalysis(5, 2)
    >>> model.log_marginal(torch.zeros(3, 5)).shape, model.posterior(torch.zeros(3, 5)).event_shape
    (torch.Size([3]), torch.Size([2]))
    """

    def __init__(self, x_dim, z_dim, *, noise_floor=1e-4):
        super().__init__("model")
        check_factors(x_dim, z_dim, noise_floor)
        self.x_dim, self.z_dim, self.noise_floor = x_dim, z_dim, noise_floor
        self.mean = nn.Parameter(torch.zeros(x_dim))
        self.loadings = nn.Parameter(torch.randn(x_dim, z_dim) / math.sqrt(z_dim))
        self.raw_scale = nn.Parameter(torch.full(self._scale_shape(), math.log(math.expm1(1.0))))

    def _scale_shape(self):
        return (self.x_dim,)

    @property
    def scale(self):
        """Standard deviation of each column's noise."""
        return functional.softplus(self.raw_scale) + MIN_SCALE

    def forward(self, x):
        """Sample z1 and x; ``x`` (B, D) is observed."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            x_mean = self.mean + z1 @ self.loadings.mT
            return pyro.sample("x", dist.Normal(x_mean, self.scale).to_event(1), obs=x)

    def posterior(self, x):
        """Exact p(z1 | x) for ``x`` (B, D): MultivariateNormal, batch (B,), event (K,), one covariance for all."""
        loc, scale_tril, _ = self._condition(x)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)

    def log_marginal(self, x):
        """log p(x) in nats, (B,), for ``x`` (B, D) by Woodbury's identity: O(B D K), no D x D matrix."""
        loc, scale_tril, scale = self._condition(x)
        # The distance as residual plus prior term: subtracting two large terms would lose all of float32's digits.
        residual = (x - self.mean - loc @ self.loadings.mT) / scale
        distance = residual.square().sum(-1) + loc.square().sum(-1)
        log_det = 2.0 * (scale.log().sum() - scale_tril.diagonal().log().sum())
        return -0.5 * (self.x_dim * math.log(2.0 * math.pi) + log_det + distance)

    def _condition(self, x):
        """Posterior mean (B, K), the Cholesky factor (K, K) of its covariance, and the noise scale (D,)."""
        scale = self.scale.expand(self.x_dim)
        whitened = self.loadings / scale[:, None]
        precision = torch.eye(self.z_dim).to(x) + whitened.mT @ whitened
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        loc = ((x - self.mean) / scale) @ whitened @ covariance
        return loc, torch.linalg.cholesky(covariance), scale

    @torch.no_grad()
    def maximize(self, x, q):
        """Exact M step: the parameters that maximise E_q[log p(x, z1)] for ``x`` (B, D) and ``q`` over z1 (batch (B,)).

        Computed in float64. The mean is part of the step; where it is the data's mean already, this is the EM step on
        sufficient statistics. ``q`` has ``mean`` (B, K) and ``covariance_matrix`` (B, K, K).
        """
        self.maximize_statistics(self.expected_statistics(x, q, origin=x.double().mean(0)))

    @torch.no_grad()
    def expected_statistics(self, x, q=None, origin=None):
        """The E step: expected sufficient statistics of the complete data, means over ``x`` (B, D), in float64.

        Returns ``x`` (D,), ``xx`` (D,) of squares, ``xz`` (D, K), ``z`` (K,), ``zz`` (K, K) and ``origin`` (D,), all under
        ``q`` over z1 (by default :meth:`posterior`) and with x counted from ``origin`` (by default zero). Those of two
        batches about one origin may be averaged. A variance is later a difference of two moments, which costs
        ``(mean / scale)**2`` of float64's 16 digits about a distant origin: the data's mean is the best one.

        >>> model = FactorAnalysis(5, 2)
        >>> {name: tuple(value.shape) for name, value in model.expected_statistics(torch.zeros(3, 5)).items()}
        {'x': (5,), 'xx': (5,), 'xz': (5, 2), 'z': (2,), 'zz': (2, 2), 'origin': (5,)}
        """
        q = self.posterior(x) if q is None else q
        x, z = x.double(), q.mean.double()
        origin = x.new_zeros(self.x_dim) if origin is None else origin.to(x)
        x = x - origin
        return {
            "x": x.mean(0),
            "xx": x.square().mean(0),
            "xz": x.mT @ z / len(x),
            "z": z.mean(0),
            "zz": q.covariance_matrix.double().mean(0) + z.mT @ z / len(x),
            "origin": origin,
        }

    @torch.no_grad()
    def maximize_statistics(self, statistics):
        """Exact M step on what :meth:`expected_statistics` returns, or on averages of it over batches."""
        x, z = statistics["x"], statistics["z"]
        cross = statistics["xz"] - torch.outer(x, z)
        second = statistics["zz"] - torch.outer(z, z)
        loadings = torch.linalg.solve(second, cross, left=False)
        variance = (statistics["xx"] - x.square()).clamp(min=0.0)  # rounding may leave a constant column below zero
        noise = self._noise_step(variance - (loadings * cross).sum(-1), variance)
        self.set_parameters(statistics["origin"] + x - loadings @ z, loadings, noise.sqrt())

    def _noise_step(self, noise, variance):
        return torch.maximum(noise, self.noise_floor * variance)

    def statistics(self, x) -> Statistics:
        """Sufficient statistics of ``x`` (N, D), computed once, in float64."""
        return sufficient_statistics(x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x)

    def pool(self, parts) -> Statistics:
        """Sufficient statistics of all rows from those of the parts that they were cut into."""
        return pooled(parts)

    def maximize_likelihood(self, statistics, **options) -> FactorAnalysisFit:
        """Fit by EM on ``statistics`` from several starts and set the parameters; ``options`` and the returned record
        are those of :func:`~pyrarchy.zoo.factor_analysis_em.fit_factor_analysis`."""
        fit = fit_factor_analysis(statistics, self.z_dim, **{"noise_floor": self.noise_floor, **options})
        self.set_parameters(statistics.mean, fit.loadings, fit.noise_variance**0.5)
        return fit

    @torch.no_grad()
    def set_parameters(self, mean, loadings, scale):
        """Copy ``mean`` (D,), ``loadings`` (D, K) and ``scale`` (D,) into the parameters, in their own precision."""
        scale = torch.as_tensor(scale, dtype=torch.float64).reshape(self.raw_scale.shape)
        raw_scale = raw_scale_of(scale.cpu().numpy())
        self.mean.copy_(torch.as_tensor(mean))
        self.loadings.copy_(torch.as_tensor(loadings))
        self.raw_scale.copy_(torch.as_tensor(raw_scale))
