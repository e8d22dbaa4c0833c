"""Training steps of a VAE 784-200-200-50 and an IWAE: ours against plain PyTorch, Pyro and NumPyro.

Ours is the step that :func:`pyrarchy.inference.fit` takes, whole: schedule, zero_grad, pass, loss, backward, gradient
norm, finiteness and clip check, fused Adam, record. All variants start from the same weights and see the same batches.
"""

import itertools
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import process_time

import numpy as np
import pyro
import torch
from torch import nn

from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import ELBO, Batches, ImportanceWeighted, isolated
from pyrarchy.inference.loop import Loop
from pyrarchy.zoo import VAE

from .by_hand import HandVAE, hand_step
from .interleave import Variant, interleave
from .machine import installed, one_thread
from .pyro_svi import PyroVAE, pyro_step

OURS, HAND, PYRO, NUMPYRO = "Pyrarchy fit", "PyTorch by hand", "Pyro SVI", "NumPyro SVI, jitted"
DREG, SCAN = "Pyrarchy fit, DReG", "NumPyro SVI, lax.scan"
BATCHES = 20  # of the data, and of one compiled loop
WARM_UP = 15  # steps: ours are recorded at the second, and Pyro runs beside replays up to the tenth


@dataclass(frozen=True)
class Setting:
    """Sizes of one comparison, and what is compared."""

    title: str
    batch_size: int
    num_particles: int = 1
    x_dim: int = 784
    z_dim: int = 50
    hidden: tuple = (200, 200)

    def pair(self, x_mean):
        """Our model and guide."""
        model = VAE(self.x_dim, self.z_dim, self.hidden, x_mean)
        return model, Amortized(model, Encoder(self.x_dim, (self.z_dim,), (self.hidden[::-1],), x_mean, nn.Tanh))

    def hand(self, x_mean):
        """The same by hand."""
        return HandVAE(self.x_dim, self.z_dim, self.hidden, x_mean)

    def pyro(self, model, guide, module):
        """Model and guide as Pyro's users write them: of our pair, or around networks by hand."""
        vae = PyroVAE(module)
        return vae.model, vae.guide

    def numpyro(self, module):
        """NumPyro's model and guide with the weights of one by hand."""
        from .numpyro_svi import make_model_and_guide, weights_of

        return make_model_and_guide(weights_of(module), module.x_mean.numpy())


SETTINGS = {
    "vae_20": Setting("VAE step, batch 20", 20),
    "vae_128": Setting("VAE step, batch 128", 128),
    "iwae5_20": Setting("IWAE step, K = 5, batch 20", 20, 5),
    "iwae50_20": Setting("IWAE step, K = 50, batch 20", 20, 50),
}


def make_pair(setting, seed=0):
    """Our model, guide, and a data set (20 batches of random bits with a mean per pixel) from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rates = torch.rand(setting.x_dim).mul(0.6).add(0.02)
        data = torch.bernoulli(rates.expand(BATCHES * setting.batch_size, -1))
        return *setting.pair(data.mean(0)), data


def make_hand(setting):
    """Our pair, the same by hand with its weights, and the batches, over and over."""
    model, guide, data = make_pair(setting)
    module = setting.hand(data.mean(0)).copy_weights(model, guide)
    return model, guide, module, itertools.cycle(data.split(setting.batch_size))


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


def hand_variant(setting, name=HAND):
    """The same by hand."""
    *_, module, feed = make_hand(setting)
    return Variant(name, hand_step(module, feed, setting.num_particles))


def pyro_variant(setting, name=PYRO):
    """Pyro's own SVI, validation on by default, with a parameter store of its own."""
    model, guide, module, feed = make_hand(setting)
    step, store = pyro_step(*setting.pyro(model, guide, module), feed, setting.num_particles), {}

    @contextmanager
    def around():
        with ExitStack() as stack:
            kept = stack.enter_context(pyro.get_param_store().scope(store or None))
            stack.enter_context(pyro.validation_enabled(True))
            yield
        store.update(kept)

    return Variant(name, step, around)


def numpyro_variants(setting):
    """NumPyro's jitted update, and a compiled loop of it over all batches."""
    from .numpyro_svi import make_svi, numpyro_loop, numpyro_step

    def make():
        *_, module, feed = make_hand(setting)
        batches = [x.numpy() for x in itertools.islice(feed, BATCHES)]
        return make_svi(*setting.numpyro(module), setting.num_particles), batches

    (one, batches), (other, same) = make(), make()
    update = numpyro_step(one, itertools.cycle(batches), batches[0])
    return [Variant(NUMPYRO, update), Variant(SCAN, numpyro_loop(other, np.stack(same)), steps=BATCHES)]


def variants(setting, *, numpyro=True):
    """All variants of a comparison, the hand-written one (the reference) first."""
    out = [hand_variant(setting), our_variant(setting), pyro_variant(setting)]
    if setting.num_particles > 1:
        out.append(our_variant(setting, DREG, "dreg"))
    return [*out, *numpyro_variants(setting)] if numpyro else out


def compare(setting, rounds):
    """Timings of a setting's variants, as :func:`benchmarks.run.measure` returns them."""
    one_thread()
    there = installed("numpyro")
    timings = interleave(variants(setting, numpyro=there), rounds, warm_up=WARM_UP, clock=process_time)
    missing = {} if there else {"missing": "NumPyro (not installed)"}
    return {"title": setting.title, "timings": [t.as_dict() for t in timings], **missing}


def measure(name, rounds):
    """The comparison of one of ``SETTINGS``."""
    return compare(SETTINGS[name], rounds)
