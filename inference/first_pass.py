"""The first pass of a pair: where its latents' values are of another kind than the model's own, the site is named."""

import pyro.distributions as dist
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import prune_subsample_sites

from .one_site import innermost
from .terms import is_latent, trace_pair

LEFT_OF_ALL = 5  # plates: nobody nests so many, and an objective of Pyro's may not know yet how many there are


def pass_of(objective, model, guide, args):
    """Both traces of one pass with as many draws side by side as an objective, ours or Pyro's, has."""
    draws = objective.num_particles if getattr(objective, "vectorize_particles", False) else 1
    return trace_pair(model, guide, args, num_particles=draws, plates=LEFT_OF_ALL)


def first_pass(model, guide, args):
    """The traces of :func:`~pyrarchy.inference.trace_pair`, once their supports are seen to be of one kind.

    :raises ValueError: as :func:`check_supports`; and where the model runs by itself but not on the guide's values.
    """
    try:
        traces = trace_pair(model, guide, args)
    except RuntimeError as error:
        if isinstance(poutine.unwrap(guide), GuideMessenger):
            raise  # such a guide samples nothing but what the model asks for
        alone = [prune_subsample_sites(poutine.trace(one).get_trace(*args)) for one in (model, guide)]
        check_supports(*alone)
        sites = [name for name, site in alone[1].nodes.items() if is_latent(site)]
        reason = str(error).split("Trace Shapes:")[0].strip()
        raise ValueError(
            f"the model runs by itself, but not on the guide's values of site(s) {sites}: {reason} Check that their "
            "shapes, dtypes and supports are the model's own."
        ) from error
    check_supports(*traces)
    return traces


def check_supports(model_trace, guide_trace):
    """Refuse, by name, a latent that is discrete in the model and continuous in the guide, or the other way round."""
    for name, site in guide_trace.nodes.items():
        if not is_latent(site) or name not in model_trace.nodes or isinstance(innermost(site["fn"]), dist.Delta):
            continue
        p, q = model_trace.nodes[name]["fn"], site["fn"]
        kinds = [_kind(p), _kind(q)]
        if None not in kinds and kinds[0] != kinds[1]:
            words = [f"{type(innermost(d)).__name__} ({kind})" for d, kind in zip((p, q), kinds, strict=True)]
            raise ValueError(
                f"site '{name}' is a {words[0]} in the model and a {words[1]} in the guide: give the guide a distribution "
                "on the model's support"
            )


def _kind(distribution):
    try:
        return "discrete" if distribution.support.is_discrete else "continuous"
    except NotImplementedError:  # flows of other libraries do not tell
        return None
