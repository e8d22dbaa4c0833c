"""Held-out log p(x): what is a bound and what is exact, the error over data and over weights, and whom to believe."""

import numpy as np
import xarray

from .section import EXACT, LOWER, LOWER_IN_EXPECTATION, Section, numbers, section


@section("held_out", "Held-out log p(x)")
def held_out(context):
    """log p(x), ELBO, k-hat and ESS of every datum, with the exact answer where the model has one."""
    grades, exact = context.evaluation, exact_log_p(context)
    if grades.num_samples == 0:  # coordinate ascent: nothing was sampled
        bound = xarray.Dataset({"elbo": numbers("data", grades.elbo, "nats for the data set", LOWER)})
        return Section(bound, [f"The bound, in closed form: {_text(grades.mean_elbo)} nats for the data set."])
    unit, k = context.unit, grades.num_samples
    per_weights = grades.errors_weights
    data = {
        "log_p": numbers("data", grades.log_p, unit, LOWER_IN_EXPECTATION, num_samples=k),
        "log_p_error": numbers("data", per_weights, unit, what="standard error of log_p over the weights"),
        "elbo": numbers("data", grades.elbo, unit, LOWER_IN_EXPECTATION),
        "k_hat": numbers("data", grades.k_hat, "1", what="Pareto shape of the weights; from 0.7 on do not trust"),
        "ess": numbers("data", grades.ess, "samples", what=f"effective number of the {k} samples"),
    }
    over_weights = grades.error_weights
    rows = [
        [f"ELBO ({LOWER})", _text(grades.mean_elbo), _error(grades.elbo), "–"],
        [f"log p(x), {k} samples ({LOWER})", _text(grades.mean_log_p), _error(grades.log_p), _figure(over_weights)],
    ]
    words = [_summary(context, grades, over_weights)]
    if exact is not None:
        data["exact_log_p"] = numbers("data", exact, unit, EXACT)
        rows.append([f"log p(x) ({EXACT})", _text(exact.mean()), _error(exact), "–"])
        gap = exact.mean() - grades.mean_log_p
        words.append(f"The exact log p(x) is {_text(exact.mean())}: the estimate is {_figure(abs(gap))} nats off.")
    words += trust(grades)
    figures = {}
    if len(grades.log_p) > 1:
        from .plots import histogram

        caption = (
            "Estimated log p(x) of every datum, in nats: the data on the left are those that the model explains worst."
        )
        figures["log_p"] = histogram(grades.log_p, "log p(x) (nats)"), caption
    attrs = {
        "mean_log_p": grades.mean_log_p,
        "error_over_data": grades.error_log_p,
        "error_over_weights": over_weights,
        "mean_elbo": grades.mean_elbo,
        "num_samples": k,
    }
    head = ("Estimate", unit, "± over data", "± over weights")
    return Section(xarray.Dataset(data, attrs=attrs), words, figures, (head, rows))


def exact_log_p(context):
    """(N,) where the model knows its log p(x), else ``None``."""
    import torch

    from .inference import isolated

    model = context.model
    with torch.no_grad(), isolated(model, context.guide):
        if hasattr(model, "log_evidence"):
            return np.array([model.log_evidence(*(part.double() for part in context.args)).item()])
        if hasattr(model, "log_marginal"):
            return model.log_marginal(*context.args).double().reshape(-1).cpu().numpy()
    return None


def trust(grades):
    """Sentences on k-hat and the effective sample size: whom to believe."""
    from .inference.psis import GOOD, USABLE

    k, n = grades.k_hat[~np.isnan(grades.k_hat)], len(grades.k_hat)
    if not k.size:
        return ["No k-hat: fewer than 25 importance samples have no tail to judge."]
    bad = int((~(k < USABLE)).sum())
    if n == 1:
        word = "untrustworthy: so are expectations under this guide" if bad else "good" if k[0] < GOOD else "usable"
        words = [f"k-hat is {k[0]:.2f}, {word}."]
    elif bad:
        words = [f"k-hat is 0.7 or more for {bad} of {n} data: their log p(x) is untrustworthy, most likely too low."]
    else:
        words = [f"k-hat is below 0.7 for all {n} data: no datum's weights have too heavy a tail to trust."]
    low, middle = grades.ess.min(), np.median(grades.ess)
    if n == 1:
        return [*words, f"{low:.0f} of the {grades.num_samples} samples are effective."]
    return [
        *words,
        f"Of {grades.num_samples} samples {middle:.0f} are effective for the median datum, {low:.0f} for the worst.",
    ]


def _summary(context, grades, over_weights):
    if len(grades.log_p) == 1:
        head = f"log p of the data set is estimated as {_text(grades.mean_log_p)} nats"
        return f"{head}, a lower bound in expectation; other weights would move it by about {_figure(over_weights)}."
    return (
        f"log p(x) is estimated as {_text(grades.mean_log_p)} {context.unit}, a lower bound in expectation. Its error is "
        f"{_error(grades.log_p)} over the {len(grades.log_p)} data, of which other weights would move it by about "
        f"{_figure(over_weights)}."
    )


def _error(values):
    return _figure(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else "–"


def _figure(value):
    """Two significant digits; a dash for what is not known."""
    if np.isnan(value):
        return "–"
    return f"{value:.2g}" if value == 0 or value >= 1e-4 else "< 0.0001"


def _text(value):
    return f"{value:.2f}".replace("-", "−")
