r"""The lossy variational autoencoder: a pixel is given z and the pixels of a small causal window before it.

.. math:: z_1 \sim N(0, I), \qquad
          x_j | z_1, x_{<j} \sim \mathrm{Bernoulli}\big(\sigma(f_j(z_1) + g(x_{W(j)}, c_j(z_1)))\big)

What the window can tell (texture, the thickness of a stroke) need not go through z, which costs KL; so z keeps what lies
beyond the window's reach r, and nothing when the window sees all. With r = 0 it is :class:`VAE`.

Source: Chen et al. (2017), https://arxiv.org/abs/1611.02731.
Differs from the paper: one window convolution in place of a deep PixelCNN, and a normal prior in place of a flow.
"""

import pyro
from pyro.nn import PyroModule
from torch import nn

from .masked_pixels import MaskedPixels, PixelWindow
from .networks import BernoulliHead, mlp, standard_normal


class LossyVAE(PyroModule):
    """One stochastic layer z1 under bits that also read their neighbours.

    :param image_shape: (height, width).
    :param int z_dim: dimension of z1.
    :param hidden: widths of the decoder, from z to x.
    :param int field: r, reach of the window in pixels; 0 for none.
    :param int channels: of the window's network.
    :param x_mean: training mean (height * width,), to start the output bias at its logit.

    >>> import torch
    >>> model = LossyVAE((2, 3), z_dim=2, hidden=(4,))
    >>> model.decode(torch.zeros(5, 2)).sample().shape
    torch.Size([5, 6])
    """

    def __init__(self, image_shape, z_dim=16, hidden=(128, 128), field=1, channels=16, x_mean=None):
        super().__init__("model")
        if image_shape is None or len(image_shape) != 2:
            raise ValueError(f"the window needs images: image_shape must be (height, width), not {image_shape}")
        if field < 0:
            raise ValueError(f"field must be 0 (no window) or more, not {field}")
        height, width = self.image_shape = tuple(image_shape)
        self.z_dims = (z_dim,)
        self.decoder = nn.Sequential(mlp((z_dim, *hidden)), BernoulliHead(hidden[-1], height * width, x_mean))
        self.maps = self.window = None
        if field:
            self.maps = nn.Sequential(
                nn.Linear(hidden[-1], channels * height * width), nn.Unflatten(-1, (channels, height, width))
            )
            self.window = PixelWindow(field, channels)

    def decode(self, z1):
        """Distribution of x given z1 (..., z_dim)."""
        h = self.decoder[0](z1)
        logits = self.decoder[1](h).base_dist.logits
        return MaskedPixels(logits) if self.window is None else MaskedPixels(logits, self.window, self.maps(h))

    def forward(self, x):
        """:param x: (B, height * width) of zeros and ones."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", standard_normal(x, self.z_dims[0]))
            pyro.sample("x", self.decode(z1), obs=x)
