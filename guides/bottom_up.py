r"""Bottom-up guide: from the data to z1, from the sampled z1 to z2, and so on up. An ordinary Pyro guide.

.. math:: q(z | x) = q(z_1 | x) \prod_{i>1} q(z_i | z_{i-1})

It factors against the model's order, so its KL per layer has no closed form given the samples (`AnalyticELBO` refuses
it), and on a tree it has a gap where the top-down ladder is exact.

Source: Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519.
"""

import pyro
import torch
from pyro.nn import PyroModule
from torch import nn

from ..zoo.networks import NormalHead, mlp


class BottomUp(PyroModule):
    """Diagonal Gaussians (or what :attr:`head` says) up the hierarchy; block i reads the sample of layer i - 1.

    :param int x_dim: dimension of a datum.
    :param z_dims: dimension of each layer, bottom first.
    :param hidden: per layer, the widths of its block, bottom first; an empty sequence for a linear layer.
    :param x_mean: (x_dim,) subtracted from the data; zero by default.
    :param activation: class of the nonlinearity.
    :cvar head: class of the last map of a block, to a distribution.
    """

    head = NormalHead

    def __init__(self, x_dim, z_dims, hidden, x_mean=None, activation=nn.Tanh):
        super().__init__("guide")
        if len(z_dims) != len(hidden) or not z_dims:
            raise ValueError(f"z_dims and hidden need one entry a layer, not {len(z_dims)} and {len(hidden)}")
        inputs, blocks = (x_dim, *z_dims[:-1]), [(h, h) if isinstance(h, int) else tuple(h) for h in hidden]
        self.layers = nn.ModuleList(
            nn.Sequential(mlp((i, *widths), activation), self.head((i, *widths)[-1], z))
            for i, widths, z in zip(inputs, blocks, z_dims, strict=True)
        )
        mean = torch.zeros(x_dim) if x_mean is None else torch.as_tensor(x_mean, dtype=torch.get_default_dtype())
        self.register_buffer("x_mean", mean.clone())

    def forward(self, x, *args, **kwargs):
        """:param x: (B, x_dim); the model's further arguments are not read."""
        h = x - self.x_mean
        with pyro.plate("data", x.shape[0], dim=-1):
            for i, layer in enumerate(self.layers, 1):
                h = pyro.sample(f"z{i}", layer(h))
