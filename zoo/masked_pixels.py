r"""Binary images pixel by pixel: each given the pixels of a causal window before it, and maps of features.

.. math:: \log p(x) = \sum_j \log \mathrm{Bernoulli}\big(x_j; \sigma(a_j + g(x_{W(j)}, c_j))\big)

W(j) holds the r rows above j, from r columns to its left to r to its right, and the r pixels to its left. A density
costs one pass; a sample costs one pass a pixel.

Source: van den Oord, Kalchbrenner & Kavukcuoglu (2016), https://arxiv.org/abs/1601.06759.
"""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import nn

from .convolutions import MaskedConv2d, on_maps


class PixelWindow(nn.Module):
    """g: what a pixel's window and features say of its logit.

    One masked convolution reads the window and all that follows acts on a pixel alone, so W is exactly the window.

    :param int field: r, one or more.
    :param int channels: of the feature maps and the hidden layers.
    """

    def __init__(self, field, channels):
        super().__init__()
        self.window = MaskedConv2d([0], [0] * channels, field, strict=True)
        self.mix = nn.Sequential(
            nn.ELU(), nn.Conv2d(channels, channels, 1), nn.ELU(), nn.Conv2d(channels, 1, 1, bias=False)
        )

    def forward(self, x, maps):
        """Images (..., H, W) and maps (..., channels, H, W) to additions (..., H, W) to the logits."""
        read = on_maps(
            self.window, (2 * x - 1).unsqueeze(-3)
        )  # centred; beyond the image's edge is a third value, zero
        return on_maps(self.mix, read + maps).squeeze(-3)


class MaskedPixels(TorchDistribution):
    """Bits of an image in raster order, event shape (H * W,).

    :param logits: (..., H * W), the part of each pixel's logit that does not depend on other pixels.
    :param window: a :class:`PixelWindow`, or ``None`` for independent bits.
    :param maps: its features (..., channels, H, W).
    """

    arg_constraints = {}  # noqa: RUF012 (torch's own spelling)
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits, window=None, maps=None, validate_args=None):
        self.logits, self.window, self.maps = logits, window, maps
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        """The same images for more places."""
        batch_shape = torch.Size(batch_shape)
        maps = None if self.maps is None else self.maps.expand(*batch_shape, *self.maps.shape[-3:])
        logits = self.logits.expand(*batch_shape, *self.event_shape)
        return MaskedPixels(logits, self.window, maps, validate_args=False)

    def conditional_logits(self, x):
        """Every pixel's logit given its window in x (..., H * W), in one pass."""
        if self.window is None:
            return self.logits.expand(torch.broadcast_shapes(self.logits.shape, x.shape))
        images = x.reshape(*x.shape[:-1], *self.maps.shape[-2:])
        return self.logits + self.window(images, self.maps).flatten(-2)

    def log_prob(self, value):
        """Nats, of the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        return dist.Bernoulli(logits=self.conditional_logits(value)).log_prob(value).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape=()):
        """Pixel by pixel: H * W passes."""
        return self._draw(sample_shape)[0]

    @property
    @torch.no_grad()
    def mean(self):
        """An estimate of E[x], exact for independent bits: each pixel's probability given its window in one draw.

        It is unbiased and differs from call to call. The mean itself is a sum over all images.
        """
        return self._draw(())[1]

    def _draw(self, sample_shape):
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        if self.window is None:
            probs = torch.sigmoid(self.logits).expand(shape)
            return torch.bernoulli(probs), probs
        x, probs = self.logits.new_zeros(shape), self.logits.new_zeros(shape)
        for j in range(shape[-1]):
            probs[..., j] = torch.sigmoid(self.conditional_logits(x)[..., j])
            x[..., j] = torch.bernoulli(probs[..., j])
        return x, probs
