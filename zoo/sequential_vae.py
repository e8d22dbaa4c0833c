r"""Sequential VAE: T steps, each of which paints the image of the step before anew, with a latent of its own.

.. math:: z_t \sim N(0, I), \qquad \ell_t = g_t \odot \ell_{t-1} + (1 - g_t) \odot f_t(z_t, \bar x_{t-1}), \qquad
          x \mid z \sim p(x; \ell_T)

with :math:`\bar x_{t-1}` the mean image of location :math:`\ell_{t-1}`, from the training mean on. Every step has a
likelihood of x: those before the last, sites ``x_stage1`` ..., are auxiliary terms of the objective (a pull on their
step towards the data), and log p(x) is the last one's.

Source: Zhao, Song & Ermon (2017), Towards deeper understanding of variational autoencoding models,
https://arxiv.org/abs/1702.08658.
Differs from the paper: a normalised likelihood in place of a squared error; fully connected, with a learned gate per
pixel; the gradient is that of the bound and all terms, where the authors' code stops it between steps.
"""

import pyro
import torch
from pyro.nn import PyroModule
from torch import nn

from .likelihoods import Bits, start_at
from .networks import mlp, standard_normal


class Step(nn.Module):
    """One step: a latent and the image before to a new location.

    :param network: module mapping (..., z_dim + x_dim) to (..., x_dim).
    :param int x_dim: number of pixels.
    """

    def __init__(self, network, x_dim):
        super().__init__()
        self.network = network
        self.raw_gate = nn.Parameter(torch.zeros(x_dim))  # half old, half new to start with

    def forward(self, z, location, image):
        """The next location (..., x_dim) from z (..., z_dim), the last location and its mean image."""
        image = image.expand(*z.shape[:-1], image.shape[-1])
        gate = self.raw_gate.sigmoid()
        return gate * location + (1 - gate) * self.network(torch.cat([z, image], -1))


class SequentialVAE(PyroModule):
    """T steps with networks of their own; sites count from the data: the first step draws zT, the last z1.

    :param int x_dim: number of pixels.
    :param z_dims: dimension of each step's latent, that of the *last* step first, as everywhere.
    :param hidden: widths of each step's network.
    :param x_mean: training mean (x_dim,), the image before the first step; the location zero by default.
    :param likelihood: what makes the module from locations to a distribution of x, once a step.
    :param activation: class of the nonlinearity.
    """

    def __init__(self, x_dim, z_dims=(10,) * 8, hidden=(200,), x_mean=None, likelihood=Bits, activation=nn.LeakyReLU):
        super().__init__("model")
        if not z_dims:
            raise ValueError("z_dims needs one entry a step, and there is none")
        self.z_dims = tuple(z_dims)
        self.likelihoods = nn.ModuleList(likelihood() for _ in z_dims)
        first = torch.zeros(x_dim) if x_mean is None else self.likelihoods[0].location(torch.as_tensor(x_mean))
        self.register_buffer("first", first.to(torch.get_default_dtype()).clone())

        def build(z_dim):
            network = mlp((z_dim + x_dim, *hidden, x_dim), activation, last=False)
            return Step(start_at(network, self.likelihoods[0], x_mean), x_dim)

        self.steps = nn.ModuleList(self.make_steps(build))

    def make_steps(self, build):
        """The modules of all steps, first step first; ``build(z_dim)`` makes a new one."""
        return [build(z_dim) for z_dim in reversed(self.z_dims)]

    def step(self, t):
        """The module of step t, counted from zero."""
        return self.steps[t]

    def decode(self, z):
        """The distributions of x after each step, first step first.

        :param z: list of (..., z_dims[i]), that of the last step first.
        """
        location, out = self.first, []
        for t, likelihood in enumerate(self.likelihoods):
            image = out[-1].mean if out else likelihood(location).mean
            location = self.step(t)(z[-1 - t], location, image)
            out.append(likelihood(location))
        return out

    def forward(self, x):
        """:param x: (B, x_dim)."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z = [None] * len(self.z_dims)
            for i in reversed(range(len(z))):
                z[i] = pyro.sample(f"z{i + 1}", standard_normal(x, self.z_dims[i]))
            *earlier, last = self.decode(z)
            for t, distribution in enumerate(earlier, 1):
                pyro.sample(f"x_stage{t}", distribution, obs=x, infer={"auxiliary": True})
            pyro.sample("x", last, obs=x)


class SharedSequentialVAE(SequentialVAE):
    """The homogeneous chain: one network for all steps, whose latents then have one dimension."""

    def make_steps(self, build):
        """One module for all steps; a ValueError names unequal latents."""
        if len(set(self.z_dims)) > 1:
            raise ValueError(f"one network serves all steps, so z_dims must be equal, not {self.z_dims}")
        return [build(self.z_dims[0])]

    def step(self, t):
        """The one module."""
        return self.steps[0]
