"""Training steps of a VAE 784-200-200-50 and an IWAE: ours against plain PyTorch, Pyro and NumPyro.

Ours is the step that :func:`pyrarchy.inference.fit` takes, whole: schedule, zero_grad, pass, loss, backward, gradient
norm, finiteness and clip check, fused Adam, record. All variants start from the same weights and see the same batches.
"""

import itertools
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from torch import nn

from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import ELBO, Batches, ImportanceWeighted, isolated
from pyrarchy.inference.loop import Loop
from pyrarchy.zoo import VAE

from .by_hand import HandVAE, hand_step
from .interleave import Variant
from .pyro_svi import PyroVAE, pyro_step

OURS, HAND, PYRO, NUMPYRO = "Pyrarchy fit", "PyTorch by hand", "Pyro SVI", "NumPyro SVI, jitted"
DREG = "Pyrarchy fit, DReG"


@dataclass(frozen=True)
class Setting:
    """Sizes of one comparison."""

    title: str
    batch_size: int
    num_particles: int = 1
    x_dim: int = 784
    z_dim: int = 50
    hidden: tuple = (200, 200)


SETTINGS = {
    "vae_20": Setting("VAE step, batch 20", 20),
    "vae_128": Setting("VAE step, batch 128", 128),
    "iwae_20": Setting("IWAE step, K = 50, batch 20", 20, 50),
}


def make_pair(setting, seed=0):
    """Our model, guide, and a data set (20 batches of random bits with a mean per pixel) from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rates = torch.rand(setting.x_dim).mul(0.6).add(0.02)
        data = torch.bernoulli(rates.expand(20 * setting.batch_size, -1))
        x_mean = data.mean(0)
        model = VAE(setting.x_dim, setting.z_dim, setting.hidden, x_mean)
        encoder = Encoder(setting.x_dim, (setting.z_dim,), (setting.hidden[::-1],), x_mean, nn.Tanh)
        return model, Amortized(model, encoder), data


def make_bound(setting, estimator=None):
    """The objective of a setting."""
    if setting.num_particles == 1:
        return ELBO(estimator=estimator)
    return ImportanceWeighted(setting.num_particles, estimator=estimator)


def our_variant(setting, name=OURS, estimator=None):
    """The loop of ``fit``, one step per call."""
    model, guide, data = make_pair(setting)
    batches = Batches(data, setting.batch_size)
    with isolated(model, guide, seed=0, train=True):
        loop = Loop(model, guide, batches, make_bound(setting, estimator), 1e-3, None, None, 100.0, None, 0)
    feed = itertools.cycle(data.split(setting.batch_size))

    @contextmanager
    def around():
        with isolated(model, guide, train=True), pyro.validation_enabled(False):
            yield

    return Variant(name, lambda: loop._step((next(feed),)).loss, around)


def hand_variant(setting):
    """The same by hand."""
    model, guide, data = make_pair(setting)
    module = HandVAE(setting.x_dim, setting.z_dim, setting.hidden, data.mean(0)).copy_weights(model, guide)
    return Variant(HAND, hand_step(module, itertools.cycle(data.split(setting.batch_size)), setting.num_particles))


def pyro_variant(setting):
    """Pyro's own SVI as its users write it, validation on by default."""
    model, guide, data = make_pair(setting)
    module = HandVAE(setting.x_dim, setting.z_dim, setting.hidden, data.mean(0)).copy_weights(model, guide)
    step = pyro_step(PyroVAE(module), itertools.cycle(data.split(setting.batch_size)), setting.num_particles)
    return Variant(PYRO, step, lambda: pyro.validation_enabled(True))


def numpyro_variant(setting):
    """NumPyro's jitted update."""
    from .numpyro_svi import numpyro_step

    model, guide, data = make_pair(setting)
    module = HandVAE(setting.x_dim, setting.z_dim, setting.hidden, data.mean(0)).copy_weights(model, guide)
    feed = itertools.cycle(data.split(setting.batch_size))
    return Variant(NUMPYRO, numpyro_step(module, feed, setting.num_particles))


def variants(name, *, numpyro=True):
    """All variants of a comparison, the hand-written one (the reference) first."""
    setting = SETTINGS[name]
    out = [hand_variant(setting), our_variant(setting), pyro_variant(setting)]
    if setting.num_particles > 1:
        out.append(our_variant(setting, DREG, "dreg"))
    return [*out, numpyro_variant(setting)] if numpyro else out
