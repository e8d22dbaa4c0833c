"""Use a fitted pair on data: latents of new rows, their reconstructions, samples from the prior, images of latents.

All leave the parameter store and the random generators as they were, and give the same numbers for the same seed,
in this process or from a run folder.
"""

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample

from .draws import FixAndFree, sites_of
from .evaluate import check_rows_first
from .isolation import isolated
from .layout import DATA
from .preflight import check_rows_known
from .terms import is_latent, make_terms, trace_pair
from .weigh import conditional_mean

MEAN_DRAWS = 100


def encode(model, guide, data, *, draws=None, seed=0, plates=1, rows_per_pass=5000):
    """Latents of data: posterior means, or draws from the guide.

    The mean of a site is the average, over draws of the sites above, of its conditional mean where the guide's
    distribution knows one (so it is exact at the top), else of its draws.

    :param data: a tensor (N, ...) or a tuple of aligned tensors, the model's arguments.
    :param int draws: S; ``None`` for means (from 100 draws).
    :returns: dictionary from latent site to an array (N, ...), or (S, N, ...) for draws.
    """

    def latents(args, num):
        _, guide_trace = trace_pair(model, guide, args, num_particles=num, plates=plates)
        out = {}
        for name, site in guide_trace.nodes.items():
            if is_latent(site) and not site["infer"].get("is_auxiliary"):
                out[name] = _per_draw(site["value"] if draws is not None else _mean(site), site, num)
        return out

    return _over_rows(model, guide, data, latents, draws, seed, plates, rows_per_pass)


def reconstruct(model, guide, data, *, draws=None, seed=0, plates=1, rows_per_pass=5000):
    """Data as the pair sees them again: E[x | z] averaged over the guide's draws of z, or draws of x.

    :param int draws: S draws of x given z; ``None`` for the mean (from 100 draws of z).
    :returns: dictionary from observed site to an array (N, ...), or (S, N, ...) for draws.
    :raises ValueError: for a model that observes nothing but factors.
    """

    def images(args, num):
        model_trace, _ = trace_pair(model, guide, args, num_particles=num, plates=plates)
        observed = _images(model_trace)
        if not observed:
            raise ValueError("the model observes no data (a density by itself): there is nothing to reconstruct")
        if draws is None:
            return {name: _per_draw(_observed_mean(site), site, num) for name, site in observed.items()}
        return {name: _per_draw(site["fn"].sample(), site, num) for name, site in observed.items()}

    return _over_rows(model, guide, data, images, draws, seed, plates, rows_per_pass)


def sample(model, args, num, *, mean=False, seed=0, plates=1):
    """Draws from the model itself: latents from their priors, then data.

    :param args: example arguments of the model, a tuple of tensors. For a model with local latents each draw is a row of
        its own; with global latents each draw is a whole data set of the example's shape.
    :param int num: how many.
    :param bool mean: give E[x | z] in place of a draw of x.
    :returns: dictionary from site, latent or observed, to an array with ``num`` first.
    :raises ValueError: for a model with a ``pyro.factor``, whose forward samples are not samples of it.
    """
    with isolated(model, None, seed=seed), torch.no_grad():
        trace = prune_subsample_sites(poutine.trace(model).get_trace(*args))
        factors = sorted(sites_of(trace, "factor"))
        if factors:
            raise ValueError(f"the model has factor site(s) {factors}: its forward samples are not samples of it")
        observed = _images(trace)
        latents = sites_of(trace, "latent")
        local = all(any(f.name == DATA for f in s["cond_indep_stack"]) for s in latents.values())
        if local:
            rows = trace.nodes[next(iter(observed))]["value"].shape[0]
            repeats = -(-num // rows)
            args = tuple(a.repeat(repeats, *[1] * (a.dim() - 1))[:num] for a in args)
        outer = pyro.plate("particles", num, dim=-1 - plates) if not local and num > 1 else FixAndFree({})
        pyro.set_rng_seed(seed)  # again: the numbers must not depend on how many rows the example has
        with outer, FixAndFree({}, observed):
            trace = prune_subsample_sites(poutine.trace(model).get_trace(*args))
        out = {}
        for name in [*latents, *observed]:
            site = trace.nodes[name]
            value = _observed_mean(site) if mean and name in observed else site["value"]
            out[name] = (value if local else _per_draw(value, site, num)).cpu().numpy()
        return out


class MeanOfRest(Messenger):
    """Give every latent site without a value its prior's mean, given the sites above."""

    def _pyro_sample(self, msg):
        if not msg["is_observed"] and not msg["done"] and not site_is_subsample(msg):
            msg["value"], msg["done"] = msg["fn"].mean, True


def decode(model, args, values):
    """E[x | z] at given latents; latents not given take their prior's mean, given those above.

    :param args: example arguments of the model, a tuple of tensors; as many rows are made of them as there are codes.
    :param dict values: latent site -> tensor (N, ...).
    :returns: dictionary from observed site to an array (N, ...).
    :raises ValueError: for a site that is not a latent of the model.
    """
    num = len(next(iter(values.values())))
    with isolated(model, None), torch.no_grad():
        args = tuple(a.repeat(-(-num // len(a)), *[1] * (a.dim() - 1))[:num] for a in args)
        with MeanOfRest(), FixAndFree(values):
            trace = prune_subsample_sites(poutine.trace(model).get_trace(*args))
        unknown = sorted(set(values) - set(sites_of(trace, "latent")))
        if unknown:
            raise ValueError(f"the model has no latent site(s) {unknown}; it has {list(sites_of(trace, 'latent'))}")
        return {name: _observed_mean(site).cpu().numpy() for name, site in _images(trace).items()}


def _images(trace):
    """The observed sites; earlier stages of a model that sees x more than once come first, log p(x)'s site last."""
    return {**sites_of(trace, "auxiliary"), **sites_of(trace, "data")}


def _mean(site):
    if isinstance(site["fn"], torch.distributions.Categorical):
        raise ValueError(f"site '{site['name']}' is categorical and has no mean: ask for draws")
    return conditional_mean(site["fn"], site["value"].to(torch.get_default_dtype()))


def _observed_mean(site):
    """E[x | z]; a ValueError names a site without a mean."""
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        mean = None
    if mean is None or torch.isnan(mean).any():
        raise ValueError(f"site '{site['name']}' ({type(site['fn']).__name__}) has no mean: ask for draws")
    return mean


def _per_draw(value, site, num):
    """Bring a value of a pass with ``num`` draws to (num, ...), without singleton axes of plates it is not in."""
    value = value if num > 1 else value.unsqueeze(0)
    own = value.dim() - site["fn"].event_dim
    plates = {f.dim for f in site["cond_indep_stack"] if f.vectorized}
    extra = [i for i in range(1, own) if i - own not in plates and value.shape[i] == 1]
    return value.squeeze(extra) if extra else value


def _over_rows(model, guide, data, compute, draws, seed, plates, rows_per_pass):
    args = data if isinstance(data, tuple) else (data,)
    num = MEAN_DRAWS if draws is None else draws
    if num < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    with isolated(model, guide, seed=seed), torch.no_grad():
        trace, guide_trace = trace_pair(model, guide, args, plates=plates)
        check_rows_known(guide, trace.nodes)
        local = all(any(f.name == DATA for f in s["cond_indep_stack"]) for s in trace.nodes.values() if is_latent(s))
        if local:
            check_rows_first(make_terms(trace, guide_trace, plates=plates), args)
        size = len(args[0]) if local else 1
        step = max(1, rows_per_pass // num) if local else 1
        parts = []
        for start in range(0, size, step):
            chunk = tuple(a[start : start + step] for a in args) if local else args
            found = compute(chunk, num).items()
            parts.append({name: (v.mean(0) if draws is None else v).cpu().numpy() for name, v in found})
    axis = 0 if draws is None else 1
    return {n: np.concatenate([p[n] for p in parts], axis) if local else parts[0][n] for n in parts[0]}
