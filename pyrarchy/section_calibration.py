"""Whether the guide is right for data that the model makes (Bayes' loop, TARP), and the model for its data."""

import numpy as np
import xarray

from .section import NotApplicable, Section, numbers, section

SETS, DRAWS, REPLICATES = 500, 99, 2000


@section("bayes_loop", "Bayes' loop: is the guide right for data that the model makes?", long=True)
def loop(context):
    """Ranks of the truth among the guide's draws on simulated data, of every unit and jointly."""
    if context.is_global:
        raise NotApplicable("the guide was fitted to one data set: refit it to each by inference.bayes_loop(..., fit=)")
    from .inference import bayes_loop, tarp
    from .plots import rank_ecdf

    found = bayes_loop(
        context.model, context.guide, context.args, num=SETS, draws=DRAWS, plates=context.plates, seed=context.seed
    )
    joint, flagged = tarp(found, seed=context.seed), found.flagged_by()
    least = int(np.argmin(found.least_p()))
    data = {
        "ranks": numbers(
            ("simulated", "quantity"), found.ranks, "draws", what=f"rank of the truth among {DRAWS} draws"
        ),
        "p": numbers("quantity", found.least_p(), "1", what="smallest p of the quantity's tests of uniform ranks"),
        "tarp_ranks": numbers(
            "simulated_pair", joint.ranks, "draws", what="draws nearer to a reference than the truth"
        ),
    }
    worst = ", ".join(f"{name} ({', '.join(tests)})" for name, tests in list(flagged.items())[:5])
    words = [
        f"{len(flagged)} of {len(found.names)} quantities have ranks that a right guide would not: {worst}."
        if flagged
        else f"No rank of {len(found.names)} quantities speaks against the guide, on {SETS} simulated data: the smallest p "
        f"is {found.least_p()[least]:.2g}, of {found.names[least]}, where {found.threshold:.1g} would be too small "
        f"({found.false_alarms:g} false alarms in all).",
        "Jointly (TARP) the truth lies "
        + ("outside the draws' own balls more or less often than it should." if joint.flagged else "where it should."),
        "It says whether the guide inverts this model, not whether the model is right: see the predictive check.",
    ]
    ranks = {name: found.ranks[:, q] for q, name in enumerate(found.names)}
    caption = (
        "ECDF of the truth's rank less the uniform's; of a right guide's lines 19 in 20 stay in the band. "
        "An S is overconfidence."
    )
    attrs = {"threshold": found.threshold, "flagged": ", ".join(flagged), "num_draws": DRAWS}
    coords = {"quantity": list(found.names)}
    return Section(xarray.Dataset(data, coords, attrs), words, {"ranks": (rank_ecdf(ranks, DRAWS), caption)})


@section("predictive_check", "Replicated data: is the model right for these data?", long=True)
def replicated(context):
    """Statistics of the data beside those of data replicated from the guide's draws."""
    from .inference import predictive_check
    from .plots import replicates

    options = {"num_samples": REPLICATES, "plates": context.plates, "seed": context.seed}
    found = predictive_check(context.model, context.guide, context.args, **options)
    names = list(found.observed)
    drawn = np.stack([np.ravel(found.replicated[name]) for name in names])
    data = {
        "replicated": numbers(("statistic", "replicate"), drawn, "of the data"),
        "observed": numbers("statistic", [float(found.observed[name]) for name in names], "of the data"),
        "p": numbers("statistic", [float(found.p[name]) for name in names], "1", what="P(T(replicated) > T(data))"),
    }
    flagged = list(found.flagged)
    words = [
        f"The data's {', '.join(flagged)} would not come from this model: it does not fit them there."
        if flagged
        else f"The data's {', '.join(names)}: as this model would make {'it' if len(names) == 1 else 'them'}."
    ]
    caption = "Statistics of replicated data (histogram) and of the data (line)."
    tables = {name: (drawn[i], float(found.observed[name]), float(found.p[name])) for i, name in enumerate(names)}
    return Section(xarray.Dataset(data, {"statistic": names}), words, {"replicates": (replicates(tables), caption)})
