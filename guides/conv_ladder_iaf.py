r"""Bidirectional guide for images: convolutions up, autoregressive flows of masked convolutions at each map on the way down.

.. math:: c_i = \mathrm{elu}(A_i * d_i + B_i * h_i), \qquad z_i^{(0)} \sim N(\mu_i(c_i), \sigma_i(c_i)^2), \qquad
          z_i^{(t)} = \mathrm{gate}_t(z_i^{(t-1)}; c_i)

Source: Kingma et al. (2016), https://arxiv.org/abs/1606.04934.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..zoo.conv_residual_hvae import MapHead, conv
from ..zoo.convolutions import MaskedImageNN, on_maps
from .iaf import GatedFlow
from .ladder_iaf import BidirectionalGuide


class ConvPath(nn.Module):
    """The deterministic path up: images (B, H W) to feature maps (B, width, H / 2^i, W / 2^i), i = 1 ... layers."""

    def __init__(self, image_shape, layers, width, x_mean):
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.shrink = nn.ModuleList(
            nn.Conv2d(1 if i == 0 else width, width, 3, stride=2, padding=1) for i in range(layers)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ELU(), conv(width, width), nn.ELU(), conv(width, width)) for _ in range(layers)
        )
        self.register_buffer("x_mean", torch.as_tensor(x_mean, dtype=torch.get_default_dtype()).clone())

    def forward(self, x):
        """The maps that each layer reads, bottom first."""
        d, out = (x - self.x_mean).reshape(-1, 1, *self.image_shape), []
        for shrink, block in zip(self.shrink, self.blocks, strict=True):
            d = shrink(d if not out else F.elu(d))
            d = d + block(d)
            out.append(d)
        return out


class ConvFlowLayer(nn.Module):
    """q of one map: a Gaussian and gated masked convolutions, given the features below and the state above."""

    def __init__(self, width, shape, steps, hidden, top=False):
        super().__init__()
        self.up = conv(width, width)
        self.down = None if top else conv(width, width, bias=False)
        self.head = MapHead(width, shape[0])
        nets = [MaskedImageNN(shape, width, hidden, reverse=bool(t % 2)) for t in range(steps)]
        self.flow = GatedFlow.of(nets) if steps else None

    def forward(self, d, h):
        """Maps (B, width, H, W) and (..., width, H, W), or ``None``, to a distribution with event shape (C H W,)."""
        context = on_maps(self.up, d)
        context = F.elu(context if self.down is None else context + on_maps(self.down, h))
        base = self.head(context)
        return base if self.flow is None else self.flow(base, context)


class ConvLadderIAF(BidirectionalGuide):
    """The guide of Kingma et al. (2016) for a :class:`~pyrarchy.zoo.ConvResidualHVAE`.

    :param model: the model, whose maps it takes.
    :param x_mean: (height * width,) subtracted from the data.
    :param int steps: flow steps at each layer; 0 leaves Gaussians.
    :param int hidden: channels of each step's masked network; at least those of the layer.
    """

    def __init__(self, model, x_mean, steps=2, hidden=24):
        if not hasattr(model, "map_shapes"):
            raise TypeError(
                f"{type(model).__name__} has no maps for ConvLadderIAF to read: give a ConvResidualHVAE, or use LadderIAF"
            )
        width, depth = model.hidden[0], len(model.map_shapes)
        layers = [ConvFlowLayer(width, s, steps, hidden, top=i == depth) for i, s in enumerate(model.map_shapes, 1)]
        super().__init__(model, ConvPath(model.image_shape, depth, width, x_mean), layers)
