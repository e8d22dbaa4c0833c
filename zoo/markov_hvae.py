r"""A hierarchy of Gaussian layers in which each depends on the one above: a Markov chain from the top to the data.

.. math:: z_L \sim N(0, I), \qquad z_i | z_{i+1} \sim N(\mu_i(z_{i+1}), \sigma_i(z_{i+1})^2), \qquad
          x | z_1 \sim \mathrm{Bernoulli}(\sigma(f(z_1)))

Source: Rezende, Mohamed & Wierstra (2014), https://arxiv.org/abs/1401.4082; the sizes of Sonderby et al. (2016),
https://arxiv.org/abs/1602.02282. With two layers it is the model of Burda et al. (2015).
"""

import pyro
from pyro.nn import PyroModule
from torch import nn

from .networks import BernoulliHead, NormalHead, mlp, top_prior


class MarkovHVAE(PyroModule):
    """L stochastic layers z1 (nearest the data) to zL under independent bits x; L = 1 is :class:`VAE`.

    :param int x_dim: number of bits.
    :param z_dims: dimension of each layer, bottom first.
    :param hidden: width of the two-layer network below each z, bottom first: ``hidden[0]`` maps z1 to x.
    :param x_mean: training mean (x_dim,), to start the output bias at its logit.
    :param activation: class of the nonlinearity.
    :param top: module ``top(x) -> distribution`` of event shape (z_dims[-1],), the prior of zL; N(0, I) by default.
    """

    def __init__(
        self,
        x_dim,
        z_dims=(64, 32, 16, 8, 4),
        hidden=(512, 256, 128, 64, 32),
        x_mean=None,
        activation=None,
        top=None,
    ):
        super().__init__("model")
        if len(z_dims) != len(hidden) or not z_dims:
            raise ValueError(f"z_dims and hidden need one entry a layer, not {len(z_dims)} and {len(hidden)}")
        activation = activation or nn.LeakyReLU
        self.z_dims = tuple(z_dims)
        self.top = top
        self.decoder = nn.Sequential(
            mlp((z_dims[0], hidden[0], hidden[0]), activation), BernoulliHead(hidden[0], x_dim, x_mean)
        )
        # priors[i] maps z_{i+2} to the distribution of z_{i+1}, counting sites from 1
        self.priors = nn.ModuleList(
            nn.Sequential(mlp((above, width, width), activation), NormalHead(width, below))
            for below, above, width in zip(z_dims[:-1], z_dims[1:], hidden[1:], strict=True)
        )

    def forward(self, x):
        """:param x: (B, x_dim) of zeros and ones."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample(f"z{len(self.z_dims)}", top_prior(self.top, x, self.z_dims[-1]))
            for i in range(len(self.z_dims) - 1, 0, -1):
                z = pyro.sample(f"z{i}", self.priors[i - 1](z))
            pyro.sample("x", self.decoder(z), obs=x)
