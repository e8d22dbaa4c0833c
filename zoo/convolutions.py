"""Convolutions for models and guides of images: any number of leading dimensions, and masks that keep an order.

Source of the masks: van den Oord, Kalchbrenner & Kavukcuoglu (2016), https://arxiv.org/abs/1601.06759.
"""

import torch
import torch.nn.functional as F
from torch import nn


def on_maps(net, maps):
    """Run a network of images on feature maps with any number of leading dimensions: (..., C, H, W) to (..., C', H', W').

    >>> import torch
    >>> on_maps(torch.nn.Conv2d(3, 5, 3, padding=1), torch.zeros(7, 4, 3, 8, 6)).shape
    torch.Size([7, 4, 5, 8, 6])
    """
    out = net(maps.reshape(-1, *maps.shape[-3:]))
    return out.reshape(*maps.shape[:-3], *out.shape[1:])


def join(h, z):
    """Feature maps side by side, (..., C + C', H, W), their leading dimensions broadcast."""
    lead = torch.broadcast_shapes(h.shape[:-3], z.shape[:-3])
    return torch.cat([h.expand(*lead, *h.shape[-3:]), z.expand(*lead, *z.shape[-3:])], -3)


class MaskedConv2d(nn.Conv2d):
    """A convolution that reads pixels earlier in raster order, and of the present pixel the channels of lower degree.

    :param in_degrees, out_degrees: one whole number a channel.
    :param int reach: rows above, and columns to either side; the kernel is (2 reach + 1) squared.
    :param bool strict: whether the present pixel's channels need a degree below the output's (else at most equal).
    """

    def __init__(self, in_degrees, out_degrees, reach, strict):
        super().__init__(len(in_degrees), len(out_degrees), 2 * reach + 1, padding=reach)
        mask = torch.zeros_like(self.weight)
        mask[:, :, :reach], mask[:, :, reach, :reach] = 1.0, 1.0
        read, write = torch.as_tensor(in_degrees), torch.as_tensor(out_degrees).unsqueeze(1)
        mask[:, :, reach, reach] = (read < write if strict else read <= write).to(mask)
        self.register_buffer("mask", mask)

    def forward(self, x):
        """(N, C, H, W) to (N, C', H, W)."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class MaskedImageNN(nn.Module):
    """Two numbers for each entry of a feature map, functions of the entries before it and of a context.

    The order is raster order over pixels and within a pixel that of the channels; ``reverse`` turns it round. It takes the
    place of Pyro's ``ConditionalAutoRegressiveNN`` for maps.

    :param shape: (C, H, W) of the variable, which is handed over flat.
    :param int context_channels: channels of the context, maps of the same height and width.
    :param int hidden: channels of the hidden layer, at least C.
    """

    def __init__(self, shape, context_channels, hidden, reverse=False):
        super().__init__()
        channels, height, width = shape
        if hidden < channels:
            raise ValueError(f"hidden must be at least the number of channels, {channels}, not {hidden}: masks need it")
        self.shape, self.reverse = tuple(shape), reverse
        degrees = torch.arange(channels)
        between = torch.arange(hidden) % channels
        self.read = MaskedConv2d(degrees, between, 1, strict=True)
        self.context = nn.Conv2d(context_channels, hidden, 1, bias=False)
        self.write = MaskedConv2d(between, degrees.repeat(2), 1, strict=False)
        # entry c H W + p is the (p C + c)-th
        order = torch.arange(channels * height * width).reshape(channels, -1).T.reshape(-1)
        self.register_buffer("permutation", order.flip(0) if reverse else order)

    def get_permutation(self):
        """Indices of the flat vector in the order of generation."""
        return self.permutation

    def forward(self, x, context):
        """(..., C H W) and maps (..., context_channels, H, W) to two tensors (..., C H W)."""
        lead, x = x.shape[:-1], x.to(context)  # Pyro's inverse starts from zeros of the default dtype
        if self.reverse:
            x, context = x.flip(-1), context.flip((-2, -1))
        h = self.read(x.reshape(-1, *self.shape))
        c = on_maps(self.context, context)
        h = h.reshape(*lead, *h.shape[1:]) + c
        out = on_maps(self.write, F.elu(h)).reshape(*lead, 2, -1)
        return tuple((out.flip(-1) if self.reverse else out).unbind(-2))
