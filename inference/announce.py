"""Read a pair's plain networks without announcing each of their tensors to Pyro, which costs more than a small layer."""

from contextlib import contextmanager

from pyro.nn import PyroModule

from .isolation import root_modules


def plain_submodules(*roots):
    """The places (owner, name) of the roots' submodules that are no PyroModule but belong to one."""
    owners = [m for root in root_modules(*roots) for m in root.modules() if isinstance(m, PyroModule)]
    return [(owner, n) for owner in owners for n, m in owner._modules.items() if not isinstance(m, PyroModule)]


@contextmanager
def unannounced(places):
    """Read plain submodules without the ``pyro.param`` statement that a PyroModule makes for each of their tensors.

    The statements tell ``pyro.infer.SVI`` what to train and have no effect on a value; ``fit`` knows its parameters from
    the preflight. An entry in the instance's dictionary is found before ``PyroModule.__getattr__``, which makes them.
    """
    present = [(owner, name) for owner, name in places if name in owner._modules]
    for owner, name in present:
        owner.__dict__[name] = owner._modules[name]
    try:
        yield
    finally:
        for owner, name in present:
            owner.__dict__.pop(name, None)
