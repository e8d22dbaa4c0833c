r"""Spins drawn from a coarse lattice to a fine one, each level given all above it: one density for the whole lattice.

.. math:: q(s) = \prod_{l = L}^{1} \prod_i q(s_{l,i} \mid s_{>l}, s_{l,<i}), \qquad
          q(s_{l,i} = 1 | \cdot) = \sigma\Big(a' s + \sum_h w_h \tanh(v_h' s)\Big)

where s are the spins (of +-1) above the level and, when the level is autoregressive, those before i within it. There are no
biases and the nonlinearity is odd, so that turning over every spin leaves q as it is: the two phases of a magnet have equal
weight at every stage of training and neither can be lost.

Because the coarse lattices are sublattices, q of the whole lattice is a product and known at any lattice: the variational
free energy bounds ln Z, and KL(q || p) splits into one term a level. Given a lattice, its finer levels can be drawn anew
(:meth:`CoarseToFine.resample`): what comes out are its neighbours.

Source: autoregressive: Wu, Wang & Zhang (2019), https://arxiv.org/abs/1809.10606; a hierarchy over the lattice: Li & Wang
(2018), https://arxiv.org/abs/1802.02840.
Differs from the paper: discrete throughout; one small network a spin; levels by decimation, so no change of variables.
"""

from types import MappingProxyType

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import nn

from .base import Guide


class SpinNetwork(nn.Module):
    """The logits of one level's bits: one odd network a spin, of the spins above and, autoregressive, those before it.

    :param int above: number of spins in the levels above.
    :param int number: number of spins of the level.
    :param int width: hidden units a spin.
    :param bool autoregressive: whether a spin sees those before it in its own level.
    """

    def __init__(self, above, number, width, autoregressive):
        super().__init__()
        self.above, self.autoregressive = above, autoregressive
        seen = torch.ones(number, above + number)
        seen[:, above:] = torch.ones(number, number).tril(-1) if autoregressive else 0.0
        self.register_buffer("seen", seen, persistent=False)
        if seen.any():  # the top spin sees nothing: a fair coin
            self.inner = nn.Parameter(torch.randn(number, width, above + number) / (above + number) ** 0.5)
            self.outer = nn.Parameter(0.1 * torch.randn(number, width) / width**0.5)
            self.direct = nn.Parameter(torch.zeros(number, above + number))

    def forward(self, spins):
        """Logits (..., number) of all bits, from the spins of +-1 above and of the level itself (..., above + number)."""
        if not hasattr(self, "inner"):
            return spins.new_zeros(*spins.shape[:-1], len(self.seen))
        hidden = torch.tanh(spins @ (self.inner * self.seen.unsqueeze(1)).flatten(0, 1).T)
        hidden = hidden.unflatten(-1, self.outer.shape)
        return (hidden * self.outer).sum(-1) + spins @ (self.direct * self.seen).T

    def one(self, i, spins):
        """Logit (...) of bit i from the spins above it and before it, (..., above + i)."""
        if not hasattr(self, "inner"):
            return spins.new_zeros(spins.shape[:-1])
        seen = spins.shape[-1]
        hidden = torch.tanh(spins @ self.inner[i, :, :seen].T)
        return hidden @ self.outer[i] + spins @ self.direct[i, :seen]


class SpinLevel(dist.TorchDistribution):
    """The bits of one level given the spins above: batch shape that of the spins, event shape (number,).

    :param SpinNetwork network: the logits.
    :param spins: spins of +-1 above, (..., above).
    """

    arg_constraints = MappingProxyType({})
    support = constraints.independent(constraints.boolean, 1)
    has_enumerate_support = False

    def __init__(self, network, spins, validate_args=None):
        self.network, self.spins = network, spins
        super().__init__(spins.shape[:-1], (len(network.seen),), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        """The same for spins expanded to a batch shape."""
        return SpinLevel(self.network, self.spins.expand(*batch_shape, -1), validate_args=False)

    def sample(self, sample_shape=()):
        """Bits (sample_shape, batch shape, number), one after the other where the level is autoregressive."""
        spins = self.spins.expand(*sample_shape, *self.spins.shape)
        with torch.no_grad():
            if not self.network.autoregressive:
                nothing = spins.new_zeros(*spins.shape[:-1], *self.event_shape)
                return torch.bernoulli(torch.sigmoid(self.network(torch.cat([spins, nothing], -1))))
            drawn = torch.cat([spins, spins.new_empty(*spins.shape[:-1], *self.event_shape)], -1)
            for i in range(*self.event_shape):
                seen = self.network.above + i
                drawn[..., seen] = 2 * torch.bernoulli(torch.sigmoid(self.network.one(i, drawn[..., :seen]))) - 1
            return (drawn[..., self.network.above :] + 1) / 2

    def log_prob(self, value):
        """ln q of bits (..., number), in one pass."""
        signs = 2 * value - 1
        shape = torch.broadcast_shapes(self.spins.shape[:-1], signs.shape[:-1])
        spins = torch.cat([self.spins.expand(*shape, -1), signs.expand(*shape, -1)], -1)
        return nn.functional.logsigmoid(signs * self.network(spins)).sum(-1)


class CoarseToFine(Guide):
    """Each level given all above it, autoregressive within itself.

    The finest level alone is factorised: no bond joins two of its spins, so its exact conditional is a product.

    :param model: a model with ``levels`` (site -> places, top first), ``assemble`` and ``disassemble``, as
        :class:`~pyrarchy.zoo.Ising` has them.
    :param int width: hidden units a spin.
    :raises TypeError: for a model without levels.

    >>> import torch
    >>> from pyrarchy.zoo import Ising
    >>> guide = CoarseToFine(Ising(4), width=3)
    >>> guide.log_prob(torch.ones(5, 4, 4))["s1"].shape
    torch.Size([5])
    >>> guide.resample(torch.ones(5, 4, 4), "s2").shape
    torch.Size([5, 4, 4])
    """

    def __init__(self, model, width=16):
        super().__init__(model)
        if not hasattr(model, "levels") or not hasattr(model, "disassemble"):
            raise TypeError(
                f"{type(self).__name__} needs a model with levels of spins (levels, assemble, disassemble), which "
                f"{type(model).__name__} does not have: see pyrarchy.zoo.Ising"
            )
        counts = {name: len(places) for name, places in model.levels.items()}
        self.networks, above = nn.ModuleDict(), 0
        for name, number in counts.items():
            self.networks[name] = SpinNetwork(above, number, width, self.is_autoregressive(name))
            above += number

    def is_autoregressive(self, name):
        """Whether the spins of a level are drawn one after the other."""
        return name != list(self.model.levels)[-1]

    def posterior(self, name, prior):
        """The level's bits given those above; refuses, by name, a site that is no level of bits."""
        if name not in self.networks:
            raise ValueError(f"site '{name}': is no level of the lattice, which has {list(self.networks)}")
        names = list(self.networks)
        bits = [self.upstream_value(above) for above in names[: names.index(name)]]
        fair = torch.zeros(*prior.batch_shape, 0, dtype=prior.mean.dtype, device=prior.mean.device)
        return SpinLevel(self.networks[name], 2 * torch.cat(bits, -1) - 1 if bits else fair)

    def log_prob(self, lattice):
        """ln q of every level given those above it, nats.

        :param lattice: spins of +-1, (..., L, L).
        :returns: dictionary site -> (...), top first; their sum is ln q of the lattice.
        """
        spins = self.model.disassemble(lattice)
        return {
            name: SpinLevel(net, spins[..., : net.above]).log_prob(
                (spins[..., net.above : net.above + len(net.seen)] + 1) / 2
            )
            for name, net in self.networks.items()
        }

    def resample(self, lattice, level):
        """Nearby lattices: the levels above ``level`` are kept, it and all below are drawn anew.

        :param lattice: spins of +-1, (..., L, L).
        :param str level: site, for example ``"s2"``; the top site draws whole new lattices.
        :returns: spins of +-1 of the same shape.
        :raises ValueError: for a level that the model does not have.
        """
        names = list(self.networks)
        if level not in names:
            raise ValueError(f"the lattice has no level '{level}'; it has {names}, top first")
        spins = self.model.disassemble(lattice)[..., : self.networks[level].above]
        for name in names[names.index(level) :]:
            bits = SpinLevel(self.networks[name], spins).sample()
            spins = torch.cat([spins, 2 * bits - 1], -1)
        return self.model.assemble(spins)


class FactorisedCoarseToFine(CoarseToFine):
    """Every level factorised given those above it: one pass a level, and blind to correlations within a level."""

    def is_autoregressive(self, name):
        """No level is."""
        return False
