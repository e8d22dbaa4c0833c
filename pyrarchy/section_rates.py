"""Rates per layer and per unit, active units, and collapse called by its name."""

import numpy as np
import xarray

from .section import NotApplicable, Section, numbers, section


@section("rates", "Layers and units")
def rates(context):
    """KL(q || p) of every layer and unit, and a sentence on each layer."""
    grades = context.evaluation
    if not grades.rates:
        raise NotApplicable("the guide has no density per latent site (a joint guide, or a bound in closed form)")
    words = grades.layers()
    layers, active = list(words), grades.active_units()
    unit = "nats for the data set" if len(grades.log_p) == 1 and not grades.variances else "nats per datum"
    data = {
        "rate": numbers("layer", [grades.rates[n] for n in layers], unit, what="mean KL(q || p), given those above")
    }
    if active:
        counts = np.array([active.get(name, (-1, -1)) for name in layers])
        what = "units whose posterior mean varies over the data by more than 0.01; -1 where not counted"
        data["active_units"] = numbers("layer", counts[:, 0], "units", what=what)
        data["units"] = numbers("layer", counts[:, 1], "units")
    for name in layers:
        if name in grades.unit_rates:
            what = "KL(q || p) of each unit, of q's marginals where q is joint"
            data[f"rate_{name}"] = numbers(f"{name}_unit", grades.unit_rates[name], unit, what=what)
        if name in grades.variances:
            what = "variance over the data of the posterior mean"
            data[f"variance_{name}"] = numbers(f"{name}_unit", grades.variances[name], "squared units", what=what)
    figures = {}
    shown = {n: grades.unit_rates[n] for n in layers if n in grades.unit_rates and grades.unit_rates[n].size > 1}
    if shown:
        from .plots import unit_bars

        caption = (
            "Rate of every unit, in nats, the largest first; units below the dashed line (0.01 nats) carry nothing."
        )
        figures["unit_rates"] = unit_bars(shown), caption
    return Section(xarray.Dataset(data, {"layer": layers}), list(words.values()), figures)
