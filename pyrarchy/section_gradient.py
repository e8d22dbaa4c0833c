"""How noisy the ELBO's gradient is where the fit stopped."""

import math

import xarray

from .section import Section, numbers, section

ROWS, DRAWS = 50, 100
NOISE = math.sqrt(2 / (math.pi * DRAWS))  # mean of |mean of the draws| / sd, where the true mean is 0


@section("gradient", "Noise of the gradient", long=True)
def gradient(context):
    """Signal-to-noise ratio of the ELBO's gradient, averaged over the parameters of model and guide."""
    from .inference import ELBO, gradient_snr

    objective = ELBO(plates=context.plates)
    args = context.args if context.is_global else tuple(part[:ROWS] for part in context.args)
    found = gradient_snr(context.model, context.guide, args, objective, draws=DRAWS, seed=context.seed)
    sides = [side for side in ("model", "guide") if any(name.startswith(f"{side}.") for name in found.mean)]
    values = {side: found.average(side) for side in sides}
    data = {
        "snr": numbers(
            "side", [v for v, _ in values.values()], "1", what="|mean| / sd of a gradient, mean over parameters"
        ),
        "error": numbers("side", [e for _, e in values.values()], "1"),
    }
    words = [
        f"The {side}'s gradient has a signal-to-noise ratio of {value:.3f} ± {error:.1g}, mean over its parameters."
        for side, (value, error) in values.items()
    ]
    words.append(
        f"This is of the ELBO with one sample, on {len(args[0])} data, by {DRAWS} draws; pure noise, as at an optimum, "
        f"would show {NOISE:.3f}."
    )
    return Section(xarray.Dataset(data, {"side": sides}), words)
