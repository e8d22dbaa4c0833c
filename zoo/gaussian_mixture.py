r"""A Bayesian mixture of Gaussians with diagonal covariances: weights, means and precisions have conjugate priors.

.. math::

    \pi \sim \mathrm{Dirichlet}(\alpha_0, \dots, \alpha_0), \quad \tau_{kd} \sim \mathrm{Gamma}(a_0, b_{0d}), \quad
    \mu_{kd} \mid \tau_{kd} \sim N(m_{0d}, (\beta_0 \tau_{kd})^{-1}), \\
    z_n \sim \mathrm{Categorical}(\pi), \quad x_{nd} \mid z_n = k \sim N(\mu_{kd}, \tau_{kd}^{-1}), \qquad
    q = q(\pi) \prod_k q(\mu_k \mid \tau_k)\, q(\tau_k) \prod_n q(z_n)

(Gamma by shape and rate, N by variance). With a small alpha_0 the components that the data do not need fall back to
their prior and their weight to nothing: the number of components need not be known.

Source: Attias (1999), Inferring parameters and structure of latent variable models by variational Bayes,
https://arxiv.org/abs/1301.6676; Bishop (2006), Pattern Recognition and Machine Learning, section 10.2.
Differs from the paper: each column has its own precision (a Gamma), in place of a Wishart over all.
"""

import math
from dataclasses import dataclass, field, replace

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch.distributions import kl_divergence
from torch.nn import functional

from .conjugate_factors import LOCAL, POSITIVE, REAL, check_positive, expected_log


@dataclass(frozen=True)
class MixtureFactors:
    """q(weights) = Dirichlet(concentration (K,)); q(precision) = Gamma(shape (K, 1), rate (K, D));
    q(mean | precision) = N(loc (K, D), 1 / (strength (K, 1) precision)); q(z1) by ``assignments`` (N, K)."""

    concentration: torch.Tensor = field(metadata=POSITIVE)
    loc: torch.Tensor = field(metadata=REAL)
    strength: torch.Tensor = field(metadata=POSITIVE)
    shape: torch.Tensor = field(metadata=POSITIVE)
    rate: torch.Tensor = field(metadata=POSITIVE)
    assignments: torch.Tensor | None = field(default=None, metadata=LOCAL)


class GaussianMixture(PyroModule):
    """Rows ``x`` (N, D) and their components ``z1`` in plate ``data``; ``weights`` (K,), and ``precision`` and ``mean``
    (K, D) in plate ``component``, are global. No trainable parameter.

    :param x_dim, components: D and K.
    :param concentration, strength, shape: alpha_0, beta_0 and a_0.
    :param loc, scale: a guess at centre and spread of each column, numbers or (D,): m_0 = loc, b_0 = a_0 scale^2.
    :raises ValueError: for fewer than two components or a hyperparameter that is not positive (``loc`` may be).

    >>> model = GaussianMixture(2, 3)
    >>> q = model.start(torch.randn(7, 2))
    >>> q.assignments.shape, model.bound(torch.randn(7, 2), q=q).shape
    (torch.Size([7, 3]), torch.Size([]))
    """

    starts = 8  # the bound has many maxima

    def __init__(self, x_dim, components, *, concentration=0.1, strength=0.1, shape=2.0, loc=0.0, scale=1.0):
        super().__init__("model")
        if components < 2:
            raise ValueError(f"components: {components} given; a mixture needs at least 2.")
        check_positive(concentration=concentration, strength=strength, shape=shape, scale=scale)
        self.x_dim, self.components = x_dim, components
        self.concentration, self.strength, self.shape = concentration, strength, shape
        self.register_buffer("loc", torch.as_tensor(loc, dtype=torch.get_default_dtype()).expand(x_dim).clone())
        rate = shape * torch.as_tensor(scale, dtype=torch.get_default_dtype()) ** 2
        self.register_buffer("rate", rate.expand(x_dim).clone())

    def forward(self, x):
        """Sample weights, components and assignments; ``x`` (N, D) is observed."""
        weights = pyro.sample("weights", dist.Dirichlet(x.new_full((self.components,), self.concentration)))
        with pyro.plate("component", self.components, dim=-1):
            precision = pyro.sample("precision", dist.Gamma(self.shape, self.rate.to(x)).to_event(1))
            mean = pyro.sample("mean", dist.Normal(self.loc.to(x), (self.strength * precision).rsqrt()).to_event(1))
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Categorical(weights))
            pick = functional.one_hot(z1, self.components).to(x)  # a product lets particles and enumeration pass
            return pyro.sample("x", dist.Normal(pick @ mean, (pick @ precision).rsqrt()).to_event(1), obs=x)

    def start(self, x, seed=0):
        """A first q from ``components`` rows drawn by ``seed`` as centres, far ones preferred (k-means++)."""
        draws = torch.Generator().manual_seed(seed)
        scaled = (x / (self.rate.to(x) / self.shape).sqrt()).cpu()
        centres = scaled[torch.randint(len(x), (1,), generator=draws)]
        while len(centres) < self.components:
            nearest = torch.cdist(scaled, centres).square().min(-1).values
            pick = torch.multinomial(nearest + 1e-9, 1, generator=draws)  # rows may all be the same
            centres = torch.cat([centres, scaled[pick]])
        hard = torch.cdist(scaled, centres).argmin(-1)
        assignments = functional.one_hot(hard, self.components).to(x)
        return self.localise(x, q=self._component_step(x, assignments))

    def coordinate_steps(self, x, q):
        """One sweep: yields (block, q) after each closed update, the assignments last."""
        new = self._component_step(x, q.assignments)
        q = replace(q, concentration=new.concentration)
        yield "weights", q
        q = replace(new, concentration=q.concentration)
        yield "components", q
        yield "assignments", self.localise(x, q=q)

    def _component_step(self, x, assignments):
        """Weights, means and precisions given the assignments (N, K): conjugate updates by weighted counts."""
        counts = assignments.sum(0)[:, None]
        mean = assignments.mT @ x / counts.clamp(min=1e-30)  # an empty component keeps its prior: its mean has weight 0
        squares = (assignments[..., None] * (x[:, None] - mean) ** 2).sum(0)
        strength = self.strength + counts
        loc = (self.strength * self.loc.to(x) + counts * mean) / strength
        spread = squares + self.strength * counts / strength * (mean - self.loc.to(x)) ** 2
        return MixtureFactors(
            concentration=self.concentration + counts[:, 0],
            loc=loc,
            strength=strength,
            shape=self.shape + counts / 2,
            rate=self.rate.to(x) + spread / 2,
            assignments=assignments,
        )

    def localise(self, x, q):
        """``q`` with the best assignments for ``x`` (N, D) given its global factors."""
        return replace(q, assignments=self._expected_joint(x, q).softmax(-1))

    def _expected_joint(self, x, q):
        """E_q log p(x_n, z_n = k), (N, K), over weights, means and precisions."""
        log_weights = torch.digamma(q.concentration) - torch.digamma(q.concentration.sum())
        distance = 1.0 / q.strength + q.shape / q.rate * (x[:, None] - q.loc) ** 2
        log_density = 0.5 * (expected_log(q.shape, q.rate) - math.log(2 * math.pi) - distance)
        return log_weights + log_density.sum(-1)

    def factor(self, name, q, values):
        """The factor of q at site ``name`` given ``values``, the samples above (the mean's factor needs a precision)."""
        if name == "mean":
            return dist.Normal(q.loc, (q.strength * values["precision"]).rsqrt()).to_event(1)
        if name == "precision":
            return dist.Gamma(q.shape, q.rate).to_event(1)
        return dist.Dirichlet(q.concentration) if name == "weights" else dist.Categorical(q.assignments)

    def bound(self, x, q):
        """Exact ELBO of the data set in nats, shape ()."""
        local = (q.assignments * self._expected_joint(x, q)).sum() - torch.special.xlogy(
            q.assignments, q.assignments
        ).sum()
        prior_weights = dist.Dirichlet(torch.full_like(q.concentration, self.concentration))
        prior = dist.Gamma(torch.full_like(q.shape, self.shape), self.rate.to(x))
        away = self.strength * (1 / q.strength + q.shape / q.rate * (q.loc - self.loc.to(x)) ** 2)
        mean = 0.5 * (away - 1 + (q.strength / self.strength).log())
        components = kl_divergence(dist.Gamma(q.shape, q.rate), prior) + mean
        return local - kl_divergence(dist.Dirichlet(q.concentration), prior_weights) - components.sum()
