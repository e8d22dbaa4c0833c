"""Training steps of hierarchies: two layers with a bottom-up guide, the five-layer ladder, and what a layer more costs.

Ours against the same by hand in PyTorch, against Pyro's SVI with our pair as it is, and against NumPyro. The cost of a
layer is the slope of a straight line through the steps of ladders of 2, 3, 4 and 5 layers of one width, round by round.
"""

from dataclasses import dataclass
from time import process_time

import numpy as np

from pyrarchy.guides import Amortized, Encoder, Ladder
from pyrarchy.zoo import MarkovHVAE

from .hand_hierarchy import HandHierarchy, HandLadder
from .interleave import interleave, summarise
from .machine import one_thread
from .svi_steps import HAND, OURS, PYRO, WARM_UP, Setting, compare, hand_variant, our_variant, pyro_variant

DEPTHS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Hierarchy(Setting):
    """Sizes of layers, bottom first; the guide reads the data alone."""

    z_dims: tuple = (50, 25)
    hidden: tuple = (200, 100)

    def pair(self, x_mean):
        """Our model and guide."""
        model = MarkovHVAE(self.x_dim, self.z_dims, self.hidden, x_mean)
        return model, self.guide(model, Encoder(self.x_dim, self.z_dims, self.hidden, x_mean))

    def guide(self, model, encoder):
        """The guide of an encoder."""
        return Amortized(model, encoder)

    def hand(self, x_mean):
        """The same by hand."""
        return HandHierarchy(self.x_dim, self.z_dims, self.hidden, x_mean)

    def pyro(self, model, guide, module):
        """Our pair, which Pyro's SVI takes as it is."""
        return model, guide

    def numpyro(self, module):
        """NumPyro's model and guide with the weights of one by hand."""
        from .numpyro_hierarchy import make_model_and_guide
        from .numpyro_svi import weights_of

        ladder = isinstance(module, HandLadder)
        return make_model_and_guide(weights_of(module), module.x_mean.numpy(), self.z_dims, ladder)


@dataclass(frozen=True)
class LadderHierarchy(Hierarchy):
    """The ladder VAE, by default of the sizes of Sonderby et al. (2016)."""

    z_dims: tuple = (64, 32, 16, 8, 4)
    hidden: tuple = (512, 256, 128, 64, 32)

    def guide(self, model, encoder):
        """The ladder."""
        return Ladder(model, encoder)

    def hand(self, x_mean):
        """The same by hand."""
        return HandLadder(self.x_dim, self.z_dims, self.hidden, x_mean)


SETTINGS = {
    "hvae2_20": Hierarchy("2 layers, bottom-up guide, step, batch 20", 20),
    "ladder5_20": LadderHierarchy("5-layer ladder step, batch 20", 20),
    "ladder5_128": LadderHierarchy("5-layer ladder step, batch 128", 128),
}


def even_ladder(layers, batch_size=20, x_dim=784, z_dim=16, width=64):
    """A ladder of layers of one width."""
    return LadderHierarchy(
        f"{layers} layers", batch_size, x_dim=x_dim, z_dims=(z_dim,) * layers, hidden=(width,) * layers
    )


def ladders(depths=DEPTHS, **sizes):
    """Variants of each depth, named ``(kind, layers)`` in words, the shallowest by hand first."""
    kinds = {HAND: hand_variant, OURS: our_variant, PYRO: pyro_variant}
    return [
        make(even_ladder(layers, **sizes), named(kind, layers)) for layers in depths for kind, make in kinds.items()
    ]


def named(kind, layers):
    """A variant's name."""
    return f"{kind}, {layers} layers"


def slopes(timings, depths=DEPTHS):
    """Of each kind, a :class:`~benchmarks.interleave.Timing` of one layer more, by least squares within each round."""
    seconds = {t.name: t.seconds for t in timings}
    found = {}
    for kind in (HAND, OURS, PYRO):
        steps = np.array([seconds[named(kind, layers)] for layers in depths])  # (depths, rounds)
        found[kind] = np.polyfit(depths, steps, 1)[0].tolist()
    return [summarise(kind, found[kind], found[HAND]) for kind in found]


def measure(name, rounds):
    """The comparison of one of ``SETTINGS``, or that of a layer more (``layer``)."""
    if name in SETTINGS:
        return compare(SETTINGS[name], rounds)
    one_thread()
    timings = interleave(ladders(), rounds, slice_seconds=0.03, warm_up=WARM_UP, clock=process_time)
    return {"title": "One layer more (ladder, batch 20)", "timings": [t.as_dict() for t in slopes(timings)]}
