"""Parts of a sparse linear model: how its dictionary is parametrised, and its noise.

A dictionary is a module whose call returns ``(atoms, code_scale)``: W (x_dim, z_dim) and the scale of the codes' prior.
A free dictionary gives each atom its own strength; in the unit-norm one all atoms are equally strong, and one number,
learned, says how strong. (With a scale for each code the two would be one model in different clothes.)
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class FreeDictionary(nn.Module):
    """W (x_dim, z_dim) without constraint; codes have scale 1.

    >>> import torch
    >>> atoms, scale = FreeDictionary(6, 4)()
    >>> atoms.shape, scale
    (torch.Size([6, 4]), tensor(1.))
    """

    def __init__(self, x_dim, z_dim):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(x_dim, z_dim) / math.sqrt(z_dim))
        self.register_buffer("code_scale", torch.ones(()))

    def forward(self):
        """(atoms, code_scale)."""
        return self.weight, self.code_scale


class UnitNormDictionary(nn.Module):
    """W with columns of length one, and one learned scale for all codes, through a softplus.

    >>> atoms, scale = UnitNormDictionary(6, 4)()
    >>> bool(((atoms**2).sum(0) - 1).abs().max() < 1e-6), round(scale.item(), 4)
    (True, 1.0)
    """

    def __init__(self, x_dim, z_dim):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(x_dim, z_dim))
        self.raw_code_scale = nn.Parameter(torch.tensor(math.log(math.expm1(1.0))))

    def forward(self):
        """(atoms, code_scale)."""
        return self.weight / self.weight.norm(dim=0, keepdim=True), F.softplus(self.raw_code_scale) + 1e-6


class LearnedScale(nn.Module):
    """One positive number to be learned, ``floor + softplus(.)``.

    :param float start: the value at the start, above the floor.
    :param float floor: least value: the likelihood of a complete dictionary has no maximum without one.
    """

    def __init__(self, start=0.5, floor=1e-2):
        super().__init__()
        if not 0 < floor < start:
            raise ValueError(f"floor and start must satisfy 0 < floor < start, not {floor!r} and {start!r}")
        self.floor = floor
        self.raw = nn.Parameter(torch.tensor(math.log(math.expm1(start - floor))))

    def forward(self):
        """The scale, shape ()."""
        return self.floor + F.softplus(self.raw)


class FixedScale(nn.Module):
    """A positive number that is known."""

    def __init__(self, value):
        super().__init__()
        if not value > 0:
            raise ValueError(f"value must be > 0, not {value!r}")
        self.register_buffer("value", torch.tensor(float(value)))

    def forward(self):
        """The scale, shape ()."""
        return self.value
