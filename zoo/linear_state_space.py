r"""A linear-Gaussian state space: a hidden chain in time under noisy observations, with every answer exact.

.. math::

    z_1 \sim N(m_1, L_1 L_1^\top), \quad z_t \mid z_{t-1} \sim N(A z_{t-1}, L L^\top), \quad
    x_t \mid z_t \sim N(d + c^\top z_t, r^2)

A datum is a whole series x = (x_1 .. x_T); the sites are ``z1`` .. ``zT`` and ``x``. The log-likelihood is the Kalman
filter's, and the posterior is a chain in the model's own order,

.. math:: p(z_t \mid z_{t-1}, x_{t..T}) \propto p(z_t \mid z_{t-1}) \, p(x_{t..T} \mid z_t),

the model's step times a message from the data still to come: what a structured guide must learn, in closed form.

Source: Kalman (1960), https://doi.org/10.1115/1.3662552; Durbin and Koopman (2012), Time Series Analysis by State
Space Methods, Oxford.
"""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import nn

from .kalman import System, backward_messages, kalman_filter, rts_smoother

SCALE_FLOOR = 1e-3  # in units of x_scale: a gradient step cannot send the density to infinity


class LinearStateSpace(PyroModule):
    """Series of length ``x_dim`` = T with ``z_dim`` = K hidden numbers a step; N(0, I) at the first.

    :param float x_mean, x_scale: level and spread of the data; the first offset, and the unit of loading and noise.

    Raises ValueError for sizes or a scale that are not positive.

    >>> model = LinearStateSpace(5, 2)
    >>> model.log_marginal(torch.zeros(3, 5)).shape, model.smooth(torch.zeros(3, 5))[0].shape
    (torch.Size([3]), torch.Size([3, 5, 2]))
    """

    def __init__(self, x_dim, z_dim=1, x_mean=0.0, x_scale=1.0):
        super().__init__("model")
        if x_dim < 1 or z_dim < 1 or not x_scale > 0:
            raise ValueError(f"x_dim, z_dim, x_scale: {x_dim}, {z_dim}, {x_scale} given; positive ones are needed.")
        self.x_dim, self.z_dim = x_dim, z_dim
        self.register_buffer("unit", torch.tensor(float(x_scale)))
        self._make_parameters(float(x_mean))

    def _make_parameters(self, x_mean):
        k = self.z_dim
        self.offset = nn.Parameter(torch.tensor(x_mean))
        self.transition = nn.Parameter(0.8 * torch.eye(k) + 0.1 * torch.randn(k, k))
        self.raw_noise = nn.Parameter(0.1 * torch.randn(k, k))
        self.loading = nn.Parameter(torch.randn(k) / k**0.5)
        self.raw_scale = nn.Parameter(torch.tensor(0.0))

    def system(self):
        """The chain's parameters as a :class:`~pyrarchy.zoo.kalman.System`."""
        eye = torch.eye(self.z_dim, dtype=self.unit.dtype, device=self.unit.device)
        tril = self.raw_noise.tril(-1) + torch.diag(_scale(self.raw_noise.diagonal()))
        loading, scale = self.unit * self.loading, self.unit * _scale(self.raw_scale)
        return System(eye[0] * 0.0, eye, self.transition, tril, loading, self.offset, scale)

    def forward(self, x):
        """Sample z1 .. zT in turn, then ``x`` (B, T), observed."""
        s = self.system()
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z1", dist.MultivariateNormal(s.initial_loc, scale_tril=s.initial_tril))
            means = [z @ s.loading]
            for t in range(2, x.shape[1] + 1):
                step = dist.MultivariateNormal(z @ s.transition.mT, scale_tril=s.noise_tril)
                z = pyro.sample(f"z{t}", step)
                means.append(z @ s.loading)
            mean = torch.stack(torch.broadcast_tensors(*means), -1)
            pyro.sample("x", dist.Normal(s.offset + mean, s.scale).to_event(1), obs=x)

    def filter(self, x):
        """Moments of p(z_t | x_1..t) for ``x`` (B, T): :class:`~pyrarchy.zoo.kalman.Filtered`."""
        return kalman_filter(self.system(), x)

    def smooth(self, x):
        """Moments of p(z_t | x) for ``x`` (B, T): means (B, T, K) and covariances (T, K, K), in float64."""
        return rts_smoother(self.system(), self.filter(x))

    def log_marginal(self, x):
        """log p(x) in nats, (B,), by the Kalman filter; differentiable, so that it can be maximised."""
        return self.filter(x).log_p.sum(-1).to(x.dtype)

    def posterior(self, x):
        """Exact p(z_1 | x) prod_t p(z_t | z_t-1, x_t..T) for ``x`` (B, T), in the model's order.

        A dictionary: ``z1`` a distribution with batch (B,) and event (K,); each later site a function of the samples
        before (a dictionary with z_t-1 of shape (..., B, K)) that returns one with batch (..., B).
        """
        s = self.system().double()
        precisions, potentials = backward_messages(s, x)

        def step(mean, tril, t):
            """The Gaussian N(mean, tril tril') times the message at t, in x's own precision."""
            k = tril.shape[-1]
            inner = torch.eye(k, dtype=tril.dtype, device=tril.device) + tril.mT @ precisions[t] @ tril
            root = torch.linalg.cholesky(inner)
            half = torch.linalg.solve_triangular(root, tril.mT, upper=False)  # covariance = half' half
            covariance = half.mT @ half
            loc = mean + (potentials[:, t] - mean @ precisions[t]) @ covariance
            tril = torch.linalg.cholesky(covariance)
            return dist.MultivariateNormal(loc.to(x.dtype), scale_tril=tril.to(x.dtype))

        def later(t):
            return lambda before: step(before[f"z{t}"].double() @ s.transition.mT, s.noise_tril, t)

        first = step(s.initial_loc.expand(len(x), -1), s.initial_tril, 0)
        return {"z1": first, **{f"z{t + 1}": later(t) for t in range(1, x.shape[1])}}


def _scale(raw):
    return SCALE_FLOOR + F.softplus(raw)
