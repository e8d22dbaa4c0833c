r"""The top-down hierarchy with a deterministic path, its state a feature map that grows from layer to layer.

.. math:: h_L = 0, \qquad z_i \sim N(\mu_i(h_i), \sigma_i(h_i)^2), \qquad
          h_{i-1} = \mathrm{grow}(h_i + f_i(h_i, z_i)), \qquad x | h_0 \sim \mathrm{Bernoulli}(\sigma(g(h_0)))

:math:`f_i, g` are convolutions; layer i lives on maps :math:`2^i` times smaller than the image.

Source: Kingma et al. (2016), https://arxiv.org/abs/1606.04934.
Differs from the paper: as :class:`~pyrarchy.zoo.ResidualHVAE`, and one layer a resolution.
"""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn

from .convolutions import join, on_maps
from .networks import standard_normal
from .residual_hvae import ResidualHVAE


def conv(fan_in, fan_out, **kwargs):
    """A 3 x 3 convolution that keeps height and width."""
    return nn.Conv2d(fan_in, fan_out, 3, padding=1, **kwargs)


class MapHead(nn.Module):
    """A convolution to mean and scale of a diagonal Gaussian over a flattened map: (..., C, H, W) to (..., C' H W)."""

    def __init__(self, fan_in, channels, floor=1e-4):
        super().__init__()
        self.net, self.floor = conv(fan_in, 2 * channels), floor

    def forward(self, h):
        """The Normal, with event shape (C' H W,)."""
        out = on_maps(self.net, h)
        loc, raw = out.reshape(*out.shape[:-3], 2, -1).unbind(-2)
        return dist.Normal(loc, self.floor + F.softplus(raw)).to_event(1)


class ConvBlock(nn.Module):
    """Adds what a flat sample says to the state and doubles its height and width."""

    def __init__(self, width, shape):
        super().__init__()
        self.shape = shape
        self.net = nn.Sequential(conv(width + shape[0], width), nn.ELU(), conv(width, width))
        self.grow = nn.Upsample(scale_factor=2)

    def forward(self, h, z):
        """State (..., width, H, W), sample (..., C H W) to (..., width, 2 H, 2 W)."""
        z = z.reshape(*z.shape[:-1], *self.shape)
        return on_maps(self.grow, h + on_maps(self.net, join(F.elu(h), z)))


class ImageHead(nn.Module):
    """A convolution to the logits of a flattened image, with a bias for each pixel."""

    def __init__(self, width, x_dim, mean=None):
        super().__init__()
        self.net = conv(width, 1, bias=False)
        mean = torch.full((x_dim,), 0.5) if mean is None else torch.as_tensor(mean, dtype=torch.get_default_dtype())
        self.bias = nn.Parameter(torch.logit(mean.clamp(1e-3, 1 - 1e-3)))

    def forward(self, h):
        """(..., width, H, W) to Bernoulli bits with event shape (H W,)."""
        return dist.Bernoulli(logits=on_maps(self.net, F.elu(h)).flatten(-3) + self.bias).to_event(1)


class ConvResidualHVAE(ResidualHVAE):
    """Feature maps z1 (nearest the data) to zL along one state, under independent bits x. Sites hold flat vectors.

    :param image_shape: (height, width), each divisible by 2^L.
    :param channels: channels of each layer's map, bottom first; ``map_shapes`` and ``z_dims`` follow.
    :param int width: channels of the state.
    :param x_mean: training mean (height * width,), to start the pixels' bias at its logit.
    """

    def __init__(self, image_shape, channels=(2, 4), width=24, x_mean=None):
        super(ResidualHVAE, self).__init__("model")
        if not channels:
            raise ValueError("channels needs at least one layer")
        unit = 2 ** len(channels)
        if image_shape is None or len(image_shape) != 2 or any(side % unit for side in image_shape):
            raise ValueError(
                f"{len(channels)} layers need images whose height and width divide by {unit}, not image_shape={image_shape}"
            )
        height, across = image_shape
        self.image_shape, self.hidden = tuple(image_shape), (width,) * len(channels)
        self.map_shapes = tuple((c, height >> i, across >> i) for i, c in enumerate(channels, 1))
        self.z_dims = tuple(c * h * w for c, h, w in self.map_shapes)
        self.blocks = nn.ModuleList(ConvBlock(width, shape) for shape in self.map_shapes)
        self.priors = nn.ModuleList(nn.Sequential(nn.ELU(), MapHead(width, c)) for c in channels[:-1])
        self.decoder = ImageHead(width, height * across, x_mean)

    def start(self, like):
        """The state above the top layer, (width, H / 2^L, W / 2^L)."""
        return like.new_zeros(self.hidden[-1], *self.map_shapes[-1][1:])

    def prior(self, i, h):
        """Distribution of layer i (from 1) given the state above it."""
        return standard_normal(h, self.z_dims[-1]) if i == len(self.z_dims) else self.priors[i - 1](h)
