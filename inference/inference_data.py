r"""Draws of a pair as ArviZ's InferenceData: posterior, predictive, prior, weights, and log-likelihood where asked for.

.. math:: z_s \sim q(z), \qquad \tilde x_s \sim p(x \mid z_s), \qquad \log w_s = \log p(x, z_s) - \log q(z_s)

Dims and coords come from the plates: plate ``schools`` is dim ``schools``, the event axes of ``z1`` are ``z1_dim_0``...
The draws are independent: ``chain`` has length one, and r_hat or ess mean nothing here; k_hat is what to look at.

Source: the InferenceData schema, https://python.arviz.org/en/stable/schema/schema.html; k-hat as a check of a
variational fit: Yao, Vehtari, Simpson, Gelman (2018), https://arxiv.org/abs/1802.02538.
"""

import inspect

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoNormalMessenger

from .arguments import blaming_data, whole
from .draw_plan import DrawPlan, as_numpy, squeezed
from .draws import Pair, plates_of, sites_of, value_axes
from .groups import DRAW_GROUPS, pack
from .isolation import isolated
from .layout import DATA
from .psis import pareto_k

GROUPS = (*DRAW_GROUPS, "observed_data", "constant_data", "fit")
# Not made unless named: az.loo takes the group for draws of the posterior and ranks a collapsed guide first, its k all good.
_ON_REQUEST = {"log_likelihood"}
_WARNING = "at the guide's draws, so that az.loo of it is not LOO: use pyrarchy.inference.loo"


@torch.no_grad()
def to_inference_data(
    model,
    guide,
    model_args=(),
    model_kwargs=None,
    *,
    num_samples=1000,
    plates=1,
    rows=None,
    seed=0,
    record=None,
    coords=None,
    dims=None,
    byte_limit=2 * 1024**3,
    groups=None,
):
    """Draw from a pair and pack the draws for ArviZ 0.23 (``InferenceData``) or 1.x (``DataTree``).

    Works for any pair: a guide of :mod:`pyrarchy.guides`, any other messenger guide, Pyro's AutoGuides and plain
    functions. Auxiliary sites of the guide stay out of ``posterior``. Everything is unscaled: plate scales and
    temperatures enter no number. In ``sample_stats``: ``lp`` = log p(x, z), ``log_q``, ``log_weight`` = lp - log_q,
    each summed over the data, in nats; where a plate encloses every site, ``log_weight_local`` and ``k_hat`` have one
    value per datum; otherwise ``k_hat`` is one number (see :func:`~pyrarchy.inference.psis.psis`; NaN where
    a weight is, or where the guide is a point mass).

    :param model, guide: the pair; both run in eval mode, generators and parameter store are left as found.
    :param tuple model_args: positional arguments of both. ``model_kwargs``: named ones.
    :param int num_samples: draws S, for posterior and prior alike.
    :param int plates: nested vectorised plates of the model; ``None`` takes one draw at a time (slow, but right for a
        model or guide that does not let extra axes pass on the left).
    :param rows: slice or index array: which data to use, applied along the first axis of each argument whose length
        there is that of the first argument with axes.
    :param int seed: seed of the draws.
    :param record: what ``fit`` returned; its curve becomes group ``fit``.
    :param dict coords: dim -> labels. ``dims``: site -> names of its axes after the draws. Both override the plates'.
    :param int byte_limit: refuse to allocate more than this.
    :param groups: names from :data:`GROUPS`; by default all that exist but ``log_likelihood``. That one is at the guide's
        draws, and ``az.loo``, which takes them for draws of the posterior, would be wrong without a word: use
        :func:`~pyrarchy.inference.loo`, or :func:`~pyrarchy.inference.psis_posterior`, which has the group.
        With a ``pyro.factor`` in the model, forward
        samples are not samples of it, so ``prior`` and ``prior_predictive`` are left out (attribute ``note`` says so).
    :raises ValueError: for too large a result (names the three largest sites), a guide that does not fit, an unknown
        group or one that cannot be made, or draws that mix.

    >>> import torch, pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x), dim=-1):
    ...         z = pyro.sample("z1", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x), dim=-1):
    ...         pyro.sample("z1", dist.Normal(x / 2, 0.5**0.5))  # exact: log p(x) = log N(x; 0, 2) = -1.2655 at 0
    >>> idata = to_inference_data(model, guide, (torch.zeros(3),), num_samples=100)
    >>> dict(idata["posterior"]["z1"].sizes)
    {'chain': 1, 'draw': 100, 'data': 3}
    >>> idata["sample_stats"]["log_weight_local"].values[0, 0].round(4).tolist()
    [-1.2655, -1.2655, -1.2655]
    """
    if not isinstance(model_args, tuple | list):
        raise TypeError(f"model_args must be a tuple of arguments, got {type(model_args).__name__}: write (x,)")
    num_samples = whole("num_samples", num_samples)
    if isinstance(groups, str):
        raise TypeError(f"groups must be a list of names: write [{groups!r}]")
    if unknown := sorted(set(groups or ()) - set(GROUPS)):
        raise ValueError(f"unknown group(s) {unknown}; there are {list(GROUPS)}")
    args, kwargs, index = _select(tuple(model_args), dict(model_kwargs or {}), rows)
    with isolated(model, guide, seed=seed), blaming_data(args, model, guide):
        if rows is not None:
            _refuse_rows(model, guide, args, kwargs)
        pair = Pair(model, guide, args, kwargs, plates)
        wanted, note = _wanted(groups, pair.model_trace, record)
        plan = DrawPlan(pair, wanted, dims or {})
        plan.check_bytes(num_samples, byte_limit)
        arrays = plan.fill(num_samples)
    out = {group: {} for group in GROUPS}
    for (group, name), value in arrays.items():
        out[group][name] = value
    if "sample_stats" in wanted:
        log_weight = out["sample_stats"].get("log_weight_local", out["sample_stats"]["log_weight"])
        k_hat = _k_hat(log_weight)
        if plan.point_mass is not None:
            # Constant, and yet no sign of a good guide: log q is the log of a mass, not of a density.
            note = f"{note or ''}; no k_hat: '{plan.point_mass}' is the same in all draws, a point mass".lstrip("; ")
            k_hat = np.full_like(k_hat, np.nan)
        out["sample_stats"]["k_hat"] = k_hat
    for name, site in sites_of(pair.model_trace, "data").items():
        if "observed_data" in wanted:
            shape, _ = squeezed(value_axes(site), site["value"].shape)
            out["observed_data"][name] = as_numpy(site["value"]).reshape(shape)
    if "constant_data" in wanted:
        out["constant_data"] = _constants(pair, plan)
    if "fit" in wanted:
        out["fit"] = _curve(record, plan.dims)
    attrs = {
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
        "num_samples": num_samples,
        "seed": seed,
        "draws_of": "guide",
        "log_likelihood_is": _WARNING if "log_likelihood" in wanted else None,
        "note": note,
    }
    return pack(out, plan.dims, {**_plate_coords(pair, index), **(coords or {})}, attrs)


def _k_hat(log_weight):
    """k-hat of log weights (S, ...): NaN where a weight is no number or all are zero, so that the draws still open."""
    flat = log_weight.reshape(len(log_weight), -1)
    usable, k_hat = np.isfinite(flat.max(0)), np.full(flat.shape[1], np.nan)
    k_hat[usable] = pareto_k(flat[:, usable])
    return k_hat.reshape(log_weight.shape[1:])


def _select(args, kwargs, rows):
    """Apply rows to the arguments; returns them and the chosen indices (or None)."""
    if rows is None:
        return args, kwargs, None
    sized = [a for a in [*args, *kwargs.values()] if isinstance(a, torch.Tensor | np.ndarray) and a.ndim]
    if not sized:
        raise ValueError("rows was given, but no model argument has an axis to select from")
    size = len(sized[0])
    try:
        index = np.array(np.arange(size)[rows], order="C")  # a copy: torch takes no negative strides
    except IndexError as error:
        raise ValueError(f"rows do not fit the {size} data of the first argument: {error}") from error
    if index.ndim != 1 or not len(index):
        raise ValueError(f"rows must be a slice or an array of indices that selects some of {size} data, got {rows!r}")

    def take(arg):
        if isinstance(arg, torch.Tensor) and arg.ndim and len(arg) == size:
            return arg[torch.as_tensor(index, device=arg.device)]
        return arg[index] if isinstance(arg, np.ndarray) and arg.ndim and len(arg) == size else arg

    return tuple(take(a) for a in args), {k: take(a) for k, a in kwargs.items()}, index


def _refuse_rows(model, guide, args, kwargs):
    """Guides with a row of parameters per datum would silently use the first data's rows for others."""
    guide = poutine.unwrap(guide)
    if not isinstance(guide, AutoGuide | AutoNormalMessenger):
        return
    shared = set(getattr(guide, "amortized_plates", ()))
    for name, site in sites_of(poutine.trace(model).get_trace(*args, **kwargs), "latent").items():
        if plates := {frame.name for frame in plates_of(site).values()} - shared:
            raise ValueError(
                f"{type(guide).__name__} keeps one row of parameters per datum at site '{name}' (plate "
                f"{sorted(plates)}), so other rows= would get the posterior of the wrong data. Leave rows out and "
                "select from the result."
            )


def _wanted(groups, trace, record):
    """The groups to make, and a note on those left out."""
    wanted, factors = set(groups or GROUPS) - (set() if groups else _ON_REQUEST), list(sites_of(trace, "factor"))
    if groups is not None and "fit" in wanted and record is None:
        raise ValueError("group 'fit' needs record=, the result of fit()")
    if not factors:
        return wanted - (set() if record is not None else {"fit"}), None
    note = f"forward samples are not samples of a model with a pyro.factor (site(s) {factors})"
    if refused := sorted({"prior", "prior_predictive"} & set(groups or ())):
        raise ValueError(f"cannot make group(s) {refused}: {note}; leave them out of groups=")
    wanted -= {"prior", "prior_predictive"} | (set() if record is not None else {"fit"})
    return wanted, f"no prior, prior_predictive: {note}"


def _constants(pair, plan):
    """The arguments that are numbers and not the observed data; their first axes are named after plates."""
    named = _named_arguments(pair)
    observed = [s["value"] for s in sites_of(pair.model_trace, "data").values()]
    plates = {name: len(index) for name, index in pair.indices.items()}
    found = {}
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, torch.Tensor | np.ndarray | int | float):
            continue
        tensor = torch.as_tensor(value)
        if any(tensor.shape == o.shape and bool((tensor == o).all()) for o in observed):
            continue
        name = f"{name}_arg" if name in plates else name
        found[name] = as_numpy(tensor)
        fitting = [plate for plate, size in plates.items() if tensor.dim() and size == len(tensor)]
        rest = [f"{name}_dim_{i}" for i in range(tensor.dim())]
        plan.dims.setdefault(("constant_data", name), fitting + rest[:-1] if len(fitting) == 1 else rest)
    return found


def _named_arguments(pair):
    model = poutine.unwrap(pair.model)
    function = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        signature = inspect.signature(function)
        bound = signature.bind(*pair.args, **pair.kwargs).arguments
    except (TypeError, ValueError):  # a callable without a signature
        return {**{f"arg{i}": a for i, a in enumerate(pair.args)}, **pair.kwargs}
    named = {}
    for name, value in bound.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}{i}": a for i, a in enumerate(value)}
        elif signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _curve(record, dims):
    losses, values = np.asarray(record.losses, float), np.asarray(record.values, float)
    dims["loss"] = ["step"]
    dims["value"] = ["step" if len(values) == len(losses) else "value_step"]
    return {"loss": losses, "value": values}


def _plate_coords(pair, index):
    """Dim -> labels: a plate's own indices, and the chosen rows on the plate of the data."""
    coords = {name: np.asarray(as_numpy(torch.as_tensor(value))) for name, value in pair.indices.items()}
    if index is not None:
        same = [name for name, value in coords.items() if len(value) == len(index)]
        on = DATA if DATA in same else same[0] if len(same) == 1 else None
        if on is not None and (coords[on] == np.arange(len(index))).all():
            coords[on] = index
    return coords
