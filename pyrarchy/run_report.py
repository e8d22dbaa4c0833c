"""The end of a fit: draws for ArviZ, pictures, and the report of a run folder."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from .atomic import write_atomically
from .diagnosis import SECONDS, run_sections
from .figures import Canvas, by_depth, pictures
from .report import Estimate, Layer, ReportContent, write_report
from .run_config import plain
from .run_result import evaluated_on, write_result
from .section import Context

DRAWN_ROWS = 50
LOCAL_DRAWS = 200
GLOBAL_DRAWS = 2000
LARGEST_IN_TABLE = 20


def write_outcome(fit, rows, held_out, evaluation, exact, curve, remarks, *, quick=True, seconds=SECONDS):
    """Write posterior.nc, diagnostics.nc, the PNGs, result.json and report.html of a fit.

    :param bool quick: leave the long diagnostics out. ``seconds``: how long each of them may take.
    """
    from .inference import groups, summary
    from .plots import png

    out, prepared = Path(fit.out), fit.prepared
    several = isinstance(rows, tuple)
    idata = posterior(fit.model, fit.guide, rows, prepared, curve)
    remarks = remarks + warnings_of(idata)
    groups.save(idata, out / "posterior.nc")
    labels = prepared.test_labels if held_out else prepared.train_labels
    canvas = None if several else Canvas(fit.whole, fit.columns)
    figures = pictures(fit.pair, fit.model, fit.guide, canvas, None if several else rows, labels, evaluation, curve)
    table = {}
    if several:
        draws = summary(idata, readable(idata), prob=0.9)
        table = draws.round(4).to_dict("index")
        figures["forest"] = forest(fit.pair.name, draws)
    for name, figure in figures.items():
        write_atomically(out / f"{name}.png", png(figure))
    write_result(fit, evaluation, exact, curve, held_out, remarks, draws_of=idata.attrs["draws_of"])
    args = rows if several else (rows,)
    page = content(fit, prepared, held_out, evaluation, exact, figures, table, remarks)
    if several:
        note = (
            idata.attrs.get("resampled", "").capitalize() or "These are intervals of the guide, not of the posterior."
        )
        page = replace(page, intervals_of=idata.attrs["draws_of"], intervals_note=note)
    write_report(out, replace(page, **diagnose_run(fit, args, labels, evaluation, held_out, quick, seconds)))


def warnings_of(idata):
    """Why the draws are the guide's and not the posterior's, where they were judged and refused."""
    refused = idata.attrs.get("refused")
    return [f"The intervals are the guide's, not the posterior's: {refused}"] if refused else []


def diagnose_run(fit, args, labels, evaluation, held_out, quick, seconds):
    """Diagnose a run, write diagnostics.nc, and return what the page shows of it."""
    from .inference import groups

    context = Context(fit.model, fit.guide, args, seed=fit.config["seed"], labels=labels, evaluation=evaluation)
    diagnosis = run_sections(context, quick=quick, seconds=seconds, progress=fit.progress)
    tree = diagnosis.to_tree({"pair": fit.pair.name, "evaluated_on": where_from(fit.prepared, held_out)})
    groups.save(tree, Path(fit.out) / "diagnostics.nc")
    found = [(entry.title, section) for entry, section in diagnosis.found.values()]
    return {"diagnostics": found, "left_out": diagnosis.left_out}


def posterior(model, guide, rows, data, curve):
    """Draws for ArviZ: of a global posterior, or the first rows of a local one.

    Global draws are resampled to the posterior where k-hat allows it; where it does not, they are the guide's, and their
    attributes ``draws_of`` and ``refused`` say so.
    """
    from .inference import UntrustedGuideError, psis_posterior, to_inference_data

    record = curve if hasattr(curve, "losses") else None
    if isinstance(rows, tuple):
        if getattr(guide, "has_local", False):  # a row of latents per datum and draw: fewer draws, no predictives
            kept = ("posterior", "sample_stats", "observed_data")
            return to_inference_data(model, guide, rows, num_samples=LOCAL_DRAWS, groups=kept)
        drawn = {"num_samples": GLOBAL_DRAWS, "record": record, "coords": data.coords}
        try:
            return psis_posterior(model, guide, rows, **drawn)
        except UntrustedGuideError as error:
            idata = to_inference_data(model, guide, rows, **drawn)
            idata.attrs["refused"] = str(error)
            return idata
    return to_inference_data(model, guide, (rows,), num_samples=LOCAL_DRAWS, rows=slice(DRAWN_ROWS), record=record)


def readable(idata):
    """The variables that a table can show: those without a row per datum, and of few entries each."""
    variables = idata["posterior"].data_vars.items()
    return [n for n, v in variables if "data" not in v.dims and v[0, 0].size <= LARGEST_IN_TABLE]


def forest(name, summary):
    """Means and 90 % intervals of a global posterior."""
    from . import plots

    low, high = (c for c in summary.columns if c.startswith("eti"))
    return plots.forest({name: {v: (row["mean"], row[low], row[high]) for v, row in summary.iterrows()}})


def content(fit, data, held_out, evaluation, exact, figures, table, remarks):
    """What the report shows."""
    active = evaluation.active_units()
    layers = [Layer(n, evaluation.rates[n], *active.get(n, (None, None))) for n in by_depth(evaluation.rates)]
    note = evaluation.figures()["log_p_is"]
    log_px = Estimate(evaluation.mean_log_p, evaluation.error_log_p, note)
    if exact is not None:
        log_px = Estimate(exact["log_p"], exact["log_p_error"], "exact")
    elif np.isfinite(evaluation.ess).all():
        log_px = replace(log_px, note=f"{note}, median {np.median(evaluation.ess):.0f} of them effective")
    plan = fit.config
    objective = plan["objective"] + (f" by {plan['estimator']}" if plan.get("estimator") else "")
    if plan["method"] == "svi" and plan["warm_up"]:
        objective += f", temperature of the latent terms 0 to 1 over the first {plan['warm_up']:.0%} of the steps"
    data_line = f"{plan['data']}; figures on {where_from(data, held_out)}"
    if plan["binarize"] != "none":
        data_line = f"{plan['data']}, binarised ({plan['binarize']}); figures on {where_from(data, held_out)}"
    differs = [f"Differs from the source: {fit.pair.differs}."] if fit.pair.differs else []
    budget = f"{plan['epochs']} epochs" if plan["epochs"] else f"{plan['steps']} steps"
    together = f" on each of {plan['ranks']} processes" if plan.get("ranks", 1) > 1 else ""
    return ReportContent(
        title=f"{fit.pair.name} on {plan['data']}",
        pair=f"{fit.pair.model} + {fit.pair.guide}",
        density=fit.pair.density,
        source=f"{fit.pair.source.authors} ({fit.pair.source.year})",
        source_link=fit.pair.source.link,
        data=data_line,
        objective={"em": "exact EM", "cavi": "coordinate ascent"}.get(plan["method"], objective),
        budget="to convergence"
        if plan["method"] != "svi"
        else f"{budget}, batch {plan['batch_size'] or 'whole'}{together}",
        warnings=tuple(remarks + collapsed(evaluation) + ([fit.pair.caution] if fit.pair.caution else []) + differs),
        log_px=log_px,
        log_px_name="log p(x), held out" if held_out else "log p(x) of the data fitted",
        elbo=Estimate(evaluation.mean_elbo, None, "evidence lower bound"),
        k_hat=None if np.isnan(evaluation.k_hat).all() else evaluation.k_hat,
        layers=layers,
        posterior=table,
        config={k: v for k, v in plain(plan).items() if k != "columns"},  # as read back from config.json
        **{name: figure for name, figure in figures.items()},
    )


def where_from(data, held_out):
    """Which data the figures are of."""
    words = evaluated_on(data, held_out)
    return f"{words} (none was held out)" if words == "training data" else words


def collapsed(evaluation):
    """A sentence on each layer that holds nothing."""
    from .inference.rates import layer_word

    active, words = evaluation.active_units(), evaluation.layers()
    return [words[n] for n in words if layer_word(evaluation.rates[n], active.get(n, (None,))[0]) == "collapsed"]
