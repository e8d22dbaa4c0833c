r"""The variational autoencoder's generative half: one Gaussian layer and a Bernoulli image.

.. math:: z_1 \sim N(0, I), \qquad x | z_1 \sim \mathrm{Bernoulli}(\sigma(f(z_1)))

Source: Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; Rezende, Mohamed & Wierstra (2014),
https://arxiv.org/abs/1401.4082. Architecture of Burda et al. (2015), https://arxiv.org/abs/1509.00519.
"""

import pyro
from pyro.nn import PyroModule
from torch import nn

from .networks import BernoulliHead, mlp, top_prior


class VAE(PyroModule):
    """One stochastic layer z1 under independent bits x.

    :param int x_dim: number of bits.
    :param int z_dim: dimension of z1.
    :param hidden: widths of the decoder, from z to x.
    :param x_mean: training mean (x_dim,), to start the output bias at its logit.
    :param top: module ``top(x) -> distribution`` of event shape (z_dim,), the prior of z1; N(0, I) by default.
    """

    def __init__(self, x_dim, z_dim=50, hidden=(200, 200), x_mean=None, top=None):
        super().__init__("model")
        self.z_dims = (z_dim,)
        self.top = top
        self.decoder = nn.Sequential(mlp((z_dim, *hidden)), BernoulliHead(hidden[-1], x_dim, x_mean))

    def forward(self, x):
        """:param x: (B, x_dim) of zeros and ones."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", top_prior(self.top, x, self.z_dims[0]))
            pyro.sample("x", self.decoder(z1), obs=x)
