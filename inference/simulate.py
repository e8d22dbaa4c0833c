"""Data simulated from a model, together with the latents that made them: what sleep and two-sided checks start from."""

from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites

from .draws import FixAndFree, sites_of
from .isolation import buffers_kept


@dataclass
class Simulation:
    """A draw of p(z, x): the latents are an exact sample of the posterior given the data.

    :ivar tuple args: the model's arguments with its data replaced by the drawn ones. ``kwargs``: the same.
    :ivar dict values: latent site -> its value.
    """

    args: tuple
    kwargs: dict
    values: dict


@torch.no_grad()
def simulate(model, args=(), kwargs=None, *, what="simulate", instead="Observe an argument itself."):
    """Draw latents and data from a model; arguments that are no data (covariates, known errors) stay as given.

    :param str what: who asks, for the errors. ``instead``: what the error about arguments advises.
    :returns: :class:`Simulation`.
    :raises ValueError: for a model with a factor, whose forward samples are not its own, or one whose observed values
        are not its arguments as they are, so that drawn ones could not be given to it.
    """
    kwargs = kwargs or {}
    with buffers_kept(model):
        seen = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))
        if sites_of(seen, "factor"):
            raise ValueError(f"{what} dreams data, but forward samples of a model with a factor are not its own")
        observed = sites_of(seen, "data")
        with FixAndFree({}, observed):
            dreamed = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))
    fresh = {id(seen.nodes[n]["value"]): dreamed.nodes[n]["value"] for n in observed}
    given = {id(a) for a in (*args, *kwargs.values())}
    odd = sorted(n for n in observed if id(seen.nodes[n]["value"]) not in given)
    if odd:
        raise ValueError(
            f"{what} hands dreamed data to model and guide, but site(s) {odd} do not observe one of the model's "
            f"arguments as it is. {instead}"
        )
    return Simulation(
        args=tuple(fresh.get(id(a), a) for a in args),
        kwargs={name: fresh.get(id(a), a) for name, a in kwargs.items()},
        values={n: s["value"] for n, s in sites_of(dreamed, "latent").items() if n not in observed},
    )
