r"""Multi-stage VAE: a coarse decoder with a likelihood of its own, then a refiner that adds a residual.

.. math:: z_1 \sim N(0, I), \qquad c = f(z_1), \qquad x \mid z_1 \sim p(x; c + r(\bar c))

with :math:`\bar c` the coarse image. The coarse likelihood (site ``x_stage1``) is an auxiliary term of the objective,
trained jointly; log p(x) is the refined one's. A squared error is ``GaussianPixels``, an absolute one
``LaplacePixels``, zeros and ones are ``Bits``.

Source: Cai, Gao & Ji (2017), Multi-stage variational auto-encoders for coarse-to-fine image generation,
https://arxiv.org/abs/1705.07202.
Differs from the paper: fully connected, with normalised likelihoods whose scales are learned.
"""

import pyro
from pyro.nn import PyroModule
from torch import nn

from .likelihoods import Bits, start_at
from .networks import mlp, standard_normal


class MultiStageVAE(PyroModule):
    """One latent layer z1, a coarse image, and a finer one.

    :param int x_dim: number of pixels.
    :param int z_dim: dimension of z1.
    :param hidden: two sequences of widths: of the coarse decoder, from z to x, and of the refiner, from x to x.
    :param x_mean: training mean (x_dim,), at which the coarse image starts.
    :param likelihoods: what makes the modules from locations to distributions of x: of the coarse image, of the fine.
    :param activation: class of the nonlinearity.
    """

    def __init__(
        self,
        x_dim,
        z_dim=20,
        hidden=((200, 200), (400,)),
        x_mean=None,
        likelihoods=(Bits, Bits),
        activation=nn.LeakyReLU,
    ):
        super().__init__("model")
        self.z_dims = (z_dim,)
        self.likelihoods = nn.ModuleList(likelihood() for likelihood in likelihoods)
        if len(self.likelihoods) != 2 or len(hidden) != 2:
            raise ValueError(f"likelihoods and hidden need one entry a stage: two, not {len(self.likelihoods)}")
        decoder, refiner = hidden
        self.coarse = start_at(mlp((z_dim, *decoder, x_dim), activation, last=False), self.likelihoods[0], x_mean)
        self.refiner = mlp((x_dim, *refiner, x_dim), activation, last=False)

    def decode(self, z1):
        """The distributions of x (coarse, fine) given z1 (..., z_dim)."""
        location = self.coarse(z1)
        coarse = self.likelihoods[0](location)
        return coarse, self.likelihoods[1](location + self.refiner(coarse.mean))

    def forward(self, x):
        """:param x: (B, x_dim)."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", standard_normal(x, self.z_dims[0]))
            coarse, fine = self.decode(z1)
            pyro.sample("x_stage1", coarse, obs=x, infer={"auxiliary": True})
            pyro.sample("x", fine, obs=x)
