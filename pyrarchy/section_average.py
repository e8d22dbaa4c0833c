"""Where the guide puts the data as a whole: the top layer's average posterior and prior, and the average KL cut in two."""

import numpy as np
import xarray

from .section import Section, numbers, section

MOST = 2000


def _top(context):
    """The layer that is sampled first, and up to two thousand rows of the data."""
    from .matrix import latents

    context.need_local()
    return next(iter(latents(context.model, context.args))), tuple(part[:MOST] for part in context.args)


@section("surgery", "What the average KL is made of")
def surgery(context):
    """Average KL of the top layer = information on which datum it was + KL(average posterior || prior)."""
    from .inference import surgery as cut

    site, args = _top(context)
    found = cut(context.model, context.guide, args, site, seed=context.seed)
    terms = {"average_kl": found.average_kl, "information": found.information, "marginal_kl": found.marginal_kl}
    data = {name: numbers((), value, "nats per datum") for name, value in terms.items()}
    data["error"] = numbers("term", np.array(found.errors), "nats per datum", what="standard error of the draws")
    words = [
        f"Of the {found.average_kl:.2f} nats of {site}, {found.information:.2f} ± {found.errors[1]:.2f} tell the data apart "
        f"(at most ln N = {found.cap:.2f}) and {found.marginal_kl:.2f} ± {found.errors[2]:.2f} are "
        "KL(q(z) || p(z)), how far samples from the prior are from the codes of data."
    ]
    if found.near_cap:
        words.append("The information is near its cap: with more data it would be larger, and the marginal KL smaller.")
    return Section(xarray.Dataset(data, {"term": list(terms)}, {"site": site, "num_data": found.num_data}), words)


@section("average_posterior", "The average posterior against the prior", long=True)
def average(context):
    """Moments of the top layer's average posterior beside its prior's, with the units that differ most in a picture."""
    from . import plots
    from .inference import average_posterior

    site, args = _top(context)
    found = average_posterior(context.model, context.guide, args, site, seed=context.seed)
    figure = plots.average_marginals(found.draws, found.prior_draws, name=site)
    figures = {"average": (figure, "Units of the average posterior that differ most from the prior, on a log scale.")}
    units = [f"{site}[{i}]" for i in range(found.draws.shape[-1])]
    if found.prior is None:
        words = [f"{site}'s prior has no finite variance: compare the picture, not moments."]
        return Section(xarray.Dataset(coords={"unit": units}, attrs={"site": site}), words, figures)
    data, words = {}, []
    for name, (difference, error) in found.differences().items():
        data[name] = numbers("unit", difference, "of the latent", what=f"{name}: posterior less prior")
        data[f"{name}_error"] = numbers("unit", error, "of the latent", what="standard error over data")
        beyond = int((np.abs(difference) > 4 * np.maximum(error, 1e-12)).sum())
        words.append(
            f"The {name} of {beyond} of {len(units)} units of {site} differs from the prior's by over four errors."
        )
    if len(units) > 1:
        i, j, correlation, error = found.correlated()
        words.append(
            f"Most certainly correlated, and not in the prior: {units[i]} and {units[j]}, {correlation:+.2f} ± {error:.2f}."
        )
    return Section(xarray.Dataset(data, {"unit": units}, {"site": site}), words, figures)
