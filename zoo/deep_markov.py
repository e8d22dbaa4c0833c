r"""A deep Markov model: a hidden chain whose step and whose observation are networks.

.. math::

    z_1 \sim N(0, I), \quad z_t \mid z_{t-1} \sim N\big((1 - g) \odot (W z_{t-1} + b) + g \odot h, s(h)^2\big), \quad
    x_t \mid z_t \sim N(\mu(z_t), \sigma(z_t)^2)

with g = g(z_{t-1}) a gate between a linear and a curved step and h = h(z_{t-1}). With the gate shut and linear heads it
is :class:`LinearStateSpace`.

Source: Krishnan, Shalit and Sontag (2017), Structured inference networks for nonlinear state space models,
https://arxiv.org/abs/1609.09869.
Differs from the paper: Gaussian observations, one number a step; the scale of a step has a floor.
"""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import nn

from .networks import NormalHead, mlp, standard_normal


class GatedTransition(nn.Module):
    """z_{t-1} to the distribution of z_t: a linear step and a curved one, mixed by a gate.

    :param int z_dim: width of z.
    :param int hidden: width of the gate's and of the curved step's layer.
    :param float floor: least scale.
    """

    def __init__(self, z_dim, hidden, floor=1e-3):
        super().__init__()
        self.gate = mlp((z_dim, hidden, z_dim), nn.ReLU, last=False)
        self.curved = mlp((z_dim, hidden, z_dim), nn.ReLU, last=False)
        self.linear = nn.Linear(z_dim, z_dim)
        self.raw_scale = nn.Linear(z_dim, z_dim)
        self.floor = floor
        nn.init.eye_(self.linear.weight)  # as in the paper: at first z stays where it is
        nn.init.zeros_(self.linear.bias)

    def forward(self, z):
        """z_{t-1} (..., K) to a diagonal Normal with event shape (K,)."""
        gate, curved = torch.sigmoid(self.gate(z)), self.curved(z)
        loc = (1 - gate) * self.linear(z) + gate * curved
        return dist.Normal(loc, self.floor + F.softplus(self.raw_scale(F.relu(curved)))).to_event(1)


class DeepMarkov(PyroModule):
    """Series of length T; sites ``z1`` .. ``zT``, each (K,), and ``x`` (T,) in plate ``data``.

    :param int z_dim: K, width of the hidden state.
    :param int hidden: width of the transition's networks.
    :param emission: widths of the network from z_t to x_t; empty for a linear one.
    :param float floor: least scale of an observation, in the data's unit.

    >>> import torch
    >>> model = DeepMarkov(2)
    >>> model.transition(torch.zeros(5, 3, 2)).batch_shape
    torch.Size([5, 3])
    """

    def __init__(self, z_dim, hidden=16, emission=(16,), floor=0.05):
        super().__init__("model")
        self.z_dim = z_dim
        self.transition = GatedTransition(z_dim, hidden)
        self.emission = nn.Sequential(mlp((z_dim, *emission)), NormalHead((z_dim, *emission)[-1], 1, floor))

    def forward(self, x):
        """:param x: (B, T) series of any one length."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z1", standard_normal(x, self.z_dim))
            chain = [z]
            for t in range(2, x.shape[1] + 1):
                z = pyro.sample(f"z{t}", self.transition(z))
                chain.append(z)
            x_t = self.emission(torch.stack(torch.broadcast_tensors(*chain), -2)).base_dist
            pyro.sample("x", dist.Normal(x_t.loc[..., 0], x_t.scale[..., 0]).to_event(1), obs=x)
