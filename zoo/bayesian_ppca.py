r"""Bayesian PCA: probabilistic PCA with a prior on everything, which switches off the factors that it does not need.

.. math::

    \tau \sim \mathrm{Gamma}(a_0, b_0), \quad \alpha_k \sim \mathrm{Gamma}(a_0, b_0), \quad
    W_{dk} \mid \alpha_k \sim N(0, \alpha_k^{-1}), \quad \mu_d \sim N(0, s_0^2), \\
    z_n \sim N(0, I_K), \quad x_n \mid z_n \sim N(\mu + W z_n, \tau^{-1} I), \qquad
    q = q(\tau)\, q(\alpha)\, q(W)\, q(\mu) \prod_n q(z_n)

(Gamma by shape and rate, N by variance). Each factor k has its own precision alpha_k (automatic relevance
determination): where the data give column k of W no support, alpha_k grows and the column shrinks to nothing.

Source: Bishop (1999), Variational principal components, https://doi.org/10.1049/cp:19991160.
"""

import math
from dataclasses import dataclass, field, replace

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch.distributions import kl_divergence

from .conjugate_factors import LOCAL, LOWER_CHOLESKY, POSITIVE, REAL, check_positive, expected_log


@dataclass(frozen=True)
class PPCAFactors:
    """Rows of W: N(loadings (D, K), L L') with L = ``loadings_tril`` (K, K); mu: N(mean (D,), mean_scale () ^2);
    alpha: Gamma(alpha_shape (K,), alpha_rate (K,)); tau: Gamma(tau_shape (), tau_rate ());
    z1: N(codes (N, K), M M') with M = ``codes_tril`` (K, K), the same for all data."""

    loadings: torch.Tensor = field(metadata=REAL)
    loadings_tril: torch.Tensor = field(metadata=LOWER_CHOLESKY)
    mean: torch.Tensor = field(metadata=REAL)
    mean_scale: torch.Tensor = field(metadata=POSITIVE)
    alpha_shape: torch.Tensor = field(metadata=POSITIVE)
    alpha_rate: torch.Tensor = field(metadata=POSITIVE)
    tau_shape: torch.Tensor = field(metadata=POSITIVE)
    tau_rate: torch.Tensor = field(metadata=POSITIVE)
    codes: torch.Tensor | None = field(default=None, metadata=LOCAL)
    codes_tril: torch.Tensor | None = field(default=None, metadata=LOCAL)


class BayesianPPCA(PyroModule):
    """Rows ``x`` (N, D) and codes ``z1`` (K) in plate ``data``; ``alpha`` (K,), ``loadings`` (D, K), ``mean`` (D,) and
    ``tau`` () are global. No trainable parameter.

    :param x_dim, z_dim: D and K.
    :param shape, rate: a_0 and b_0 of the precisions. :param mean_scale: s_0.
    :raises ValueError: for ``z_dim`` not in 1..x_dim-1, or a hyperparameter that is not positive.

    >>> model, x = BayesianPPCA(5, 2), torch.randn(7, 5)
    >>> q = model.start(x)
    >>> q.codes.shape, model.bound(x, q=q).shape
    (torch.Size([7, 2]), torch.Size([]))
    """

    def __init__(self, x_dim, z_dim, *, shape=1e-2, rate=1e-2, mean_scale=10.0):
        super().__init__("model")
        if not 1 <= z_dim < x_dim:
            raise ValueError(f"z_dim: {z_dim} given for x_dim {x_dim}; 1 to x_dim - 1 factors can be told from noise.")
        check_positive(shape=shape, rate=rate, mean_scale=mean_scale)
        self.x_dim, self.z_dim, self.shape, self.rate, self.mean_scale = x_dim, z_dim, shape, rate, mean_scale

    def forward(self, x):
        """Sample all globals and the codes; ``x`` (N, D) is observed."""
        tau = pyro.sample("tau", dist.Gamma(x.new_tensor(self.shape), self.rate))
        alpha = pyro.sample("alpha", dist.Gamma(x.new_full((self.z_dim,), self.shape), self.rate).to_event(1))
        scale = alpha.rsqrt().unsqueeze(-2).expand(*alpha.shape[:-1], self.x_dim, self.z_dim)
        loadings = pyro.sample("loadings", dist.Normal(torch.zeros_like(scale), scale).to_event(2))
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(self.x_dim), self.mean_scale).to_event(1))
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            x_mean = mean + (loadings @ z1.unsqueeze(-1)).squeeze(-1)
            return pyro.sample("x", dist.Normal(x_mean, tau.rsqrt().unsqueeze(-1)).to_event(1), obs=x)

    def start(self, x, seed=0):
        """A first q at the principal axes of ``x``. Nothing is drawn, so ``seed`` does not matter."""
        d, k = self.x_dim, self.z_dim
        values, axes = torch.linalg.eigh(torch.cov(x.mT, correction=0))
        values, axes = values.flip(0), axes.flip(1)
        noise = values[k:].mean().clamp(min=1e-6 * values.mean().clamp(min=1e-6))
        loadings = axes[:, :k] * (values[:k] - noise).clamp(min=1e-3 * noise).sqrt()
        eye, one = torch.eye(k).to(x), x.new_ones(())
        q = PPCAFactors(
            loadings=loadings,
            loadings_tril=eye * (noise / len(x)).sqrt(),
            mean=x.mean(0),
            mean_scale=(noise / len(x)).sqrt(),
            alpha_shape=(self.shape + d / 2) * torch.ones_like(eye[0]),
            alpha_rate=self.rate + loadings.square().sum(0) / 2,
            tau_shape=(self.shape + x.numel() / 2) * one,
            tau_rate=(self.shape + x.numel() / 2) * noise,
        )
        return self.localise(x, q=q)

    def coordinate_steps(self, x, q):
        """One sweep: yields (block, q) after each closed update, the codes last."""
        tau = q.tau_shape / q.tau_rate
        precision = 1 / self.mean_scale**2 + len(x) * tau
        rest = (x - q.codes @ q.loadings.mT).sum(0)
        q = replace(q, mean=tau * rest / precision, mean_scale=precision.rsqrt())
        yield "mean", q
        precision = torch.diag(q.alpha_shape / q.alpha_rate) + tau * self._codes_square(q)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        cross = (x - q.mean).mT @ q.codes
        q = replace(q, loadings=tau * cross @ covariance, loadings_tril=torch.linalg.cholesky(covariance))
        yield "loadings", q
        square = self._loadings_square(q).diagonal()
        q = replace(q, alpha_shape=(self.shape + self.x_dim / 2) + 0 * square, alpha_rate=self.rate + square / 2)
        yield "alpha", q
        shape = q.tau_rate.new_tensor(self.shape + x.numel() / 2)
        q = replace(q, tau_shape=shape, tau_rate=self.rate + self._residual(x, q) / 2)
        yield "tau", q
        yield "codes", self.localise(x, q=q)

    def localise(self, x, q):
        """``q`` with the best codes for ``x`` (N, D) given its global factors."""
        tau = q.tau_shape / q.tau_rate
        precision = torch.eye(self.z_dim).to(x) + tau * self._loadings_square(q)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        codes = tau * (x - q.mean) @ q.loadings @ covariance
        return replace(q, codes=codes, codes_tril=torch.linalg.cholesky(covariance))

    def _loadings_square(self, q):
        """E[W'W], (K, K)."""
        return q.loadings.mT @ q.loadings + self.x_dim * q.loadings_tril @ q.loadings_tril.mT

    def _codes_square(self, q):
        """Sum over data of E[z z'], (K, K)."""
        return q.codes.mT @ q.codes + len(q.codes) * q.codes_tril @ q.codes_tril.mT

    def _residual(self, x, q):
        """E of the sum of squares |x - mu - W z|^2 over all data, shape ()."""
        centred = x - q.mean
        squares = centred.square().sum() + x.numel() * q.mean_scale**2
        cross = (centred * (q.codes @ q.loadings.mT)).sum()
        return squares - 2 * cross + (self._loadings_square(q) * self._codes_square(q)).sum()

    def factor(self, name, q, values):
        """The factor of q at site ``name``; ``values``, the samples above, have no part in it."""
        if name == "loadings":
            return dist.MultivariateNormal(q.loadings, scale_tril=q.loadings_tril).to_event(1)
        if name == "z1":
            return dist.MultivariateNormal(q.codes, scale_tril=q.codes_tril)
        if name == "mean":
            return dist.Normal(q.mean, q.mean_scale).to_event(1)
        return (
            dist.Gamma(q.tau_shape, q.tau_rate)
            if name == "tau"
            else dist.Gamma(q.alpha_shape, q.alpha_rate).to_event(1)
        )

    def bound(self, x, q):
        """Exact ELBO of the data set in nats, shape ()."""
        tau, alpha = q.tau_shape / q.tau_rate, q.alpha_shape / q.alpha_rate
        log_tau, log_alpha = expected_log(q.tau_shape, q.tau_rate), expected_log(q.alpha_shape, q.alpha_rate)
        fit = 0.5 * (x.numel() * (log_tau - math.log(2 * math.pi)) - tau * self._residual(x, q))
        n, d, k = len(x), self.x_dim, self.z_dim
        codes = 0.5 * (self._codes_square(q).trace() - n * k) - n * q.codes_tril.diagonal().log().sum()
        log_det = d * q.loadings_tril.diagonal().log().sum()
        loadings = 0.5 * ((alpha * self._loadings_square(q).diagonal()).sum() - d * (log_alpha.sum() + k)) - log_det
        mean = kl_divergence(dist.Normal(q.mean, q.mean_scale), dist.Normal(torch.zeros_like(q.mean), self.mean_scale))
        prior = dist.Gamma(tau.new_tensor(self.shape), tau.new_tensor(self.rate))
        precisions = kl_divergence(dist.Gamma(q.tau_shape, q.tau_rate), prior)
        precisions = precisions + kl_divergence(dist.Gamma(q.alpha_shape, q.alpha_rate), prior.expand((k,))).sum()
        return fit - codes - loadings - mean.sum() - precisions
