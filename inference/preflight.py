"""Checks before the first step: misuse that Pyro would train through silently becomes an error that names the site."""

import math

import pyro
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, ReweightedWakeSleep, TraceEnum_ELBO, TraceMeanField_ELBO, TraceTMC_ELBO
from pyro.infer.autoguide import AutoGuide, AutoNormalMessenger, AutoRegressiveMessenger
from pyro.nn import PyroModule

from .bound import Bound
from .first_pass import first_pass
from .isolation import root_modules
from .layout import DATA, log_density
from .terms import check_sites, is_auxiliary, is_latent, make_terms


def check_root_names(model, guide):
    """Refuse two root modules that would share parameter keys: the second network would never train."""
    roots = [m for m in root_modules(model, guide) if isinstance(m, PyroModule)]
    if len(roots) < 2 or roots[0] is roots[1] or roots[0]._pyro_name != roots[1]._pyro_name:
        return
    first, second = ({*m._parameters, *m._modules, *m._pyro_params} for m in roots)
    shared = sorted(first & second)
    if shared:
        raise ValueError(
            f"model and guide are both root modules named '{roots[0]._pyro_name}' and both have {shared}: they would "
            "share parameter keys and one of them would never train. Name the roots: super().__init__('model') and "
            "super().__init__('guide')."
        )


def frozen_parameters(model, guide):
    """The parameters that the user froze, by identity; Pyro turns ``requires_grad`` on again when it reads them."""
    return {id(p) for module in root_modules(model, guide) for p in module.parameters() if not p.requires_grad}


def named_parameters(model, guide, free=None, frozen=()):
    """All trainable tensors by name, each once: those of the modules, then free ``pyro.param`` of the present store.

    :param free: store names to take; all by default. The store may still hold those of an earlier pair.
    :param frozen: identities of parameters to leave out.
    """
    out, seen = {}, set(frozen)
    for prefix, root in (("model", model), ("guide", guide)):
        for module in root_modules(root):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    out[f"{prefix}.{name}"] = parameter
    store = pyro.get_param_store()
    for name, parameter in store.named_parameters():
        wanted = free is None or name in free
        if wanted and parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            out[f"param.{name}"] = parameter
    return out


def check_gradients(parameters):
    """Refuse when the objective is not a function of some parameter (its gradient is missing after a backward pass)."""
    if not parameters:
        raise ValueError(
            "there is nothing to train: neither model nor guide has a parameter. Are they plain methods of a module? "
            "Those register nothing: make model and guide a PyroModule each, or decorate the methods @pyro_method."
        )
    unreached = [name for name, p in parameters.items() if p.grad is None]
    if unreached:
        raise ValueError(
            f"parameter(s) {unreached} are never reached by the objective, so they would not train. Remove them, "
            "freeze them with requires_grad_(False), or check that forward() reads them (and that a guide's networks "
            "are read inside encode() or posterior())."
        )


def per_datum_sites(guide, sites):
    """The latent sites for which Pyro's guide keeps one row of parameters per datum, known by position alone."""
    kinds = (AutoGuide, AutoNormalMessenger, AutoRegressiveMessenger)  # not every messenger: ours are amortised
    if not isinstance(guide, kinds) or DATA in getattr(guide, "amortized_plates", ()):
        return []
    return [n for n, s in sites.items() if is_latent(s) and any(f.name == DATA for f in s["cond_indep_stack"])]


def check_autoguide(guide, sites, whole):
    """Refuse per-datum parameters under minibatches: every batch would reuse the first one's rows."""
    if not whole and (local := per_datum_sites(guide, sites)):
        raise ValueError(
            f"{type(guide).__name__} keeps one row of parameters per datum for site(s) {local}: with minibatches each "
            "batch would silently reuse another's rows. Train on the whole data (batch_size=None) or amortise."
        )


def check_rows_known(guide, sites):
    """Refuse to use a guide on rows that it cannot tell from others of the same number."""
    if local := per_datum_sites(guide, sites):
        raise ValueError(
            f"{type(guide).__name__} keeps one row of parameters per datum for site(s) {local} and knows them by position "
            "alone: given other data it would answer for those it was trained on. Use pyrarchy.guides.MeanField, which "
            "finds its rows by content, or amortise."
        )


def check_global_latents(sites, single):
    """Refuse latents outside plate ``data`` under minibatches: each batch would be taken for the whole data set."""
    frames = {n: s["cond_indep_stack"] for n, s in sites.items() if s["type"] == "sample"}
    outside = [n for n, s in sites.items() if is_latent(s) and not any(f.name == DATA for f in frames[n])]
    subsampled = any(f.full_size not in (None, f.size) for stack in frames.values() for f in stack)
    if outside and not single and not subsampled:
        raise ValueError(
            f"latent site(s) {outside} lie outside plate '{DATA}': with minibatches each batch would be taken for the "
            "whole data set and their prior counted once a batch. Train on the whole data (batch_size=None), put "
            f"local latents into pyro.plate('{DATA}', ...), or give that plate its full size."
        )


def check_stock_objective(objective, model_trace, guide_trace):
    """Refuse Pyro's own objectives where they are wrong without saying so (traps of Pyro 1.9)."""
    sites = {n: s for n, s in model_trace.nodes.items() if s["type"] == "sample"}
    name = type(objective).__name__
    if not isinstance(objective, (TraceEnum_ELBO, TraceTMC_ELBO)):  # these sum sites out that the guide leaves alone
        check_sites(model_trace, guide_trace)
    latents = [n for n, s in sites.items() if is_latent(s)]
    if isinstance(objective, TraceMeanField_ELBO):
        order = [n for n, s in guide_trace.nodes.items() if is_latent(s)]
        if [n for n in order if n in latents] != latents:
            raise ValueError(
                f"{name} is wrong for a guide that samples {order} against the model's order {latents}: each KL would "
                "be given other samples than the bound's. Use Trace_ELBO or pyrarchy's ELBO."
            )
    if isinstance(objective, RenyiELBO):
        scaled = [n for n, s in sites.items() if isinstance(s["scale"], torch.Tensor) or s["scale"] != 1]
        if scaled:
            raise ValueError(
                f"{name} puts the scale of site(s) {scaled} (a subsampled plate or poutine.scale) inside its exponent, "
                "which is no bound on log p(x). Use ImportanceWeighted or Renyi, which apply the scale outside."
            )
    if isinstance(objective, (RenyiELBO, ReweightedWakeSleep)):
        frames = {n: {f.name: f.size for f in s["cond_indep_stack"] if f.vectorized} for n, s in sites.items()}
        rows = max((f.get(DATA, 1) for f in frames.values()), default=1)
        outside = [n for n, f in frames.items() if DATA not in f]
        if rows > 1 and (outside or isinstance(objective, ReweightedWakeSleep)):
            where = f"site(s) {outside} outside plate '{DATA}'" if outside else f"sites {sorted(frames)}"
            raise ValueError(
                f"{name} would use one importance weight for all {rows} rows ({where}), not one per datum. Use "
                "pyrarchy's bounds over importance weights."
            )


class FirstLossError(ArithmeticError, ValueError):
    """A pair whose loss is not finite before its first step."""


def no_bound(objective, model_trace, guide_trace, plates=1):
    """Sentences on why an objective's value is no bound on log p(x) for this pair; empty where it is one."""
    if isinstance(objective, Bound):
        points = make_terms(model_trace, guide_trace, plates=plates).point_masses()
        return [
            f"The guide fixes site(s) {points} at a point, so log q is no density: the objective bounds nothing."
        ] * bool(points)
    auxiliary = [n for n, s in model_trace.nodes.items() if s["type"] == "sample" and is_auxiliary(s)]
    return [
        f"{type(objective).__name__} adds the auxiliary likelihood(s) {auxiliary} to its value, which is then no bound on "
        "log p(x); pyrarchy's bounds follow them in the gradient alone."
    ] * bool(auxiliary)


def data_size(model_trace):
    """How many data one pass stands for: the full size of plate ``data``, or one when no latent is in it."""
    local = [s for s in model_trace.nodes.values() if is_latent(s)]
    for site in local:
        for frame in site["cond_indep_stack"]:
            if frame.name == DATA:
                return frame.full_size or frame.size
    return 1


def rows_of(model_trace):
    """How many data are in one pass: the size of plate ``data`` as it is, or one where there is none."""
    frames = [f for site in model_trace.nodes.values() for f in site.get("cond_indep_stack", ()) if f.name == DATA]
    return frames[0].size if frames else 1


def preflight(model, guide, objective, batch, *, whole=True, single=True):
    """One pass and one backward pass on a batch; returns (parameters by name, remarks of :func:`no_bound`).

    Runs inside the caller's isolation with validation on, and leaves no gradient behind.

    :raises ValueError: naming the site or the parameter, for each misuse in this module.
    """
    check_root_names(model, guide)
    frozen = frozen_parameters(model, guide)
    plates = objective.plates if isinstance(objective, Bound) else 1
    model_trace, guide_trace = first_pass(model, guide, batch)
    check_autoguide(guide, model_trace.nodes, whole)
    check_global_latents(model_trace.nodes, single)
    remarks = no_bound(objective, model_trace, guide_trace, plates)
    if not isinstance(objective, Bound):
        check_stock_objective(objective, model_trace, guide_trace)
    parameters = named_parameters(model, guide, frozen=frozen)
    kept = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    with poutine.trace(param_only=True) as used:
        loss = objective.loss_and_grads(model, guide, *batch)
    loss = loss[0] if isinstance(loss, tuple) else loss
    if not math.isfinite(loss):
        where = non_finite_sites(model_trace, guide_trace)
        raise FirstLossError(f"the first loss is {loss}: {where}. Rescale the data, or begin from other weights.")
    parameters = named_parameters(model, guide, set(used.trace.nodes), frozen)  # lazily made parameters exist now
    check_gradients(parameters)
    for name, p in parameters.items():
        p.grad = kept.get(name)
    return parameters, remarks


def sites_not_finite(model_trace, guide_trace):
    """The sites whose log-probability is not finite, in words: ``["model site 'x'"]``."""
    return [
        f"{side} site '{name}'"
        for side, trace in (("model", model_trace), ("guide", guide_trace))
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not torch.isfinite(log_density(site)).all()
    ]


def non_finite_sites(model_trace, guide_trace):
    """A sentence that names the sites whose log-probability is not finite."""
    bad = sites_not_finite(model_trace, guide_trace)
    return f"the log-probability is not finite at {', '.join(bad)}" if bad else "no single site is to blame"
