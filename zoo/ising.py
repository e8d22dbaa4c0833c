r"""The Ising model on an L x L torus as a hierarchy: each level of latent spins refines the lattice above it.

.. math:: p(s) = \frac1Z \exp\Big(\frac1T \sum_{\langle ij \rangle} s_i s_j\Big), \qquad s_i = \pm 1

A density and no data: a base of fair coins at the spins and one ``pyro.factor`` for the whole lattice, so that a bound on
the evidence is one on the partition function, ln Z = evidence + L^2 ln 2.

The coarse lattices are sublattices (decimation). The top level is one spin; each level below doubles the lattice,
first by the centres of its squares, then by the middles of its edges, and so on in turn. The finest level,
half of the spins, is one colour of the checkerboard: no bond joins two of its spins.

Source: Onsager (1944), https://doi.org/10.1103/PhysRev.65.117; Wu, Wang & Zhang (2019), https://arxiv.org/abs/1809.10606.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from .ising_exact import CRITICAL, check_lattice, energy, log_partition


def decimation(size):
    """The places of the spins of each level, top first, as (row, column) lists; see the module.

    >>> [len(level) for level in decimation(8)]
    [1, 1, 2, 4, 8, 16, 32]
    """
    levels, spacing = [[(0, 0)]], size
    while spacing > 1:
        half = spacing // 2
        levels.append([(i, j) for i in range(half, size, spacing) for j in range(half, size, spacing)])
        grid = range(0, size, half)
        levels.append([(i, j) for i in grid for j in grid if (i + j) // half % 2])
        spacing = half
    return levels


class Ising(PyroModule):
    """Boltzmann distribution of L x L spins; latent sites ``s1`` (the finest, L^2 / 2 bits) up to the single top spin.

    A bit is one for spin up and zero for spin down. The model takes no data and has no parameters.

    :param int size: L, a power of two from 4 up.
    :param float temperature: in units of the coupling; the critical temperature by default.

    >>> {name: len(places) for name, places in Ising(4).levels.items()}
    {'s5': 1, 's4': 1, 's3': 2, 's2': 4, 's1': 8}
    """

    def __init__(self, size=8, temperature=CRITICAL):
        super().__init__("model")
        if size < 4 or size & (size - 1):
            raise ValueError(f"size must be a power of two from 4 up, not {size}: every level halves the lattice")
        check_lattice(size, temperature)
        self.size, self.temperature = size, float(temperature)
        places = decimation(size)
        self.levels = {f"s{len(places) - i}": level for i, level in enumerate(places)}
        flat = torch.tensor([i * size + j for level in places for i, j in level])
        self.register_buffer("order", flat, persistent=False)
        self.register_buffer("back", flat.argsort(), persistent=False)
        self.register_buffer("fair", torch.tensor(0.5), persistent=False)

    def forward(self):
        """The spins of each level, top first, then the factor ``energy``."""
        bits = [
            pyro.sample(name, dist.Bernoulli(self.fair.expand(len(places))).to_event(1))
            for name, places in self.levels.items()
        ]
        lattice = self.assemble(2 * torch.cat(bits, -1) - 1)
        pyro.factor("energy", -energy(lattice) / self.temperature)

    def assemble(self, spins):
        """Spins in the order of the levels, top first, (..., L^2), as a lattice (..., L, L)."""
        return spins[..., self.back].unflatten(-1, (self.size, self.size))

    def disassemble(self, lattice):
        """A lattice (..., L, L) as its spins in the order of the levels, top first, (..., L^2)."""
        return lattice.flatten(-2)[..., self.order]

    def log_evidence(self):
        """ln Z - L^2 ln 2 exactly, a scalar in nats: what every bound of a pair with this model is below."""
        log_z, _ = log_partition(self.size, self.temperature)
        return torch.tensor(log_z - self.size**2 * math.log(2), dtype=torch.float64)
