"""Draws of a pair: passes through guide, model and prior, vectorised over draws, and what their sites' axes mean.

The draws lie on a plate left of all model plates, so a value has shape (draws, plates..., event...), with singleton
axes for the plates that its site is not in. One pass without that plate gives every site's shape as its author wrote
it, to which all draws are brought.
"""

from contextlib import nullcontext

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample

from .layout import PARTICLES, log_density
from .terms import check_sites, is_auxiliary, trace_pair


class PinSubsamples(Messenger):
    """Keep every plate's indices as in the first pass, so that all draws speak of the same data.

    :ivar dict indices: plate -> indices (a tensor) of the first pass.
    """

    def __init__(self):
        super().__init__()
        self.indices = {}

    def _pyro_sample(self, msg):
        if site_is_subsample(msg) and msg["value"] is None and msg["name"] in self.indices:
            msg["value"] = self.indices[msg["name"]]

    def _pyro_post_sample(self, msg):
        if site_is_subsample(msg) and msg["name"] != PARTICLES:
            self.indices.setdefault(msg["name"], msg["value"])


class FixAndFree(Messenger):
    """Give some latent sites a value, and sample some observed ones.

    Only the named sites are touched: ``poutine.uncondition`` would also resample deterministic sites, and
    ``Predictive`` with a guide would leave the data observed.
    """

    def __init__(self, values, freed=()):
        super().__init__()
        self.values, self.freed = values, frozenset(freed)

    def _pyro_sample(self, msg):
        if msg["name"] in self.freed:
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
        elif msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def kind(site):
    """What a sample site of a model is: ``latent``, ``data``, ``auxiliary``, ``deterministic`` or ``factor``."""
    if not site["is_observed"]:
        return "latent"
    if is_auxiliary(site):
        return "auxiliary"
    if site["infer"].get("_deterministic"):
        return "deterministic"
    fn = site["fn"]
    while hasattr(fn, "base_dist") and not isinstance(fn, dist.Unit):
        fn = fn.base_dist
    return "factor" if isinstance(fn, dist.Unit) else "data"


def sites_of(trace, *kinds):
    """Name -> node of the sample sites of the given kinds, in the model's order."""
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and kind(s) in kinds}


def plates_of(site):
    """Dim -> frame of the vectorised plates around a site."""
    return {f.dim: f for f in site["cond_indep_stack"] if f.vectorized}


def value_axes(site):
    """Names of the axes of a site's value in a pass without a particle plate; ``None`` for one to be squeezed."""
    return _axes(site, tuple(site["value"].shape), _event_dim(site))


def density_axes(site, shape):
    """Names of the axes of a site's log density of the given shape."""
    return _axes(site, tuple(shape), 0)


def _event_dim(site):
    value, event_dim, plates = site["value"], site["fn"].event_dim, plates_of(site)
    if kind(site) != "deterministic" or event_dim < value.dim():
        return min(event_dim, value.dim())
    # pyro.deterministic calls all axes event axes unless told: take those of its plates back where the sizes fit.
    depth = max((-d for d in plates), default=0)
    fits = value.dim() >= depth and all(plates[d].size in (value.shape[depth + d], -1) for d in plates)
    return value.dim() - depth if fits else value.dim()


def _axes(site, shape, event_dim):
    batch, plates, names, own = len(shape) - event_dim, plates_of(site), [], 0
    for i, size in enumerate(shape):
        frame = plates.get(i - batch) if i < batch else None
        if frame is not None and frame.size in (size, -1):  # -1: a plate without a size
            names.append(frame.name)
        elif i < batch and size == 1:
            names.append(None)
        else:
            names.append(f"{site['name']}_dim_{own}")
            own += 1
    return tuple(names)


def per_draw(value, num, shape, name):
    """Bring a value of a pass with ``num`` draws to (num, \\*shape), ``shape`` being that of a single draw.

    :raises ValueError: when the value is neither one per draw nor the same for all draws.
    """
    size = torch.Size(shape).numel()
    if value.numel() == num * size and (num == 1 or (value.dim() > 0 and value.shape[0] == num)):
        return value.reshape(num, *shape)
    if value.numel() == size:
        return value.reshape(1, *shape).expand(num, *shape)
    raise not_vectorised(name, f"has shape {tuple(value.shape)} in a pass of {num} draws, {tuple(shape)} in one of 1")


def not_vectorised(name, what):
    """The error for a model or guide that mixes draws."""
    return ValueError(
        f"site '{name}' {what}: the draws, on a plate left of the model's, do not pass through untouched. Let the "
        "code before this site act on the last axes only, or pass plates=None to take one draw at a time."
    )


class Pair:
    """A model and a guide at fixed arguments, from which draws are taken.

    :param plates: number of nested vectorised plates of the model; ``None`` takes one draw at a time.
    :ivar model_trace, guide_trace: one pass without a particle plate.
    :ivar indices: plate -> indices of its rows.
    :raises ValueError: for a latent that the guide forgets or invents, or too few ``plates``.
    """

    def __init__(self, model, guide, args, kwargs, plates):
        self.model, self.guide, self.args, self.kwargs, self.plates = model, guide, args, kwargs, plates
        self._pin = PinSubsamples()
        self.model_trace, self.guide_trace = self.posterior(1)
        check_sites(self.model_trace, self.guide_trace)
        self.indices = self._pin.indices
        for name, site in self.model_trace.nodes.items():
            deepest = max((-d for d in plates_of(site)), default=0) if site["type"] == "sample" else 0
            if plates is not None and deepest > plates:
                raise ValueError(
                    f"site '{name}' lies in a plate at dim -{deepest}, but plates={plates} were announced: "
                    f"pass plates={deepest}"
                )

    def posterior(self, num):
        """Traces ``(model_trace, guide_trace)`` of one pass with ``num`` draws of the guide."""
        with self._pin:
            return trace_pair(
                self.model, self.guide, self.args, self.kwargs, num_particles=num, plates=self.plates or 0
            )

    def forward(self, num, values=None, freed=()):
        """Trace of the model with latent sites fixed to ``values`` and the sites in ``freed`` sampled."""
        outer = pyro.plate(PARTICLES, num, dim=-1 - self.plates) if num > 1 else nullcontext()
        with self._pin, outer, FixAndFree(values or {}, freed):
            return prune_subsample_sites(poutine.trace(self.model).get_trace(*self.args, **self.kwargs))

    def check_last(self, trace, num):
        """Check that the last of ``num`` draws, run alone, gives the same densities and deterministic values.

        :raises ValueError: for the first site where it does not: the model or the guide mixes its draws.
        """
        one = self.model_trace.nodes
        values = {
            name: per_draw(site["value"], num, one[name]["value"].shape, name)[-1]
            for name, site in sites_of(trace, "latent").items()
        }
        alone = self.forward(1, values)
        for name, site in sites_of(alone, "latent", "data", "factor", "deterministic").items():
            read = (lambda s: s["value"]) if kind(site) == "deterministic" else log_density
            expected = read(site)
            found = per_draw(read(trace.nodes[name]), num, expected.shape, name)[-1]
            # Single precision, summed in another order.
            if not torch.allclose(found.double(), expected.double(), rtol=1e-3, atol=1e-3, equal_nan=True):
                raise not_vectorised(name, "differs between a pass of many draws and one of the last draw alone")
