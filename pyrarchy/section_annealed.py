"""log p(x) by annealed chains, which need no good guide, and between two bounds on data that the model made itself."""

import numpy as np
import xarray

from .section import EXACT, LOWER, LOWER_IN_EXPECTATION, UPPER_IN_EXPECTATION, Section, numbers, section

CHAINS, TEMPERATURES = 10, 100
ROWS = 50  # of local latents: annealing costs thousands of passes
REPEATS = 3  # simulated data sets where all latents are global
CLEAR = 0.05  # nats: a smaller difference is not worth a word


@section("ais", "log p(x) by annealed chains", long=True)
def annealed(context):
    """AIS on the first data, beside the importance samples' figure for the same."""
    from .inference import ais

    args, grades = first_rows(context), context.evaluation
    start = context.guide if grades.rates else None  # a joint guide has no density per site to start from
    found = ais(context.model, start, *args, **options(context))
    unit = context.unit
    data = {
        "log_p": numbers("data", found.log_p, unit, LOWER_IN_EXPECTATION, num_chains=CHAINS),
        "log_p_error": numbers("data", found.errors_weights, unit, what="standard error over the chains"),
        "ess": numbers("data", found.ess, "chains", what=f"effective number of the {CHAINS} chains"),
        "accept": numbers("data", found.accept, "1", what="mean acceptance of the Hamiltonian steps"),
    }
    num = len(found.log_p)
    gain = found.log_p - grades.log_p[:num]
    samples = np.sqrt(np.square(grades.errors_weights[:num]).sum()) / num
    error = float(np.hypot(found.error_weights, samples))
    words = [
        f"{CHAINS} chains over {TEMPERATURES} temperatures from {'the prior' if start is None else 'the guide'}, on "
        f"{'the data set' if num == 1 else f'{num} data'}: {_mean(found.log_p)} {unit}, a lower bound in expectation. The "
        f"importance samples' figure for the same is {_mean(found.log_p - gain)}.",
        _verdict(gain.mean(), error),
    ]
    return Section(xarray.Dataset(data, attrs={"num_chains": CHAINS, "num_temperatures": TEMPERATURES}), words)


def _verdict(gain, error):
    if gain > max(3 * error, CLEAR):
        return f"Annealing gains {gain:.2f} ± {error:.2g} nats: by so much the importance samples are too low."
    if gain < -max(3 * error, CLEAR):
        return f"The chains are {-gain:.2f} ± {error:.2g} nats lower: they would need more temperatures."
    shown = f"{gain:.2f}".replace("-", "−")
    return f"The two agree (difference {shown} ± {error:.2g} nats): no sign of mass that the guide misses."


@section("bdmc", "log p(x) between two bounds, on simulated data", long=True)
def sandwich(context):
    """Bidirectional Monte Carlo on data from the model: lower and upper bound, and the exact answer where known."""
    from .inference import bdmc

    args, unit = first_rows(context), context.unit
    start, repeats = context.guide, 1
    if context.is_global:  # a guide fitted to one data set says nothing of another (see bdmc)
        start, repeats = None, REPEATS
    found = bdmc(context.model, start, *args, repeats=repeats, **options(context))
    data = {
        "lower": numbers("simulated", found.lower, unit, LOWER_IN_EXPECTATION),
        "upper": numbers("simulated", found.upper, unit, UPPER_IN_EXPECTATION),
    }
    rows = [[f"chains up ({LOWER})", *_mean_and_error(found.lower)]]
    if found.exact is not None:
        data["exact"] = numbers("simulated", found.exact, unit, EXACT)
        rows.append([f"log p(x) ({EXACT})", *_mean_and_error(found.exact)])
    rows.append(["chains down (upper bound)", *_mean_and_error(found.upper)])
    rows.append(["gap", *_mean_and_error(found.upper - found.lower)])
    what = f"{len(found.lower)} data{' sets' if context.is_global else ''} simulated from the model itself"
    words = [
        f"On {what}, where chains can also walk down from the true latents, log p(x) lies between {_mean(found.lower)} and "
        f"{_mean(found.upper)} {unit}, in expectation.",
        f"The gap of {found.gap:.2g} ± {found.gap_error:.2g} nats bounds the error of both: so well do {CHAINS} chains over "
        f"{TEMPERATURES} temperatures work for this model, if the data are like what it simulates.",
    ]
    attrs = {"gap": found.gap, "gap_error": found.gap_error, "num_chains": CHAINS, "num_temperatures": TEMPERATURES}
    return Section(xarray.Dataset(data, attrs=attrs), words, {}, (("Estimate", unit, "± over data"), rows))


def options(context):
    """Those that both share."""
    sizes = {"num_chains": CHAINS, "num_temperatures": TEMPERATURES}
    return {**sizes, "plates": context.plates, "seed": context.seed}


def first_rows(context):
    """The first data of a local model, everything of a global one."""
    return context.args if context.is_global else tuple(part[:ROWS] for part in context.args)


def _mean(values):
    return f"{values.mean():.2f}".replace("-", "−")


def _mean_and_error(values):
    return _mean(values), f"{values.std(ddof=1) / len(values) ** 0.5:.2g}" if len(values) > 1 else "–"
