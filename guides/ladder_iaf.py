r"""Bidirectional guide: deterministic up, stochastic down along the model's own state, an autoregressive flow at each layer.

.. math:: d_i = d_{i-1} + u_i(d_{i-1}), \quad c_i = \mathrm{elu}(A_i d_i + B_i h_i), \qquad
          z_i^{(0)} \sim N(\mu_i(c_i), \sigma_i(c_i)^2), \quad z_i^{(t)} = \mathrm{gate}_t(z_i^{(t-1)}; c_i)

:math:`h_i` is the state of the model's top-down path, which holds all samples above (at the top there is none). The guide
runs the model and reads the state from it: nothing is copied and the path runs once.

Source: Kingma et al. (2016), https://arxiv.org/abs/1606.04934.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..zoo.networks import NormalHead, mlp
from .base import Guide
from .iaf import GatedFlow


class UpwardPath(nn.Module):
    """The deterministic path up: data (B, x_dim) to a list of features (B, width), bottom first."""

    def __init__(self, x_mean, layers, width):
        super().__init__()
        self.read = mlp((len(x_mean), width), nn.ELU)
        self.blocks = nn.ModuleList(
            nn.Sequential(mlp((width, width), nn.ELU), mlp((width, width), last=False)) for _ in range(layers)
        )
        self.register_buffer("x_mean", torch.as_tensor(x_mean, dtype=torch.get_default_dtype()).clone())

    def forward(self, x):
        """The features that each layer reads."""
        d, out = self.read(x - self.x_mean), []
        for block in self.blocks:
            d = d + block(d)
            out.append(d)
        return out


class FlowLayer(nn.Module):
    """q of one layer: a Gaussian and gated steps, both given the features below and the state above.

    The top layer has features alone: ``state`` is the width of the state, 0 there.
    """

    def __init__(self, width, state, z_dim, steps, hidden):
        super().__init__()
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(state, width, bias=False) if state else None
        self.head = NormalHead(width, z_dim)
        # An affine step on one dimension leaves a Gaussian a Gaussian: such a layer keeps the one it has.
        self.flow = GatedFlow(z_dim, width, steps, hidden) if steps and z_dim > 1 else None

    def forward(self, d, h):
        """Features (B, width) and state (..., state), or ``None``, to a distribution with event shape (z_dim,)."""
        context = F.elu(self.up(d) if self.down is None else self.up(d) + self.down(h))
        base = self.head(context)
        return base if self.flow is None else self.flow(base, context)


def needs_state(model, guide):
    """TypeError for a model that carries no state down."""
    if not hasattr(type(model), "state"):
        raise TypeError(
            f"{type(model).__name__} has no top-down state for {guide} to read at its sites: give a model that carries one "
            "down, such as ResidualHVAE, or use IAF, which reads the data alone."
        )


class BidirectionalGuide(Guide):
    """Base: a path up, and at each layer a distribution given its features and the model's state there.

    :param model: a model with, during a pass, ``state`` (:class:`~pyrarchy.zoo.ResidualHVAE`,
        :class:`~pyrarchy.zoo.DenseHVAE`).
    :param path: module mapping the data to a list of features, bottom first.
    :param layers: per site z1 ... zL, a module mapping (features, state) to a distribution.
    :raises TypeError: for a model without a state.
    """

    def __init__(self, model, path, layers):
        needs_state(model, type(self).__name__)
        super().__init__(model)
        self.path, self.layers = path, nn.ModuleList(layers)
        self.sites = {f"z{i}": i - 1 for i in range(1, len(self.layers) + 1)}

    def encode(self, x, *args, **kwargs):
        """The features of every layer."""
        return self.path(x)

    def posterior(self, name, prior):
        """The layer's distribution; refuses, by name, a site outside the layers."""
        if name not in self.sites:
            raise ValueError(f"site '{name}': the guide was built for the sites {list(self.sites)} alone")
        i = self.sites[name]
        return self.layers[i](self.evidence[i], self.model.state)


class LadderIAF(BidirectionalGuide):
    """The guide of Kingma et al. (2016), fully connected.

    :param model: a model with ``z_dims``, ``hidden`` (widths of its state, x first) and ``state`` during a pass, such as
        :class:`~pyrarchy.zoo.ResidualHVAE`. The path up is as wide as the state that x reads.
    :param x_mean: (x_dim,) subtracted from the data.
    :param int steps: flow steps at each layer of two dimensions or more; 0 leaves Gaussians.
    :param hidden: widths of each step's masked network; at least the layer's dimension each.
    """

    def __init__(self, model, x_mean, steps=2, hidden=(64,)):
        needs_state(model, type(self).__name__)
        if hasattr(model, "map_shapes"):
            raise TypeError(f"{type(model).__name__} has maps at its sites, not vectors: use ConvLadderIAF")
        width, states = model.hidden[0], (*model.hidden[1:], 0)
        layers = [FlowLayer(width, h, z, steps, hidden) for h, z in zip(states, model.z_dims, strict=True)]
        super().__init__(model, UpwardPath(x_mean, len(layers), width), layers)
