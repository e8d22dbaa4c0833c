r"""Hierarchies of Gaussian layers written by hand in plain PyTorch, with a bottom-up guide or a ladder.

.. math:: \log w = \log p(x | z_1) + \sum_i \log p(z_i | z_{i+1}) - \log q(z_i | z_{i+1}, x)

The same layers, initial weights, noise and loss as ours, the top-down pass run once; constants that cancel between log p
and log q are left out. ``tests/test_bench_hierarchies.py`` checks loss and gradients against ours.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from .by_hand import FLOOR


def network(*sizes):
    """Linear maps, each followed by a leaky rectifier."""
    return nn.Sequential(*(part for size in pairwise(sizes) for part in (nn.Linear(*size), nn.LeakyReLU())))


class Head(nn.Module):
    """Features to the mean and the scale of a Gaussian."""

    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.loc, self.raw_scale = nn.Linear(in_dim, out_dim), nn.Linear(in_dim, out_dim)

    def forward(self, h):
        return self.loc(h), F.softplus(self.raw_scale(h)) + FLOOR


class HandHierarchy(nn.Module):
    """L layers under Bernoulli pixels; the guide reads the data alone.

    :param int x_dim: pixels. :param z_dims, hidden: of each layer, bottom first.
    :param x_mean: (x_dim,) subtracted from the encoder's input.
    """

    def __init__(self, x_dim, z_dims, hidden, x_mean):
        super().__init__()
        self.register_buffer("x_mean", x_mean)
        self.blocks = nn.ModuleList(network(a, b, b) for a, b in pairwise((x_dim, *hidden)))
        self.heads = nn.ModuleList(Head(width, z) for width, z in zip(hidden, z_dims, strict=True))
        self.decoder = nn.Sequential(*network(z_dims[0], hidden[0], hidden[0]), nn.Linear(hidden[0], x_dim))
        self.priors = nn.ModuleList(
            nn.Sequential(network(above, width, width), Head(width, below))
            for (below, above), width in zip(pairwise(z_dims), hidden[1:], strict=True)
        )

    def combine(self, prior, evidence):
        """Mean and scale of q below the top, from the prior's and those that the data give."""
        return evidence

    def loss(self, x, num_particles=1):
        """Minus the importance-weighted bound (the ELBO for one particle) per datum, in nats, for ``x`` (B, x_dim)."""
        h, evidence = x - self.x_mean, []
        for block, head in zip(self.blocks, self.heads, strict=True):
            h = block(h)
            evidence.append(head(h))
        loc, scale = evidence[-1]
        eps = torch.randn(loc.shape if num_particles == 1 else (num_particles, *loc.shape))
        z = loc + scale * eps
        log_w = 0.5 * (eps.square() - z.square()).sum(-1) + scale.log().sum(-1)
        for prior, message in zip(reversed(self.priors), evidence[-2::-1], strict=True):
            below = prior(z)
            loc, scale = self.combine(below, message)
            eps = torch.randn(below[0].shape)
            z = loc + scale * eps
            standard = (z - below[0]) / below[1]
            log_w = log_w + (0.5 * (eps.square() - standard.square()) + (scale / below[1]).log()).sum(-1)
        logits = self.decoder(z)
        log_w = log_w - F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        if num_particles == 1:
            return -log_w.mean()
        return -(log_w.logsumexp(0) - math.log(num_particles)).mean()

    def copy_weights(self, model, guide):
        """Take the weights of our pair, whose layers come in the same order."""
        ours = [*guide.encoder.parameters(), *model.parameters()]
        with torch.no_grad():
            for target, source in zip(self.parameters(), ours, strict=True):
                target.copy_(source)
        return self


class HandLadder(HandHierarchy):
    """The guide multiplies what the data say into the prior, by their precisions."""

    def combine(self, prior, evidence):
        """The normalised product of two Gaussians."""
        (mean, scale), (message, error) = prior, evidence
        total = scale.square() + error.square()
        return mean + scale.square() / total * (message - mean), scale * error / total.sqrt()
