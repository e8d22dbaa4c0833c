"""Whether a guide's draws can stand for a global posterior, and leave-one-out where they can."""

import numpy as np
import xarray

from .section import NotApplicable, Section, numbers, section

DRAWS, SEEDS = 10_000, 5


@section("posterior_k_hat", "Can the draws stand for the posterior?", long=True)
def posterior_k_hat(context):
    """k-hat of all latents together, by five seeds; resampling is offered or refused by it."""
    if not context.is_global:
        raise NotApplicable("every latent belongs to a datum: k-hat is one per datum, in held_out")
    from .inference import global_k_hat
    from .inference.psis import USABLE

    options = {"num_samples": DRAWS, "seeds": SEEDS, "plates": context.plates, "seed": context.seed}
    found = global_k_hat(context.model, context.guide, context.args, **options)
    words = [f"{found}.".replace("k-hat", "k-hat is", 1)]
    offered = found.median < USABLE
    if offered:
        words.append("Resampled by smoothed weights, the draws become the posterior's: see inference.psis_posterior.")
    else:
        words.append(
            "Untrustworthy: resampling is refused, and intervals are the guide's, not the posterior's. Take a richer guide, "
            "another form of the model, or NUTS."
        )
    what = "Pareto shape of the weights of all latents together; from 0.7 on do not trust"
    data = {"k_hat": numbers("seed", np.array(found.values), "1", what=what)}
    resampling = "offered" if offered else "refused"
    attrs = {"median": found.median, "word": found.word, "num_samples": DRAWS, "resampling": resampling}
    return Section(xarray.Dataset(data, attrs=attrs), words)


@section("loo", "Leave-one-out", long=True)
def leave_one_out(context):
    """PSIS-LOO of the model, corrected for the guide's draws not being of the posterior."""
    if not context.is_global:
        raise NotApplicable("every latent belongs to a datum: held_out scores data that the parameters have not seen")
    from .inference import loo
    from .inference.psis import USABLE

    found = loo(context.model, context.guide, context.args, num_samples=DRAWS, plates=context.plates, seed=context.seed)
    each, shape = np.ravel(np.asarray(found["elpd_i"])), np.ravel(np.asarray(found["pareto_k"]))
    error = float(each.std() * len(each) ** 0.5)
    data = {
        "elpd": numbers("left_out_datum", each, "nats", what="log p(y_i | all other data), by importance sampling"),
        "k_hat": numbers("left_out_datum", shape, "1", what="Pareto shape of the weights that leave it out"),
    }
    bad = int((~(shape < USABLE)).sum())
    total = f"{each.sum():.2f}".replace("-", "−")
    words = [
        f"Expected log predictive density of {len(each)} data, each left out in turn: {total} ± {error:.2f} nats.",
        f"k-hat is 0.7 or more for {bad} of them, which are untrustworthy." if bad else "No datum's k-hat reaches 0.7.",
    ]
    return Section(xarray.Dataset(data, attrs={"elpd": float(each.sum()), "elpd_error": error}), words)
