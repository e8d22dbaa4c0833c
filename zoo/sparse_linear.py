r"""Sparse coding: data as a linear combination of atoms, with codes from a heavy-tailed prior.

.. math:: z_{1k} \sim r(0, b), \qquad x \mid z_1 \sim N(\mu + W z_1, \sigma^2 I)

with r a Laplace or Cauchy density. Unlike a Gaussian prior's, their likelihood is not invariant under rotations of the
code: the atoms themselves, not only the space they span, are identified, up to order and sign. W may have more columns
than rows.

Where W is free, every stationary point of the likelihood satisfies Stein's identity,
:math:`\tfrac1N \sum_n E_{p(z|x_n)}[z \nabla \ln r(z)^\top] = -I` (:func:`~pyrarchy.inference.stein_matrix`): E|z_k| = b for
Laplace priors.

Source: Olshausen and Field (1997), Sparse coding with an overcomplete basis set,
https://doi.org/10.1016/S0042-6989(97)00169-7.
Differs from the paper: a mean; codes are integrated out by a guide in place of their maximum.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from .sparse_parts import FreeDictionary, LearnedScale


class SparseLinear(PyroModule):
    """Codes ``z1`` (K) from independent copies of a prior, data ``x`` (D); sites in plate ``data``.

    :param int x_dim: D.
    :param int z_dim: K, larger than D for an overcomplete dictionary.
    :param prior: a location-scale family, called as ``prior(loc, scale)``: ``dist.Laplace``, ``dist.Cauchy``,
        ``dist.Normal``, ``partial(dist.StudentT, 3.0)``.
    :param dictionary: :class:`~pyrarchy.zoo.FreeDictionary` by default, :class:`~pyrarchy.zoo.UnitNormDictionary`, or a
        module whose call returns W (D, K) and the scale of the codes.
    :param noise: :class:`~pyrarchy.zoo.LearnedScale` by default, :class:`~pyrarchy.zoo.FixedScale`, or a module whose call
        returns the scale of the noise.
    :param mean: the start of ``mean`` (D,), a parameter; zero by default.

    >>> import torch
    >>> model = SparseLinear(5, 7)
    >>> model.atoms.shape, sorted(name for name, _ in model.named_parameters())
    (torch.Size([5, 7]), ['dictionary.weight', 'mean', 'noise.raw'])
    """

    def __init__(self, x_dim, z_dim, prior=dist.Laplace, dictionary=None, noise=None, mean=None):
        super().__init__("model")
        self.x_dim, self.z_dim, self.prior = x_dim, z_dim, prior
        self.dictionary = FreeDictionary(x_dim, z_dim) if dictionary is None else dictionary
        self.noise = LearnedScale() if noise is None else noise
        mean = torch.zeros(x_dim) if mean is None else torch.as_tensor(mean, dtype=torch.get_default_dtype())
        self.mean = nn.Parameter(mean.clone())
        shape = tuple(self.dictionary()[0].shape)
        if shape != (x_dim, z_dim):
            raise ValueError(f"dictionary: its atoms have shape {shape}; ({x_dim}, {z_dim}) is needed")

    @property
    def atoms(self):
        """W, (D, K), a column for each code."""
        return self.dictionary()[0]

    @property
    def scale(self):
        """Standard deviation of the noise, shape ()."""
        return self.noise()

    def forward(self, x):
        """:param x: (B, D) real."""
        atoms, code_scale = self.dictionary()
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", self.prior(x.new_zeros(self.z_dim), code_scale).to_event(1))
            pyro.sample("x", dist.Normal(self.mean + z1 @ atoms.mT, self.noise()).to_event(1), obs=x)


class GaussianLinear(SparseLinear):
    """:class:`SparseLinear` with a Gaussian prior, the control: exact answers, and atoms known up to a rotation only.

    With a free dictionary of K < D it is :class:`~pyrarchy.zoo.PPCA`'s density. Arguments as there, without ``prior``.

    >>> import torch
    >>> model = GaussianLinear(5, 7)
    >>> model.posterior(torch.zeros(3, 5)).event_shape, model.log_marginal(torch.zeros(3, 5)).shape
    (torch.Size([7]), torch.Size([3]))
    """

    def __init__(self, x_dim, z_dim, dictionary=None, noise=None, mean=None):
        super().__init__(x_dim, z_dim, dist.Normal, dictionary, noise, mean)

    def posterior(self, x):
        """Exact p(z1 | x) for ``x`` (B, D): MultivariateNormal, batch (B,), event (K,), one covariance for all."""
        atoms, code_scale = self.dictionary()
        whitened = atoms * (code_scale / self.noise())  # of codes in units of their own scale
        precision = torch.eye(self.z_dim).to(x) + whitened.mT @ whitened
        factor = torch.linalg.cholesky(precision)
        rhs = whitened.mT @ ((x - self.mean) / self.noise()).mT
        loc = code_scale * torch.cholesky_solve(rhs, factor).mT
        covariance = code_scale**2 * torch.cholesky_inverse(factor)
        return dist.MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(covariance), validate_args=False)

    def log_marginal(self, x):
        """log p(x) in nats, (B,), for ``x`` (B, D): x ~ N(mean, b^2 W W' + sigma^2 I)."""
        atoms, code_scale = self.dictionary()
        covariance = code_scale**2 * atoms @ atoms.mT + self.noise() ** 2 * torch.eye(self.x_dim).to(x)
        factor = torch.linalg.cholesky(covariance)
        whitened = torch.linalg.solve_triangular(factor, (x - self.mean).mT, upper=False)
        log_det = 2.0 * factor.diagonal().log().sum()
        return -0.5 * (self.x_dim * math.log(2.0 * math.pi) + log_det + whitened.square().sum(0))
