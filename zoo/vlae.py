r"""Variational ladder autoencoder: independent latents, one a rung, merged into one decoder from the top down.

.. math:: z_i \sim N(0, I), \qquad h_L = f_L(z_L), \qquad h_i = f_i\big(u_i(h_{i+1}) + g_i \odot v_i(z_i)\big), \qquad
          x \mid z \sim p(x; W h_1 + b)

The latents are independent: depth is in the decoder, through which a higher rung passes more layers. The gates
:math:`g_i` are learned and start at 0.1.

Source: Zhao, Song & Ermon (2017), Learning hierarchical features from generative models,
https://arxiv.org/abs/1702.08396.
Differs from the paper: a normalised likelihood in place of a weighted absolute error; fully connected, without batch
normalisation.
"""

import pyro
import torch
from pyro.nn import PyroModule
from torch import nn

from .likelihoods import Bits, start_at
from .networks import mlp, standard_normal

GATE = 0.1


class VLAE(PyroModule):
    """L independent latents z1 (enters nearest the data) to zL under pixels x.

    :param int x_dim: number of pixels.
    :param z_dims: dimension of each rung's latent, bottom first.
    :param hidden: width of the decoder at each rung, bottom first.
    :param x_mean: training mean (x_dim,), at which the output starts.
    :param likelihood: what makes the module from locations to a distribution of x: ``Bits``, ``GaussianPixels`` ...
    :param activation: class of the nonlinearity.
    """

    def __init__(
        self, x_dim, z_dims=(2, 2, 2), hidden=(512, 256, 128), x_mean=None, likelihood=Bits, activation=nn.LeakyReLU
    ):
        super().__init__("model")
        if len(z_dims) != len(hidden) or not z_dims:
            raise ValueError(f"z_dims and hidden need one entry a rung, not {len(z_dims)} and {len(hidden)}")
        self.z_dims = tuple(z_dims)
        self.likelihood = likelihood()
        self.top = mlp((z_dims[-1], hidden[-1], hidden[-1]), activation)
        below = list(zip(z_dims[:-1], hidden[:-1], hidden[1:], strict=True))  # index i is the rung of z_{i+1}
        self.rungs = nn.ModuleList(mlp((z, width), activation) for z, width, _ in below)
        self.paths = nn.ModuleList(mlp((above, width), activation) for _, width, above in below)
        self.gates = nn.ParameterList(nn.Parameter(torch.full((width,), GATE)) for _, width, _ in below)
        self.merged = nn.ModuleList(mlp((width, width), activation) for _, width, _ in below)
        self.output = start_at(mlp((hidden[0], x_dim), activation, last=False), self.likelihood, x_mean)

    def decode(self, z):
        """The distribution of x given all latents.

        :param z: list of (..., z_dims[i]), bottom first.
        """
        h = self.top(z[-1])
        for i in reversed(range(len(self.rungs))):
            h = self.merged[i](self.paths[i](h) + self.gates[i] * self.rungs[i](z[i]))
        return self.likelihood(self.output(h))

    def forward(self, x):
        """:param x: (B, x_dim)."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z = [None] * len(self.z_dims)
            for i in reversed(range(len(z))):
                z[i] = pyro.sample(f"z{i + 1}", standard_normal(x, self.z_dims[i]))
            pyro.sample("x", self.decode(z), obs=x)
