r"""A hierarchy of Gaussian layers in which each depends on all layers above, carried down by a deterministic state.

.. math:: z_L \sim N(0, I), \qquad h_i = f_i(h_{i+1}, z_{i+1}), \qquad
          z_i | z_{>i} \sim N(\mu_i(h_i), \sigma_i(h_i)^2), \qquad x | z \sim \mathrm{Bernoulli}(\sigma(W h_0 + b))

The state h passes every sample by the layers below it, down to the likelihood, so that no layer has to copy what the
data need of those above; in a Markov chain (:class:`MarkovHVAE`) all of it goes through z1.

Source: the two-layer HVAE of Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120, at any depth; deterministic
paths from all latents to the output: Bachman (2016), https://arxiv.org/abs/1612.04739.
Differs from the papers: fully connected blocks without gates, convolutions or an autoregressive likelihood.
"""

import pyro
from pyro.nn import PyroModule
from torch import nn

from .networks import BernoulliHead, NormalHead, concatenate, mlp, top_prior


class DenseHVAE(PyroModule):
    """L stochastic layers z1 (nearest the data) to zL, each given all above, under independent bits x.

    During a pass ``model.state`` is the deterministic state h (..., hidden[i]) at the site z_i that is being sampled, and
    ``None`` at the top; a guide may read it (:class:`~pyrarchy.guides.Lateral`).

    :param int x_dim: number of bits.
    :param z_dims: dimension of each layer, bottom first.
    :param hidden: width of the state above each site, x first: ``hidden[0]`` feeds x and ``hidden[i]`` feeds z_i.
    :param x_mean: training mean (x_dim,), to start the output bias at its logit.
    :param activation: class of the nonlinearity.
    :param top: module ``top(x) -> distribution`` of event shape (z_dims[-1],), the prior of zL; N(0, I) by default.

    Subclasses choose other densities by :meth:`make_head` and :meth:`make_likelihood`.

    >>> model = DenseHVAE(6, z_dims=(4, 3, 2), hidden=(9, 8, 7))
    >>> [block[0].in_features for block in model.blocks]  # z1 and h1; z2 and h2; z3
    [12, 10, 2]
    """

    state = None

    def __init__(
        self, x_dim, z_dims=(64, 32, 16, 8, 4), hidden=(512, 256, 128, 64, 32), x_mean=None, activation=None, top=None
    ):
        super().__init__("model")
        if len(z_dims) != len(hidden) or not z_dims:
            raise ValueError(f"z_dims and hidden need one entry a layer, not {len(z_dims)} and {len(hidden)}")
        activation = activation or nn.LeakyReLU
        self.z_dims, self.hidden = tuple(z_dims), tuple(hidden)
        self.top = top
        above = (*self.hidden[1:], 0)  # the top has no state
        self.blocks = nn.ModuleList(
            mlp((z + h, width, width), activation) for z, h, width in zip(z_dims, above, hidden, strict=True)
        )
        # heads[i] maps the state above z_{i+1} to its distribution, counting sites from 1
        self.heads = nn.ModuleList(self.make_head(hidden[i], z_dims[i - 1]) for i in range(1, len(z_dims)))
        self.likelihood = self.make_likelihood(hidden[0], x_dim, x_mean)

    def make_head(self, in_dim, out_dim):
        """The module from a state (..., in_dim) to the Gaussian of a layer of dimension out_dim."""
        return NormalHead(in_dim, out_dim)

    def make_likelihood(self, in_dim, x_dim, x_mean):
        """The module from the last state (..., in_dim) to the distribution of x."""
        return BernoulliHead(in_dim, x_dim, x_mean)

    def forward(self, x):
        """:param x: (B, x_dim) of zeros and ones."""
        held = self.__dict__  # not a registered attribute: it lives for this pass only
        try:
            with pyro.plate("data", x.shape[0], dim=-1):
                z = pyro.sample(f"z{len(self.z_dims)}", top_prior(self.top, x, self.z_dims[-1]))
                h = self.blocks[-1](z)
                for i in range(len(self.z_dims) - 1, 0, -1):
                    held["state"] = h
                    z = pyro.sample(f"z{i}", self.heads[i - 1](h))
                    h = self.blocks[i - 1](concatenate(z, h))
                pyro.sample("x", self.likelihood(h), obs=x)
        finally:
            held.pop("state", None)
