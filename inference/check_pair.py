"""Check a pair before trusting it: sites, shapes, gradients, particles, and that no datum's figure leans on another's."""

from dataclasses import dataclass, replace

import pyro
import torch
from pyro import poutine

from .bound import Bound
from .elbo import ELBO
from .isolation import isolated
from .layout import log_density
from .preflight import preflight
from .terms import is_latent, trace_pair


@dataclass
class PairCheck:
    """What was found: sites with their shapes, and the size of the pair.

    :ivar dict latents: latent site -> (batch shape, event shape, family of q).
    :ivar dict observed: observed site -> (batch shape, event shape, family of p).
    :ivar int num_parameters: trainable numbers in model and guide.
    :ivar bool local: whether the bound is per datum (else the data set is one datum).
    """

    latents: dict
    observed: dict
    num_parameters: int
    local: bool

    def __str__(self):
        def lines(sites):
            return [f"  {n:<12} batch {tuple(b)!s:<12} event {tuple(e)!s:<10} {f}" for n, (b, e, f) in sites.items()]

        kind = "one bound per datum" if self.local else "global latents: the data set is one datum"
        return "\n".join(
            [
                "latent sites (q)",
                *lines(self.latents),
                "observed sites (p)",
                *lines(self.observed),
                f"{self.num_parameters:,} trainable numbers; {kind}",
            ]
        )


def check_pair(model, guide, *args, objective=None, plates=1):
    """Run a pair once in every way that a driver will and raise on the first thing that is wrong.

    Checked: root names; latent sites of model and guide agree; the first loss is finite; every parameter gets a
    gradient; the model scores each particle as it would alone; the value of a datum does not depend on the other rows
    of its batch.

    :param args: the model's arguments, a small batch.
    :param objective: the objective to check with; ELBO by default.
    :returns: :class:`PairCheck`.
    :raises ValueError: naming the site or parameter at fault.
    """
    objective = objective or ELBO(plates=plates)
    with isolated(model, guide, seed=0), pyro.validation_enabled(True):
        parameters, _ = preflight(model, guide, objective, args)
        model_trace, guide_trace = trace_pair(model, guide, args, plates=plates)
        local = False
        if isinstance(objective, Bound):
            with torch.no_grad():
                terms = ELBO(num_particles=3, plates=plates).terms(model, guide, *args)
            local = terms.layout.data_dim is not None
            if local and terms.scale == 1.0:
                with torch.no_grad():
                    _check_particles(model, args, terms)
            if local and terms.layout.batch > 1:
                _check_rows(model, guide, args, plates)

    def describe(trace, wanted):
        return {
            n: (s["fn"].batch_shape, s["fn"].event_shape, _family(s["fn"]))
            for n, s in trace.nodes.items()
            if s["type"] == "sample" and wanted(s)
        }

    return PairCheck(
        latents=describe(guide_trace, is_latent),
        observed=describe(model_trace, lambda s: s["is_observed"]),
        num_parameters=sum(p.numel() for p in parameters.values()),
        local=local,
    )


def _family(fn):
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return type(fn).__name__


def _check_particles(model, args, terms):
    """Each particle alone must score as it did among the others: a network may have folded them into the batch."""
    alone = replace(terms.layout, num_particles=1)
    for k in range(terms.layout.num_particles):
        given = {name: z[k] for name, z in terms.values.items()}
        trace = poutine.trace(poutine.condition(model, given)).get_trace(*args)
        for name, among in {**terms.log_p, **terms.log_obs}.items():
            site = trace.nodes[name]
            row = alone.table(log_density(site), site)[0]
            if not torch.allclose(row, among[k], rtol=1e-3, atol=1e-3):
                raise ValueError(
                    f"site '{name}': the log-probability of a particle changes when other particles stand beside it. "
                    "Networks must act on the last dimension alone: particles come as a dimension left of the batch."
                )


def _check_rows(model, guide, args, plates):
    """The same noise and the same row among others: its value must stay. (Batch statistics survive a reordering.)"""
    rows = args[0].shape[0]
    for row in (0, rows - 1):
        moved = tuple(a[[row] * rows] if isinstance(a, torch.Tensor) and a.shape[:1] == (rows,) else a for a in args)
        values = []
        for batch in (args, moved):
            pyro.set_rng_seed(0)
            values.append(ELBO(plates=plates).value(model, guide, *batch)[row])
        if torch.allclose(values[0], values[1], rtol=1e-3, atol=1e-3):
            continue
        raise ValueError(
            f"the value of row {row} changes from {values[0].item():.6g} to {values[1].item():.6g} when the other "
            "rows of its batch are replaced: the pair couples the data (batch statistics in evaluation? a reduction "
            "over the wrong dimension?), so it has no bound per datum."
        )
