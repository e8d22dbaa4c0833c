"""Run a pair and leave nothing behind: parameter store, random generators and train/eval modes are restored.

Pyro keeps parameters in one global store, and a module that finds its key there copies the store's value over its own.
Two pairs in one process, or a freshly loaded pair after a fit, would therefore overwrite each other. Every driver here
runs inside :func:`isolated`, in which the store holds only what the two callables do not own themselves.
"""

import operator
import random
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

_ONE_AT_A_TIME = threading.RLock()


def root_modules(*roots):
    """The modules behind callables: a module itself, or what a handler wraps, or the owner of a bound method."""
    callables = (poutine.unwrap(root) for root in roots)
    owners = (getattr(root, "__self__", root) for root in callables)
    return [owner for owner in owners if isinstance(owner, nn.Module)]


def _owned(modules, key):
    """Whether a store key belongs to one of the modules (as opposed to a free ``pyro.param``)."""
    for module in modules:
        name = getattr(module, "_pyro_name", "") if isinstance(module, PyroModule) else ""
        attributes = [*module._parameters, *module._modules, *getattr(module, "_pyro_params", ())]
        heads = [name] if name else attributes
        if any(key == head or key.startswith((head + ".", head + "$$$")) for head in heads):
            return True
    return False


@contextmanager
def isolated_store(*roots):
    """Scope Pyro's parameter store to one pair.

    Inside, the store holds none of the keys that the roots' modules own, so the modules' own tensors are used; free
    ``pyro.param`` statements of plain functions keep living in the store, before, during and after.

    :param roots: the model and the guide (modules, bound methods or functions).
    """
    store = pyro.get_param_store()
    outer = store.get_state()
    modules = root_modules(*roots)

    def free(state):
        return {part: {k: v for k, v in state[part].items() if not _owned(modules, k)} for part in state}

    inner = free(outer)
    store.clear()
    store.set_state(inner)
    try:
        yield
    finally:
        learned = free(store.get_state())
        store.clear()
        store.set_state({part: {**outer[part], **learned[part]} for part in outer})


def rng_state():
    """The state of torch's, numpy's and Python's generators, as a dictionary that :func:`set_rng_state` takes."""
    state = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}  # noqa: NPY002
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state):
    """Put every generator back to a state taken by :func:`rng_state`."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def buffers_kept(*roots):
    """Lend the roots' modules copies of their buffers: a pass that only looks must not move batch statistics.

    The buffers themselves are not written to, because the graph of another pass may still need them.
    """
    kept = []
    for module in {id(m): m for root in root_modules(*roots) for m in root.modules()}.values():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                kept.append((module._buffers, name, buffer))
                module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for place, name, buffer in kept:
            place[name] = buffer


@contextmanager
def isolated(model, guide, *, seed=None, train=False):
    """Isolate a pair: scoped parameter store, restored generators, one train/eval mode for both.

    ``guide.eval()`` does not reach the model, because a guide does not own it, so the mode is set on both.

    :param model, guide: the pair.
    :param int seed: seeds all generators inside; ``None`` continues from the current state.
    :param bool train: whether the modules are in training mode inside.

    Threads of one process take turns: Pyro's handlers, its store and the generators are one for all of them.
    """
    seed = None if seed is None else checked_seed(seed)
    with _ONE_AT_A_TIME, _isolated(model, guide, seed, train):
        yield


def checked_seed(seed):
    """A seed as Python's own number.

    :raises ValueError: for anything but a whole number from 0 to 2^32 - 1, which is what numpy takes.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2^32 - 1, not {seed!r}")
    return number


@contextmanager
def _isolated(model, guide, seed, train):
    before = rng_state()
    modes = [(m, m.training) for root in root_modules(model, guide) for m in root.modules()]
    frozen = [(p, p.grad) for root in root_modules(model, guide) for p in root.parameters() if not p.requires_grad]
    with isolated_store(model, guide), warnings.catch_warnings():
        # frozen on purpose: Pyro would say so of every parameter at every pass
        warnings.filterwarnings("ignore", message=".*was not registered in the param store because requires_grad=False")
        try:
            for root in root_modules(model, guide):
                root.train(train)
            if seed is not None:
                pyro.set_rng_seed(seed)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, gradient in frozen:  # Pyro turns requires_grad on when it reads a parameter
                parameter.requires_grad_(False).grad = gradient
            set_rng_state(before)
