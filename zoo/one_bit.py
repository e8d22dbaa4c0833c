r"""One bit of information in n dimensions: x is all zeros or all ones, under one or two Gaussian latents of one dimension.

.. math:: z_L \sim N(0, 1), \qquad z_1 | z_2 \sim N(\mu(z_2), \sigma(z_2)^2), \qquad
          x_d | z_1 \sim \mathrm{Bernoulli}(\sigma(f_d(z_1)))

The data's entropy is ln 2 = .693 nats, which no loss can be below. The bits of x are independent given z, so the more of
them there are the more it pays to tell z which one it was. With one latent and a Gaussian guide the best loss is known
(:func:`one_bit_optimum`); it stays above ln 2, because the posterior is half a Gaussian. A second latent comes closer:
the guide of the top, averaged over the first, may have any shape.

Source: Rui Shu, one-bit VAE, https://github.com/RuiShu/one-bit-vae.
"""

import math

import numpy as np
import pyro
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import nn

from .networks import BernoulliHead, NormalHead, mlp, standard_normal


class OneBit(PyroModule):
    """One-dimensional latents z1, or z2 and z1, under x_dim bits; three ELU layers below each latent.

    :param int x_dim: n, number of bits.
    :param int layers: one or two latents.
    :param int width: hidden units a layer.
    """

    def __init__(self, x_dim, layers=1, width=10):
        super().__init__("model")
        if layers not in (1, 2):
            raise ValueError(f"layers must be 1 or 2, not {layers}; zoo.MarkovHVAE takes more")
        self.layers, widths = layers, (1, width, width, width)
        self.decoder = nn.Sequential(mlp(widths, nn.ELU), BernoulliHead(width, x_dim))
        self.prior = nn.Sequential(mlp(widths, nn.ELU), NormalHead(width, 1)) if layers == 2 else None

    def forward(self, x):
        """:param x: (B, x_dim) of zeros and ones."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample(f"z{self.layers}", standard_normal(x, 1))
            if self.prior is not None:
                z = pyro.sample("z1", self.prior(z))
            pyro.sample("x", self.decoder(z), obs=x)


def one_bit_optimum(x_dim):
    r"""The least loss of one latent with a Gaussian guide N(+-mu, s^2) and the best decoder, whose logit is 2 mu z / s^2.

    .. math:: \min_{\mu, s}\; n\, E_{z \sim N(\mu, s^2)} \ln(1 + e^{-2 \mu z / s^2}) + KL(N(\mu, s^2) \| N(0, 1))

    :param int x_dim: n, number of bits.
    :returns: ``(loss, mu, s)``: nats per datum, and where it is reached; by quadrature.

    >>> [round(one_bit_optimum(n)[0], 5) for n in (1, 2, 5, 10)]
    [0.69315, 0.90756, 1.06579, 1.15371]
    """
    nodes, weights = normal_quadrature(200)

    def loss(raw):
        mu, s = raw[..., :1], raw[..., 1:].exp()
        z = mu + s * nodes
        reconstruction = (weights * F.softplus(-2 * mu * z / s**2)).sum(-1)
        return x_dim * reconstruction + 0.5 * (mu**2 + s**2 - 1 - 2 * s.log()).squeeze(-1)

    grid = torch.cartesian_prod(torch.linspace(0, 3, 61), torch.linspace(-3, 0.2, 33)).double()
    best = grid[loss(grid).argmin()].clone().requires_grad_()  # there are two minima: z used, and z ignored
    optimiser = torch.optim.LBFGS(
        [best], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = loss(best)
        value.backward()
        return value

    optimiser.step(closure)
    with torch.no_grad():
        return loss(best).item(), best[0].item(), math.exp(best[1].item())


def normal_quadrature(number):
    """Nodes and weights (number,) of Gauss-Hermite quadrature for a standard normal, float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(number)
    return torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))
