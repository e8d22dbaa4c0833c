r"""A variational autoencoder for continuous data: the decoder gives the mean and the scale of every coordinate.

.. math:: z_1 \sim N(0, I), \qquad x | z_1 \sim N(\mu(z_1), \sigma(z_1)^2), \quad \sigma \ge \text{floor}

Without a floor the likelihood is unbounded: a coordinate that is constant, or takes few values, is given a scale near
zero. The floor is therefore part of the model; :meth:`GaussianVAE.remarks` says when it decides the fit.

Source: Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; on the floor: Mattei & Frellsen (2018),
https://arxiv.org/abs/1802.04826.
"""

import pyro
import torch
from pyro.nn import PyroModule
from torch import nn

from .networks import NormalHead, mlp, top_prior


class GaussianVAE(PyroModule):
    """One stochastic layer z1 under a diagonal Gaussian x.

    :param int x_dim: dimension of x.
    :param int z_dim: dimension of z1.
    :param hidden: widths of the decoder, from z to x.
    :param float floor: least scale of a coordinate of x, in its own units.
    :param top: module ``top(x) -> distribution`` of event shape (z_dim,), the prior of z1; N(0, I) by default.
    """

    def __init__(self, x_dim, z_dim=20, hidden=(200, 200), floor=0.05, top=None):
        super().__init__("model")
        if not floor > 0:
            raise ValueError(f"floor must be > 0, not {floor!r}: the likelihood has no maximum without one")
        self.z_dims = (z_dim,)
        self.floor = floor
        self.top = top
        self.decoder = nn.Sequential(mlp((z_dim, *hidden)), NormalHead(hidden[-1], x_dim, floor))

    def forward(self, x):
        """:param x: (B, x_dim) real."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", top_prior(self.top, x, self.z_dims[0]))
            pyro.sample("x", self.decoder(z1), obs=x)

    def remarks(self, z1):
        """What a reader of the fit should know, in words.

        :param z1: draws (..., z_dim) from the guide.
        :returns: list of sentences; empty when no scale sits on the floor.
        """
        with torch.no_grad():
            scale = self.decoder(z1).base_dist.scale.reshape(-1, self.decoder[1].loc.out_features)
        stuck = (scale < 1.02 * self.floor).float().mean(0)
        columns = int((stuck > 0.5).sum())
        if not columns:
            return []
        return [
            f"The decoder's scale sits on its floor of {self.floor:g} in {columns} of {scale.shape[-1]} coordinates: "
            "there the likelihood is set by the floor, so compare log p(x) only between fits with the same floor."
        ]
