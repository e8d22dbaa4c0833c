r"""Structured guide for chains in time: each step reads the sample before it and all data still to come.

.. math:: q(z | x) = \prod_t q(z_t \mid z_{t-1}, x_{t..T}), \qquad
          h_t = \tfrac12 (\tanh(W z_{t-1} + b) + \mathrm{GRU}(x_T, \dots, x_t)), \quad z_t \sim N(\mu(h_t), \sigma(h_t)^2)

The posterior of any such chain factors so: given z_{t-1} the data before t say nothing more of z_t.

Source: Krishnan, Shalit and Sontag (2017), https://arxiv.org/abs/1609.09869 (their DKS).
Differs from the paper: a GRU in place of an LSTM, and heads with a floor on the scale.
"""

import re

import torch
from pyro.nn.module import pyro_method
from torch import nn

from ..zoo.networks import NormalHead
from .base import Guide


class StructuredChain(Guide):
    """A backward recurrent network over the series and a combiner with the sample before.

    :param model: a model with latents ``z1`` .. ``zT`` in this order, each (z_dim,), for data of T steps.
    :param int z_dim: width of a step's latent.
    :param int hidden: width of the recurrent state.
    :param int x_dim: numbers observed at each step; data are (B, T) for one, (B, T, x_dim) for any.
    :param float x_mean, x_scale: what the data are centred and divided by before they are read.

    :raises ValueError: at a latent that is no step of such a chain, and for a chain of another length than the data's;
        each names the site.
    """

    def __init__(self, model, z_dim, hidden=32, x_dim=1, x_mean=0.0, x_scale=1.0):
        super().__init__(model)
        if not x_scale > 0:
            raise ValueError(f"x_scale: {x_scale} given; a positive scale is needed")
        self.x_dim = x_dim
        self.backward = nn.GRU(x_dim, hidden, batch_first=True)
        self.combine = nn.Linear(z_dim, hidden)
        self.head = NormalHead(hidden, z_dim)
        self.start = nn.Parameter(torch.zeros(z_dim))  # what stands before the first step
        self.register_buffer("x_mean", torch.tensor(float(x_mean)))
        self.register_buffer("x_scale", torch.tensor(float(x_scale)))

    @pyro_method
    def __call__(self, x, *args, **kwargs):
        """Draw every latent; refuses a chain shorter than the data, whose last steps nobody would explain."""
        out = super().__call__(x, *args, **kwargs)
        steps = sum(re.fullmatch(r"z\d+", name) is not None for name in out)
        if steps != x.shape[1]:
            raise ValueError(
                f"the model's chain ends with site 'z{steps}', but the data have {x.shape[1]} steps: {type(self).__name__} "
                "needs one latent for each step."
            )
        return out

    def encode(self, x, *args, **kwargs):
        """What the data from each step on say: a list of T tensors (B, hidden)."""
        if x.dim() < 2 or (1 if x.dim() == 2 else x.shape[2]) != self.x_dim:
            raise ValueError(
                f"{type(self.model).__name__} has data of shape {tuple(x.shape)}; series (B, T) are needed, or "
                f"(B, T, {self.x_dim}) for "
                f"{self.x_dim} number(s) a step."
            )
        x = ((x - self.x_mean) / self.x_scale).reshape(*x.shape[:2], self.x_dim)
        return self.backward(x.flip(1))[0].flip(1).unbind(1)

    def posterior(self, name, prior):
        """N(mu, sigma^2) from the combined state; refuses, by name, a site that is not the chain's next step."""
        match = re.fullmatch(r"z([1-9]\d*)", name)
        t = int(match[1]) if match else 0
        above = self.trace.nodes
        if (
            not t
            or (t > 1 and f"z{t - 1}" not in above)
            or prior.event_shape != self.start.shape
            or t > len(self.evidence)
        ):
            raise ValueError(
                f"site '{name}' with event shape {tuple(prior.event_shape)} is no step of a chain in time: "
                f"{type(self).__name__} needs latents z1 .. z{len(self.evidence)} (one for each step of the data), each "
                f"of event shape {tuple(self.start.shape)}, sampled in this order."
            )
        before, after = self.upstream_value(f"z{t - 1}") if t > 1 else self.start, self.evidence[t - 1]
        state = torch.tanh(self.combine(before))
        return self.head(0.5 * (state + after.expand(*state.shape[:-2], *after.shape)))
