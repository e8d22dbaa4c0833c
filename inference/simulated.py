"""Simulate data sets from a model together with the latents behind them, and measure quantities of either.

Data sites are freed by name, so the model needs no branch for it; the simulated values then take the place of the
arguments that the data came from.
"""

import math

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites

from .draws import FixAndFree, kind, plates_of, sites_of
from .layout import DATA, PARTICLES, lay_out, log_density


class Simulator:
    """A model as a source of (latents, data) and as the density of both.

    :param model: the model. :param args: example arguments, a tuple; their data are replaced, the rest is kept.
    :param int plates: nested vectorised plates of the model.
    :param dict quantities: name -> function of (values, \\*args), see :func:`~pyrarchy.inference.bayes_loop`.
    :param rebuild: function of (observed values, args) to args, where the data are not an argument as they stand.
    :param bool whole: whether the example is one data set even where every site lies in plate ``data``.
    :ivar bool by_rows: whether a row is a data set of its own.
    :raises ValueError: for a factor, a subsampled plate, no data, or data that are no argument; each names the site.
    """

    def __init__(self, model, args, *, plates=1, quantities=None, rebuild=None, whole=False):
        self.model, self.args, self.plates = model, args, plates
        self.quantities, self.rebuild = quantities or {}, rebuild
        trace = prune_subsample_sites(poutine.trace(model).get_trace(*args))
        _check_simulable(trace, plates)
        self.latents, self.observed = sites_of(trace, "latent"), sites_of(trace, "data")
        around = [*self.latents.values(), *self.observed.values()]
        self.by_rows = not whole and all(any(f.name == DATA for f in s["cond_indep_stack"]) for s in around)
        self._places = {n: self._place(n, s["value"]) for n, s in self.observed.items()} if rebuild is None else {}
        self.columns = []  # names of what measure() returns, known after its first call
        self.units = {}  # site -> how many of them, in that order

    def _place(self, name, value):
        same = [i for i, a in enumerate(self.args) if a is value]
        if not same:
            tensors = [(i, a) for i, a in enumerate(self.args) if torch.is_tensor(a) and a.numel() == value.numel()]
            same = [i for i, a in tensors if torch.equal(a.reshape(-1), value.reshape(-1))]
        if len(same) != 1:
            shapes = [tuple(a.shape) if torch.is_tensor(a) else type(a).__name__ for a in self.args]
            raise ValueError(
                f"site '{name}' observes a value of shape {tuple(value.shape)} that is "
                f"{'more than one' if same else 'none'} of the arguments {shapes}: simulated data have no place to go. "
                "Does the model leave out rows? If it is meant to, pass rebuild=function of (observed, args) to args."
            )
        return same[0]

    def rows(self, num):
        """The example arguments repeated to ``num`` rows, for a local model."""
        size = next(iter(self.observed.values()))["value"].shape[0]
        odd = [i for i, a in enumerate(self.args) if not torch.is_tensor(a) or a.shape[:1] != (size,)]
        if odd:
            raise ValueError(
                f"argument(s) {odd} do not have the {size} rows of plate '{DATA}' as their first axis: rows cannot be made "
                "of them. Hand what is not per datum to the model's constructor."
            )
        return tuple(a.repeat(-(-num // size), *[1] * (a.dim() - 1))[:num] for a in self.args)

    def draw(self, args):
        """One joint draw: (latent site -> value, the arguments with simulated data, the data as rows (B, D))."""
        with FixAndFree({}, self.observed):
            trace = prune_subsample_sites(poutine.trace(self.model).get_trace(*args))
        observed = {name: trace.nodes[name]["value"] for name in self.observed}
        if self.rebuild is not None:
            new = tuple(self.rebuild(observed, args))
        else:
            new = list(args)
            for name, place in self._places.items():
                new[place] = observed[name].reshape(args[place].shape).to(args[place].dtype)
            new = tuple(new)
        rows = [v.reshape(len(v) if self.by_rows else 1, -1).double() for v in observed.values()]
        return {name: trace.nodes[name]["value"] for name in self.latents}, new, torch.cat(rows, 1)

    def stack(self, truth, draws, num):
        """The truth before its ``num`` draws, on the particles' axis: site -> (num + 1, plates, event)."""
        out = {}
        for name, site in self.latents.items():
            value, drawn, event = truth[name], draws[name], site["fn"].event_dim
            batch = value.shape[: value.dim() - event]
            flat = (1,) * (self.plates - len(batch)) + tuple(value.shape)
            drawn = drawn.unsqueeze(0) if num == 1 and drawn.dim() == value.dim() else drawn
            out[name] = torch.cat([value.reshape(1, *flat), drawn.expand(num, *flat)])
        return out

    def measure(self, values, args, num):
        """All quantities of ``num`` draws at the given data: an array (num, B, Q), with B = 1 for a whole data set.

        Units of every latent and deterministic site, then ``log_lik`` = log p(x | z), ``log_joint`` = log p(x, z) and
        the user's own.
        """
        with pyro.plate(PARTICLES, num, dim=-1 - self.plates), FixAndFree(values):
            trace = prune_subsample_sites(poutine.trace(self.model).get_trace(*args))
        columns, units = {}, {}
        seen = {**sites_of(trace, "latent"), **sites_of(trace, "deterministic")}
        rows = len(args[0]) if self.by_rows else 1
        for name, site in seen.items():
            value = site["value"]
            shape = (num, rows) if self.by_rows else (num,)
            if tuple(value.shape[: len(shape)]) == shape:
                units[name] = self._add(columns, name, value, num, rows)
        sums = {n: self._total(s, num, trace, rows) for n, s in {**seen, **sites_of(trace, "data")}.items()}
        log_lik = sum(sums[n] for n in self.observed)
        self._add(columns, "log_lik", log_lik, num, rows)
        self._add(columns, "log_joint", log_lik + sum(sums[n] for n in self.latents), num, rows)
        for name, function in self.quantities.items():
            self._add(columns, name, function({n: s["value"] for n, s in seen.items()}, *args), num, rows)
        self.columns, self.units = list(columns), units
        return torch.stack(list(columns.values()), -1).cpu().numpy()

    def _add(self, columns, name, value, num, rows):
        lead = (num, rows) if self.by_rows else (num,)
        if not torch.is_tensor(value) or tuple(value.shape[: len(lead)]) != lead:
            given = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
            raise ValueError(f"quantity '{name}' has shape {given}; its leading axes must be {lead} (draws, then data)")
        inner = value.shape[len(lead) :]
        if not self.by_rows:  # axes of size one stand for plates that the site is not in
            inner = tuple(n for n in inner if n != 1)
        flat = value.reshape(num, rows, -1).double()
        for i in range(flat.shape[-1]):
            index = ",".join(str(k) for k in np.unravel_index(i, inner)) if inner and math.prod(inner) > 1 else ""
            columns[f"{name}[{index}]" if index else name] = flat[..., i]
        return flat.shape[-1]

    def _total(self, site, num, trace, rows):
        """A site's log density per draw and datum, (num, B)."""
        if kind(site) == "deterministic":
            return None
        density = log_density(site)
        if self.by_rows:
            layout, _ = lay_out(sites_of(trace, "latent", "data"), list(self.latents), num, self.plates)
            return layout.table(density, site).expand(num, rows)
        if density.dim() > self.plates and density.shape[0] == num:
            return density.reshape(num, -1).sum(1, keepdim=True)
        return density.sum().expand(num, 1)


def _check_simulable(trace, plates):
    factors, data = sorted(sites_of(trace, "factor")), sites_of(trace, "data")
    if factors:
        raise ValueError(
            f"the model has factor site(s) {factors}: its forward samples are not samples of it, so data cannot be "
            "simulated from it"
        )
    if not data:
        raise ValueError("the model observes nothing: there are no data to simulate")
    for name, site in sites_of(trace, "latent", "data").items():
        for frame in site["cond_indep_stack"]:
            if frame.full_size not in (None, frame.size):
                raise ValueError(
                    f"site '{name}' lies in the subsampled plate '{frame.name}': run the model on all rows"
                )
        deepest = max((-dim for dim in plates_of(site)), default=0)
        if deepest > plates:
            raise ValueError(
                f"site '{name}' lies in a plate at dim -{deepest}, but plates={plates} were announced: pass "
                f"plates={deepest}"
            )
