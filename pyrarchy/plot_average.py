"""Marginals of the average posterior against the prior's, a panel for each unit."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .plot_style import COLOURS, DASHES, WIDTH, legend_above, styled

__all__ = ["average_marginals"]


@styled
def average_marginals(draws: np.ndarray, prior: np.ndarray, *, name: str = "z", most: int = 6) -> Figure:
    """Log densities of the units that differ most from the prior; where the two agree the lines lie on each other.

    The scale is logarithmic, because it is in the tails that a prior is mostly wrong. Units are ordered by the largest
    distance between their two distribution functions (Kolmogorov-Smirnov's), which each title gives.

    Args:
        draws: (M, D) of the average posterior, or (S, N, D).
        prior: (P, D) of the prior.
        most: panels at most.

    Raises:
        ValueError: no draws, other than two or three dimensions, numbers of units that differ, values that are not finite.
    """
    draws, prior = np.asarray(draws, float), np.asarray(prior, float)
    if draws.ndim == 3:
        draws = draws.reshape(-1, draws.shape[-1])
    if draws.ndim != 2 or prior.ndim != 2 or draws.shape[1] != prior.shape[1] or 0 in (*draws.shape, *prior.shape):
        raise ValueError(
            f"draws of shape {draws.shape} and prior of shape {prior.shape}; give (M, D) and (P, D) of the same units"
        )
    for what, values in (("draws", draws), ("prior", prior)):
        if not np.isfinite(values).all():
            raise ValueError(f"{what} have {np.sum(~np.isfinite(values))} values that are not finite; leave those out")
    apart = np.array([_distance(a, b) for a, b in zip(draws.T, prior.T, strict=True)])
    units = np.argsort(-apart, kind="stable")[:most]
    columns = min(3, len(units))
    rows = math.ceil(len(units) / columns)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.55 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    looks = [{"color": COLOURS[i], "linestyle": DASHES[i], "linewidth": 1.4} for i in range(2)]
    for panel in panels[len(units) :]:
        panel.remove()
    for panel, unit in zip(panels, units, strict=False):
        both = np.concatenate([draws[:, unit], prior[:, unit]])
        low, high = np.quantile(both, [0.001, 0.999])  # a Cauchy's draws would leave no room for the rest
        edges = np.linspace(low, high, 41) if high > low else np.linspace(low - 1, low + 1, 41)
        for values, look in zip((draws, prior), looks, strict=True):
            counts = np.histogram(values[:, unit], edges)[0] / (len(values) * np.diff(edges))
            panel.stairs(np.where(counts > 0, counts, np.nan), edges, baseline=None, **look)
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")  # the house style sets no mathematics
        panel.minorticks_off()
        panel.set_title(f"{name}[{unit}], KS {apart[unit]:.2f}", fontsize=9)
    for panel in panels[: len(units) : columns]:
        panel.set_ylabel("density")
    legend_above(figure, [Line2D([], [], **look) for look in looks], ["average posterior", "prior"])
    return figure


def _distance(a, b):
    """Largest distance between the empirical distribution functions of two samples."""
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    return np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max()
