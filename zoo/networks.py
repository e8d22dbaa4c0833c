"""Plain networks that models and guides are built from: no sites, no parameters of their own beyond torch's.

All act on the last dimension, so any number of particle dimensions may sit on the left.
"""

from itertools import pairwise

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn


def mlp(sizes, activation=nn.Tanh, last=True):
    """A fully connected network.

    :param sizes: widths, input first, for example ``(784, 200, 200)``.
    :param activation: class of the nonlinearity, or :class:`~pyrarchy.zoo.batch_norm.Normalised` of one.
    :param bool last: whether the nonlinearity also follows the last layer.
    :returns: ``nn.Sequential`` mapping (..., sizes[0]) to (..., sizes[-1]).

    >>> import torch
    >>> mlp((3, 5, 2), last=False)(torch.zeros(7, 4, 3)).shape
    torch.Size([7, 4, 2])
    """
    layers = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        follows = last or i < len(sizes) - 2
        of_width = getattr(activation, "of_width", None) if follows else None  # a part that knows its width shifts, too
        linear = nn.Linear(fan_in, fan_out, bias=of_width is None)
        nn.init.xavier_uniform_(linear.weight)  # Glorot, as in Burda et al. (2015)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        layers.append(linear)
        if follows:
            layers.append(activation() if of_width is None else of_width(fan_out))
    return nn.Sequential(*layers)


class NormalHead(nn.Module):
    """Two linear maps to the mean and the scale of a diagonal Gaussian, ``scale = floor + softplus(.)``.

    :param int in_dim: width of the features.
    :param int out_dim: dimension of the variable.
    :param float floor: least scale.
    """

    def __init__(self, in_dim, out_dim, floor=1e-4):
        super().__init__()
        self.loc = nn.Linear(in_dim, out_dim)
        self.raw_scale = nn.Linear(in_dim, out_dim)
        self.floor = floor
        for linear in (self.loc, self.raw_scale):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, h):
        """Features (..., in_dim) to a Normal with event shape (out_dim,)."""
        return dist.Normal(self.loc(h), self.floor + F.softplus(self.raw_scale(h))).to_event(1)


class BernoulliHead(nn.Module):
    """A linear map to the logits of independent bits, its bias started at the logit of their mean.

    :param int in_dim: width of the features.
    :param int out_dim: number of bits.
    :param mean: tensor (out_dim,) of means in [0, 1], clipped to [.001, .999]; ``None`` starts the bias at zero.
    """

    def __init__(self, in_dim, out_dim, mean=None):
        super().__init__()
        self.logits = nn.Linear(in_dim, out_dim)
        nn.init.xavier_uniform_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        if mean is not None:
            mean = torch.as_tensor(mean, dtype=self.logits.bias.dtype).clamp(1e-3, 1 - 1e-3)
            if mean.shape != (out_dim,):
                raise ValueError(f"mean must have shape ({out_dim},), not {tuple(mean.shape)}")
            with torch.no_grad():
                self.logits.bias.copy_(torch.logit(mean))

    def forward(self, h):
        """Features (..., in_dim) to Bernoulli bits with event shape (out_dim,)."""
        return dist.Bernoulli(logits=self.logits(h)).to_event(1)


def concatenate(*parts):
    """Tensors side by side on the last dimension, the dimensions to the left of it broadcast.

    >>> import torch
    >>> concatenate(torch.zeros(5, 7, 2), torch.zeros(7, 3)).shape
    torch.Size([5, 7, 5])
    """
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)


def standard_normal(like, dim):
    """N(0, I) with event shape (dim,), on the device and of the dtype of a tensor."""
    return dist.Normal(like.new_zeros(dim), like.new_ones(())).to_event(1)


def top_prior(prior, like, dim):
    """The distribution of a hierarchy's top layer: N(0, I), or what a module ``prior(like)`` says.

    :param prior: ``None``, or a callable from a tensor (for its dtype and device) to a distribution with event shape
        (dim,), such as :class:`~pyrarchy.zoo.vamp_prior.VampPrior`.
    :raises ValueError: when its event shape is another.
    """
    if prior is None:
        return standard_normal(like, dim)
    top = prior(like)
    if top.event_shape != (dim,):
        raise ValueError(
            f"the top layer's prior {type(prior).__name__} has event shape {tuple(top.event_shape)}; the layer has {dim} "
            "dimensions: give the prior (and the encoder it reads) that size."
        )
    return top
