"""``pyrarchy nuts``: the posterior of a pair's model by NUTS, as the reference for its guides."""

import sys
from pathlib import Path

from .atomic import write_atomically
from .faults import DamagedRunError, RunError
from .fit_plan import data_for
from .folder_lock import folder_lock
from .placement import to_tensors
from .registry import get_pair
from .run_config import read_config, write_json
from .run_folder import load, prepare

INTERVAL = 0.9


def run_nuts_command(args):
    """Carry out ``pyrarchy nuts``; prints the summary and returns the exit code."""
    get_pair(args.pair)  # a name that is none makes no folder
    out = Path(args.out or f"runs/nuts_{args.pair.replace(':', '.')}")
    with folder_lock(out):
        for name, what in (
            ("nuts.json", "NUTS draws already"),
            ("config.json", "a fit, whose draws it would replace"),
        ):
            if (out / name).exists():
                raise RunError(f"{out}: holds {what}; choose another --out")
        return sample_into(out, args)


def sample_into(out, args):
    """Sample, and write the draws and their figures into a folder; returns the exit code."""
    from .inference import groups, summary
    from .inference.mcmc import mcmc_inference_data, run_nuts
    from .plots import png

    guide = guide_summary(args.against) if args.against else None
    model, rows, coords, sites = model_and_data(args)
    if guide is not None and not sites & {label.split("[")[0] for label in guide.index}:
        raise RunError(f"{args.against}: is about other variables than the model's {sorted(sites)}")
    result = run_nuts(
        model,
        *rows,
        num_samples=args.samples,
        warmup=args.warmup,
        chains=args.chains,
        seed=args.seed,
        progress=not args.quiet and sys.stderr.isatty(),
    )
    idata = mcmc_inference_data(model, rows, result, coords=coords)
    table = summary(idata, prob=INTERVAL)
    groups.save(idata, out / "posterior.nc")
    figure = forest(table, guide, Path(args.against).name if args.against else None)
    write_atomically(out / "forest.png", png(figure))
    diverged, size = int(result.diverging.sum()), result.diverging.size
    asked = {key: getattr(args, key) for key in ("pair", "data", "samples", "warmup", "chains", "seed", "against")}
    figures = {
        "divergences": diverged,
        "draws": size,
        "acceptance_rate": result.accept.mean(),
        "seconds": result.seconds,
    }
    write_json(out / "nuts.json", {**asked, **figures, "posterior": table.to_dict("index")})
    if not args.quiet:
        print(table.round(2).to_string())
        print(f"{args.chains} chains of {args.samples} draws in {result.seconds:.1f} s; {diverged} of {size} diverged")
        for remark in remarks(table, diverged, args.chains):
            print(f"note: {remark}")
        print(f"run folder: {out}")
    return 0


def model_and_data(args):
    """The model, its arguments, the labels of its plates and the names of its sites.

    :raises ValueError: for a model whose parameters are not fitted, or whose latents are one per datum.
    """
    from .inference import isolated, trace_pair
    from .inference.terms import is_latent

    pair = get_pair(args.pair)
    options = pair.parse_options(args.options)
    data, _ = prepare(pair, data_for(pair, args.data)[0], options)
    rows = to_tensors(data.train)
    rows = rows if isinstance(rows, tuple) else (rows,)
    model, guide = pair(data, seed=args.seed, **options)
    with isolated(model, guide, seed=args.seed):
        trace, _ = trace_pair(model, guide, rows)
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and is_latent(site) and any(f.name == "data" for f in site["cond_indep_stack"]):
            raise ValueError(
                f"pair {pair.name} has one latent '{name}' per datum, {len(rows[0])} in all: `nuts` is for global latents; "
                "in Python, run_nuts takes a few rows"
            )
    if any(p.requires_grad for p in getattr(model, "parameters", list)()):
        if not args.against or read_config(args.against)["pair"] != args.pair:
            raise ValueError(
                f"pair {pair.name} has parameters, which NUTS holds fixed: give a fitted run of it with --against RUN"
            )
        model, _ = load(args.against)
    sites = {name for name, site in trace.nodes.items() if site["type"] == "sample"}
    return model, rows, data.coords, sites


def guide_summary(run):
    """Summary of the draws of a run's guide."""
    from .inference import groups, summary

    read_config(run)
    try:
        return summary(groups.load(Path(run) / "posterior.nc"), prob=INTERVAL)
    except FileNotFoundError:
        raise RunError(f"{run}: has no posterior.nc; finish the fit, or run `pyrarchy report {run}`") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        path = Path(run) / "posterior.nc"
        raise DamagedRunError(
            f"{path}: cannot be read ({error}); run `pyrarchy report {run}` to make it again"
        ) from None


def forest(table, guide, name):
    """Intervals of the guide over those of NUTS, or of NUTS alone."""
    from . import plots

    def triples(summary):
        low, high = (c for c in summary.columns if c.startswith("eti"))
        return {v: (row["mean"], row[low], row[high]) for v, row in summary.iterrows()}

    nuts = triples(table)
    if guide is None:
        return plots.forest({"NUTS": nuts}, xlabel="value (mean and 90 % interval)")
    common = {v: t for v, t in triples(guide).items() if v in nuts}
    label = "value (mean and 90 % interval; reference: NUTS)"
    return plots.forest({name: common}, reference={v: nuts[v] for v in common}, xlabel=label)


def remarks(table, diverged, chains):
    """What speaks against the chains, in words."""
    found = []
    if diverged:
        found.append(f"{diverged} draws diverged: the posterior has a part that NUTS did not enter; reparameterise it")
    if chains > 1 and (worst := table["r_hat"].idxmax()) and table["r_hat"][worst] > 1.01:
        found.append(f"r_hat of {worst} is {table['r_hat'][worst]:.3f}, above 1.01: take more --samples or --warmup")
    if (low := table["ess_bulk"].idxmin()) and table["ess_bulk"][low] < 100 * chains:
        found.append(f"ess of {low} is {table['ess_bulk'][low]:.0f}, below 100 per chain: take more --samples")
    return found
