r"""A top-down hierarchy with a deterministic path: every sample is added to a state that all layers below read.

.. math:: h_L = 0, \qquad z_i \sim N(\mu_i(h_i), \sigma_i(h_i)^2), \qquad h_{i-1} = h_i + f_i(h_i, z_i), \qquad
          x | h_0 \sim \mathrm{Bernoulli}(\sigma(g(h_0)))

:math:`z_L \sim N(0, I)`. As h carries all samples so far, each layer depends on all above it, and x on all of them, as in
:class:`~pyrarchy.zoo.DenseHVAE`, whose state is made anew at each layer; here a layer adds to it.

Source: the generative half of Kingma et al. (2016), https://arxiv.org/abs/1606.04934.
Differs from the paper: the top layer is standard normal (the paper learns a constant h_L), and x is binary.
"""

import pyro
from pyro.nn import PyroModule
from torch import nn

from .networks import BernoulliHead, NormalHead, concatenate, mlp, standard_normal


class ResidualBlock(nn.Module):
    """Adds what a sample says to the state: (..., width), (..., z_dim) to (..., width)."""

    def __init__(self, width, z_dim):
        super().__init__()
        self.net = nn.Sequential(mlp((width + z_dim, width), nn.ELU), mlp((width, width), last=False))

    def forward(self, h, z):
        """The state below the layer."""
        return h + self.net(concatenate(h, z))


class ResidualHVAE(PyroModule):
    """L stochastic layers z1 (nearest the data) to zL along one state h, under independent bits x.

    :param int x_dim: number of bits.
    :param z_dims: dimension of each layer, bottom first.
    :param int width: of the state.
    :param x_mean: training mean (x_dim,), to start the output bias at its logit.

    During a pass ``model.state`` is the path's h at the site that is being sampled, and ``None`` at the top; a guide may
    read it (:class:`~pyrarchy.guides.LadderIAF`).

    >>> import torch
    >>> from pyrarchy.zoo import ResidualHVAE
    >>> ResidualHVAE(6, z_dims=(3, 2), width=5).generate([torch.zeros(7, 3), torch.zeros(7, 2)]).mean.shape
    torch.Size([7, 6])
    """

    state = None

    def __init__(self, x_dim, z_dims=(16, 8), width=128, x_mean=None):
        super().__init__("model")
        if not z_dims:
            raise ValueError("z_dims needs at least one layer")
        self.z_dims, self.hidden = tuple(z_dims), (width,) * len(z_dims)
        self.blocks = nn.ModuleList(ResidualBlock(width, z) for z in z_dims)
        self.priors = nn.ModuleList(nn.Sequential(nn.ELU(), NormalHead(width, z)) for z in z_dims[:-1])
        self.decoder = nn.Sequential(nn.ELU(), BernoulliHead(width, x_dim, x_mean))

    def start(self, like):
        """The state above the top layer, (width,)."""
        return like.new_zeros(self.hidden[-1])

    def prior(self, i, h):
        """Distribution of layer i (from 1) given the state above it."""
        return standard_normal(h, self.z_dims[-1]) if i == len(self.z_dims) else self.priors[i - 1](h)

    def generate(self, z):
        """Distribution of x given all layers, a list with z1 first."""
        h = self.start(z[-1])
        for block, value in zip(reversed(self.blocks), reversed(z), strict=True):
            h = block(h, value)
        return self.decoder(h)

    def forward(self, x):
        """:param x: (B, x_dim) of zeros and ones."""
        held, h = self.__dict__, self.start(x)  # not a registered attribute: the state lives for this pass only
        try:
            with pyro.plate("data", x.shape[0], dim=-1):
                for i in range(len(self.z_dims), 0, -1):
                    h = self.blocks[i - 1](h, pyro.sample(f"z{i}", self.prior(i, h)))
                    held["state"] = h
                pyro.sample("x", self.decoder(h), obs=x)
        finally:
            held.pop("state", None)
