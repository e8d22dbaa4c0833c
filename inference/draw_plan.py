"""Plan and fill the arrays of one InferenceData: shapes, dims and bytes from one traced draw, then draws in chunks."""

import numpy as np
import torch

from .draws import density_axes, per_draw, plates_of, sites_of, value_axes
from .layout import log_density

PREDICTIVE = ("posterior_predictive", "prior_predictive")
# Elements of all sites of one chunk of draws: the networks' activations are some ten times that.
CHUNK_ELEMENTS = 1_000_000


def squeezed(axes, shape):
    """Shape and axis names without the axes named ``None``."""
    kept = [(size, axis) for size, axis in zip(shape, axes, strict=True) if axis is not None]
    return tuple(size for size, _ in kept), [axis for _, axis in kept]


def as_numpy(tensor):
    """A detached array on the host."""
    return tensor.detach().cpu().numpy()


def common_plates(model_trace, guide_trace):
    """Dim -> (name, size) of the plates around every latent, data and factor site of model and guide."""
    latents = sites_of(model_trace, "latent")
    around = [*sites_of(model_trace, "latent", "data", "factor").values()]
    around += sites_of(guide_trace, "latent", "factor").values()
    if not latents:
        return {}
    keys = set.intersection(*({(dim, frame.name) for dim, frame in plates_of(site).items()} for site in around))
    density = log_density(next(iter(latents.values())))
    return {dim: (name, density.shape[dim]) for dim, name in sorted(keys)}


def point_mass(one, trace, num):
    """The first continuous latent with the same value in a pass of one draw and in a later one, or ``None``.

    Two draws from a density never agree; those of an ``AutoDelta`` do.
    """
    for name, site in sites_of(trace, "latent").items():
        fn, value = site["fn"], one.nodes[name]["value"]
        try:
            discrete = fn.support.is_discrete
        except NotImplementedError:  # a mixture does not know its support
            discrete = False
        if (
            not discrete
            and value.numel()
            and bool((per_draw(site["value"], num, value.shape, name)[-1] == value).all())
        ):
            return name
    return None


class DrawPlan:
    """Which arrays will be filled, with which shapes, dtypes and dims: known from one traced draw.

    :param Pair pair: the pair, traced once.
    :param set wanted: names of the groups to fill.
    :param dict dims: site -> names of its axes after the draws, where the user chose them.
    :ivar dict arrays: (group, name) -> (shape without draws, dtype).
    :ivar point_mass: a continuous latent that is the same in all draws, so that no weight is defined; or ``None``.
    :ivar dict dims: as :func:`~pyrarchy.inference.groups.pack` takes them.
    """

    def __init__(self, pair, wanted, dims):
        self.pair, self.wanted = pair, wanted
        self.arrays, self.dims, self.point_mass = {}, {}, None
        trace = pair.model_trace
        for name, site in sites_of(trace, "latent", "deterministic", "data").items():
            shape, axes = squeezed(value_axes(site), site["value"].shape)
            self.dims[name] = list(dims.get(name, axes))
            draws = ("posterior", "prior") if name not in sites_of(trace, "data") else PREDICTIVE
            for group in (group for group in draws if group in wanted):
                self.arrays[group, name] = (shape, as_numpy(site["value"]).dtype)
        self.densities = {n: log_density(s) for n, s in sites_of(trace, "latent", "data", "factor").items()}
        for name, site in sites_of(trace, "data").items():
            density = self.densities[name]
            shape, axes = squeezed(density_axes(site, density.shape), density.shape)
            # The axes of the log-likelihood are the leading ones of the value: the event axes are summed out.
            self.dims["log_likelihood", name] = list(dims[name])[: len(shape)] if name in dims else axes
            if "log_likelihood" in wanted:
                self.arrays["log_likelihood", name] = (shape, as_numpy(density).dtype)
        self.common = common_plates(pair.model_trace, pair.guide_trace)
        if "sample_stats" in wanted:
            for name in ("lp", "log_q", "log_weight"):
                self.arrays["sample_stats", name] = ((), np.dtype(float))
            if self.common:
                shape = tuple(size for _, size in self.common.values())
                self.arrays["sample_stats", "log_weight_local"] = (shape, np.dtype(float))
            local = [name for name, _ in self.common.values()]
            self.dims |= {"log_weight_local": local, "k_hat": local}

    def check_bytes(self, num_samples, limit):
        """Raise a ValueError that names the three largest sites when all draws need more than ``limit`` bytes."""
        sizes = {
            f"{group}/{name}": num_samples * int(np.prod(shape, dtype=float)) * dtype.itemsize
            for (group, name), (shape, dtype) in self.arrays.items()
        }
        if (total := sum(sizes.values())) > limit:
            largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
            listed = ", ".join(f"{name} {sizes[name] / 2**20:.1f} MiB" for name in largest)
            raise ValueError(
                f"{num_samples} draws need {total / 2**20:.1f} MiB, byte_limit allows {limit / 2**20:.1f} MiB; the "
                f"largest sites are {listed}. Pass fewer num_samples, some rows=, fewer groups= or a larger byte_limit."
            )

    def fill(self, num_samples):
        """Draw in chunks; returns (group, name) -> array (S, ...)."""
        out = {key: np.empty((num_samples, *shape), dtype) for key, (shape, dtype) in self.arrays.items()}
        per_pass = sum(s["value"].numel() for s in sites_of(self.pair.model_trace, "latent", "data").values())
        chunk = 1 if self.pair.plates is None else max(1, CHUNK_ELEMENTS // max(1, per_pass))
        for start in range(0, num_samples, chunk):
            num = min(chunk, num_samples - start)
            for key, value in self._pass(num, first=start == 0).items():
                shape = self.arrays[key][0]
                out[key][start : start + num] = as_numpy(per_draw(value, num, shape, key[1]))
        return out

    def _pass(self, num, first):
        pair, data, found = self.pair, list(sites_of(self.pair.model_trace, "data")), {}
        try:
            model_trace, guide_trace = pair.posterior(num)
        except (RuntimeError, IndexError) as error:
            if num == 1:
                raise
            raise ValueError(
                f"one draw passes, {num} draws on a plate left of the model's do not: let the networks and sums of model "
                "and guide act on the last axes only, or pass plates=None to take one draw at a time"
            ) from error
        if first and num > 1:
            pair.check_last(model_trace, num)
        if first:
            self.point_mass = point_mass(pair.model_trace, model_trace, num)

        def keep(group, trace, *kinds):
            if group in self.wanted:
                found.update({(group, n): s["value"] for n, s in sites_of(trace, *kinds).items()})

        keep("posterior", model_trace, "latent", "deterministic")
        if "posterior_predictive" in self.wanted and data:
            values = {n: s["value"] for n, s in sites_of(model_trace, "latent").items()}
            found |= {
                ("posterior_predictive", n): s["value"]
                for n, s in pair.forward(num, values, data).nodes.items()
                if n in data
            }
        if self.wanted & {"prior", "prior_predictive"}:
            prior = pair.forward(num, freed=data)
            for name, site in prior.nodes.items():
                group = "prior_predictive" if name in data else "prior"
                if (group, name) in self.arrays:
                    found[group, name] = site["value"]
        if self.wanted & {"log_likelihood", "sample_stats"}:
            p = {n: log_density(s) for n, s in sites_of(model_trace, "latent", "data", "factor").items()}
            p = {n: per_draw(v, num, self.densities[n].shape, n) for n, v in p.items()}
            if "log_likelihood" in self.wanted:
                found |= {("log_likelihood", n): p[n] for n in data}
            if "sample_stats" in self.wanted:
                found |= self._weights(p, guide_trace, num)
        return found

    def _weights(self, log_p, guide_trace, num):
        one = self.pair.guide_trace
        log_q = {n: log_density(s) for n, s in sites_of(guide_trace, "latent", "factor").items()}
        log_q = {n: per_draw(v, num, log_density(one.nodes[n]).shape, n) for n, v in log_q.items()}

        nothing = next(iter(log_p.values())).new_zeros(num, dtype=torch.double)

        def total(table):
            return sum((v.double().reshape(num, -1).sum(1) for v in table.values()), nothing)

        found = {"lp": total(log_p), "log_q": total(log_q)}
        found["log_weight"] = found["lp"] - found["log_q"]
        if self.common:
            found["log_weight_local"] = sum(self._local(v) for v in log_p.values()) - sum(
                self._local(v) for v in log_q.values()
            )
        return {("sample_stats", name): value for name, value in found.items()}

    def _local(self, density):
        """Sum a density (draws, batch...) over all axes but the draws and the common plates."""
        summed = [d for d in range(1 - density.dim(), 0) if d not in self.common]
        density = density.double().sum(summed) if summed else density.double()
        return density
