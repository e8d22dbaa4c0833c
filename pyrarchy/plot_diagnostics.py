"""Pictures of diagnostics: a histogram with marks, and the rates of units."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .plot_style import COLOURS, INK, MUTED, need, short, single, styled

__all__ = ["histogram", "unit_bars"]


@styled
def histogram(
    values: np.ndarray, xlabel: str, *, marks: Mapping[str, float] | None = None, ylabel: str = "data"
) -> Figure:
    """A histogram of numbers, and named marks beside them.

    Args:
        values: (N,); NaN and infinities are left out.
        marks: name to position, drawn as dashed lines.

    Raises:
        ValueError: no finite value.

    >>> len(histogram(np.arange(20.0), "nats").axes[0].patches) > 3
    True
    """
    values = np.asarray(values, float).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        raise ValueError("there is no finite value to draw")
    figure, axes = single(2.8)
    axes.hist(values, bins=min(50, max(5, round(2 * values.size ** (1 / 3)))), color=COLOURS[0], edgecolor="white")
    for i, (name, at) in enumerate((marks or {}).items()):
        axes.axvline(at, color=INK, linestyle="--", linewidth=1)
        place = {"xytext": (4, -10 - 12 * i), "textcoords": "offset points", "fontsize": 9, "color": MUTED}
        axes.annotate(short(name, 30), (at, 1), xycoords=("data", "axes fraction"), **place)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@styled
def unit_bars(rates: Mapping[str, np.ndarray], *, threshold: float = 0.01) -> Figure:
    """The rate of every unit, a panel per layer, the largest first, on a logarithmic axis.

    Args:
        rates: site to (units,) nats per datum; what is below a hundredth of the threshold is drawn there.
        threshold: the dashed line.

    Raises:
        ValueError: no sites.

    >>> len(unit_bars({"z2": np.array([0.3, 0.0]), "z1": np.array([1.0, 2.0, 0.5])}).axes)
    2
    """
    need(rates, "rates")
    figure = Figure(figsize=(5.4, 0.5 + 1.5 * len(rates)), layout="constrained")
    panels = figure.subplots(len(rates), squeeze=False)[:, 0]
    floor = threshold / 100
    highest = max(float(np.max(r)) for r in rates.values())
    for axes, (site, values) in zip(panels, rates.items(), strict=True):
        values = np.sort(np.maximum(np.asarray(values, float), floor))[::-1]
        colours = [COLOURS[0] if value >= threshold else COLOURS[1] for value in values]
        axes.bar(np.arange(values.size), values, color=colours, width=0.85)
        axes.axhline(threshold, color=INK, linestyle="--", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_ylim(floor, max(highest, threshold) * 1.6)
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.set_xticks([])
        axes.set_ylabel("nats")
        axes.set_title(f"{short(site, 24)}: {values.size} units", loc="left", fontsize=9)
        axes.grid(axis="y")
    return figure
