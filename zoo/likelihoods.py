r"""What turns an image's location into a distribution of x, for models whose networks end in an image.

A model that sees x at several stages takes one likelihood a stage: ``Bits`` for zeros and ones, ``GaussianPixels`` for
a squared error and ``LaplacePixels`` for an absolute one, each as the normalised density that its loss stands for.
"""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn


class Bits(nn.Module):
    """Independent bits; the location is their logit."""

    def location(self, mean):
        """The location of given means (D,), clipped to [.001, .999]."""
        return torch.logit(torch.as_tensor(mean).clamp(1e-3, 1 - 1e-3))

    def forward(self, location):
        """Logits (..., D) to bits with event shape (D,)."""
        return dist.Bernoulli(logits=location).to_event(1)


class GaussianPixels(nn.Module):
    """Independent Normals with one learned scale for all pixels: minus log density is a squared error and a constant.

    :param float scale: its start, in the units of x. :param float floor: least scale.

    >>> import torch
    >>> round(GaussianPixels(scale=0.5)(torch.zeros(3)).base_dist.scale[0].item(), 6)
    0.5
    """

    family = dist.Normal

    def __init__(self, scale=0.25, floor=0.01):
        super().__init__()
        if not scale > floor > 0:
            raise ValueError(f"the scale's start must exceed its floor, which must be > 0, not {scale!r} and {floor!r}")
        self.floor = floor
        self.raw_scale = nn.Parameter(torch.tensor(float(scale - floor)).expm1().log())  # softplus's inverse

    def location(self, mean):
        """The location of given means (D,): the means themselves."""
        return torch.as_tensor(mean)

    def forward(self, location):
        """Locations (..., D) to pixels with event shape (D,)."""
        return self.family(location, self.floor + F.softplus(self.raw_scale)).to_event(1)


class LaplacePixels(GaussianPixels):
    """Independent Laplace variables with one learned scale: minus log density is an absolute error and a constant."""

    family = dist.Laplace


def start_at(network, likelihood, x_mean):
    """Start the bias of a network's last layer at the location of the training mean; ``None`` leaves it at zero.

    :raises ValueError: when ``x_mean`` has not one entry an output.
    """
    if x_mean is None:
        return network
    bias = network[-1].bias
    location = likelihood.location(torch.as_tensor(x_mean, dtype=bias.dtype))
    if location.shape != bias.shape:
        raise ValueError(f"x_mean must have shape {tuple(bias.shape)}, not {tuple(location.shape)}")
    with torch.no_grad():
        bias.copy_(location)
    return network
