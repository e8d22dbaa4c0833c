"""The deterministic path up: from the data to a Gaussian message for every layer of a hierarchy.

Source: Sonderby et al. (2016), https://arxiv.org/abs/1602.02282; Burda et al. (2015), https://arxiv.org/abs/1509.00519.
"""

import torch
from torch import nn

from ..zoo.networks import NormalHead, mlp


class Features(nn.Module):
    """Blocks stacked upwards, block i fed by block i - 1: what the data say, before it is said of any layer.

    :param int x_dim: dimension of a datum.
    :param hidden: per layer, the widths of its block, bottom first: an int (two layers of that width) or a sequence;
        an empty one for a block that is the identity.
    :param x_mean: (x_dim,) subtracted from the data; zero by default.
    :param activation: class of the nonlinearity.
    :ivar widths: width of each block's output, bottom first.
    """

    def __init__(self, x_dim, hidden, x_mean=None, activation=nn.LeakyReLU):
        super().__init__()
        sizes, fan_in = [], x_dim
        for block in ((h, h) if isinstance(h, int) else tuple(h) for h in hidden):
            sizes.append((fan_in, *block))
            fan_in = sizes[-1][-1]
        self.widths = tuple(size[-1] for size in sizes)
        self.blocks = nn.ModuleList(mlp(size, activation) for size in sizes)
        mean = torch.zeros(x_dim) if x_mean is None else torch.as_tensor(x_mean, dtype=torch.get_default_dtype())
        self.register_buffer("x_mean", mean.clone())

    def features(self, x):
        """The output of every block, bottom first: list of (..., width)."""
        h, out = x - self.x_mean, []
        for block in self.blocks:
            h = block(h)
            out.append(h)
        return out

    def forward(self, x):
        """Data (B, x_dim) to a dictionary from site (z1 ... zL) to features (B, width)."""
        return {f"z{i}": h for i, h in enumerate(self.features(x), 1)}


class Encoder(Features):
    """Features with a Gaussian head for every layer.

    :param int x_dim: dimension of a datum.
    :param z_dims: dimension of each layer, bottom first.
    :param hidden, x_mean, activation: as for :class:`Features`.

    >>> import torch
    >>> encoder = Encoder(6, z_dims=(3, 2), hidden=(5, (4,)))
    >>> {name: tuple(q.mean.shape) for name, q in encoder(torch.zeros(7, 6)).items()}
    {'z1': (7, 3), 'z2': (7, 2)}
    """

    def __init__(self, x_dim, z_dims, hidden, x_mean=None, activation=nn.LeakyReLU):
        if len(z_dims) != len(hidden) or not z_dims:
            raise ValueError(f"z_dims and hidden need one entry a layer, not {len(z_dims)} and {len(hidden)}")
        super().__init__(x_dim, hidden, x_mean, activation)
        self.heads = nn.ModuleList(NormalHead(width, z) for width, z in zip(self.widths, z_dims, strict=True))

    def forward(self, x):
        """Data (B, x_dim) to a dictionary from site (z1 ... zL) to a diagonal Normal."""
        return {f"z{i}": head(h) for i, (head, h) in enumerate(zip(self.heads, self.features(x), strict=True), 1)}
