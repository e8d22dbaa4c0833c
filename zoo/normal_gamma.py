r"""Normal data with unknown mean and precision: the smallest model whose mean-field posterior is not the exact one.

.. math::

    \tau \sim \mathrm{Gamma}(a_0, b_0), \quad \mu \mid \tau \sim N(\mu_0, (\lambda_0 \tau)^{-1}), \quad
    x_n \sim N(\mu, \tau^{-1}), \qquad
    p(\mu, \tau \mid x) = \mathrm{Gamma}(\tau \mid a_N, b_N)\, N(\mu \mid \mu_N, (\lambda_N \tau)^{-1})

(Gamma by shape and rate, N by variance). Posterior and evidence are known exactly; the factorised q(mu) q(tau) has the
closed updates below, so what mean field costs, KL(q || p), is known to the last digit.

Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.3; MacKay (2003), Information Theory,
Inference, and Learning Algorithms, section 33.5, https://www.inference.org.uk/mackay/itila/.
"""

import math
from dataclasses import dataclass, field, replace

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch.distributions import kl_divergence

from .conjugate_factors import POSITIVE, REAL, check_positive, expected_log


@dataclass(frozen=True)
class NormalGammaFactors:
    """q(mu) = N(loc, scale^2) and q(tau) = Gamma(shape, rate), all of shape ()."""

    loc: torch.Tensor = field(metadata=REAL)
    scale: torch.Tensor = field(metadata=POSITIVE)
    shape: torch.Tensor = field(metadata=POSITIVE)
    rate: torch.Tensor = field(metadata=POSITIVE)


class NormalGamma(PyroModule):
    """``x`` (N,) in plate ``data``; global latents ``tau`` and ``mu``. No trainable parameter.

    :param loc, strength: mu_0 and lambda_0, the prior mean and how many data it is worth.
    :param shape, rate: a_0 and b_0 of the precision.
    :raises ValueError: for a hyperparameter that is not positive (``loc`` may be any number).

    >>> model, x = NormalGamma(), torch.tensor([0.5, 1.0, 3.0])
    >>> q = model.start(x)
    >>> bool(model.bound(x, q=q) <= model.log_evidence(x))
    True
    """

    def __init__(self, loc=0.0, strength=1.0, shape=1.0, rate=1.0):
        super().__init__("model")
        check_positive(strength=strength, shape=shape, rate=rate)
        self.loc, self.strength, self.shape, self.rate = loc, strength, shape, rate

    def forward(self, x):
        """Sample tau and mu; ``x`` (N,) is observed."""
        tau = pyro.sample("tau", dist.Gamma(x.new_tensor(self.shape), self.rate))
        mu = pyro.sample("mu", dist.Normal(self.loc, (self.strength * tau).rsqrt()))
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)

    def update(self, x):
        """Exact (mu_N, lambda_N, a_N, b_N) for ``x`` (N,)."""
        n, mean = len(x), x.mean()
        strength = self.strength + n
        loc = (self.strength * self.loc + n * mean) / strength
        spread = (x - mean).square().sum() + self.strength * n / strength * (mean - self.loc) ** 2
        return loc, strength, self.shape + n / 2, self.rate + spread / 2

    def posterior(self, x):
        """Exact p(tau | x), and p(mu | tau, x) as a function of the samples above, as the guide ``Exact`` takes them."""
        loc, strength, shape, rate = self.update(x)
        return {
            "tau": dist.Gamma(rate.new_tensor(shape), rate),
            "mu": lambda values: dist.Normal(loc, (strength * values["tau"]).rsqrt()),
        }

    def log_evidence(self, x):
        """log p(x) of the whole data set in nats, shape ()."""
        _, strength, shape, rate = self.update(x)
        gammas = math.lgamma(shape) - math.lgamma(self.shape)
        odds = 0.5 * math.log(self.strength / strength) - len(x) / 2 * math.log(2 * math.pi)
        return self.shape * math.log(self.rate) - shape * rate.log() + gammas + odds

    def start(self, x, seed=0):
        """A first q: the prior's precision and what follows for mu. Nothing is drawn, so ``seed`` does not matter."""
        one = x.new_ones(())
        q = NormalGammaFactors(self.loc * one, one, self.shape * one, self.rate * one)
        return self._mu_step(x, q)

    def coordinate_steps(self, x, q):
        """One sweep: yields (block, q) after each closed update."""
        q = self._mu_step(x, q)
        yield "mu", q
        distance = (x - q.loc).square().sum() + self.strength * (q.loc - self.loc) ** 2
        spread = distance + (len(x) + self.strength) * q.scale**2
        yield "tau", replace(q, shape=q.loc.new_tensor(self.shape + (len(x) + 1) / 2), rate=self.rate + spread / 2)

    def _mu_step(self, x, q):
        loc, strength, _, _ = self.update(x)
        return replace(q, loc=loc, scale=(strength * q.shape / q.rate).rsqrt())

    def factor(self, name, q, values):
        """The factor of q at site ``name``; ``values``, the samples above, have no part in it."""
        return dist.Normal(q.loc, q.scale) if name == "mu" else dist.Gamma(q.shape, q.rate)

    def bound(self, x, q):
        """Exact ELBO of the data set in nats, shape ()."""
        tau, log_tau = q.shape / q.rate, expected_log(q.shape, q.rate)
        fit = len(x) * (log_tau - math.log(2 * math.pi)) - tau * ((x - q.loc).square().sum() + len(x) * q.scale**2)
        away = self.strength * tau * ((q.loc - self.loc) ** 2 + q.scale**2)
        prior_mu = 0.5 * (log_tau + math.log(self.strength / (2 * math.pi)) - away)
        entropy_mu = dist.Normal(q.loc, q.scale).entropy()
        prior_tau = dist.Gamma(q.shape.new_tensor(self.shape), q.rate.new_tensor(self.rate))
        return 0.5 * fit + prior_mu + entropy_mu - kl_divergence(dist.Gamma(q.shape, q.rate), prior_tau)
