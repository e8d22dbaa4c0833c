"""Final figures of a fit: rates of the layers, posterior intervals, and how far the importance weights can be trusted."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from .plot_style import COLOURS, INK, MARKERS, MUTED, legend_above, need, short, single, styled

__all__ = ["forest", "k_hat_histogram", "k_hat_shares", "rate_bars"]

K_HAT_CLASSES = (("good", -np.inf, 0.5), ("usable", 0.5, 0.7), ("do not trust", 0.7, np.inf))
K_HAT_COLOURS = ("#009E73", "#E69F00", "#D55E00")


@styled
def forest(
    intervals: Mapping[str, Mapping[str, tuple]],
    reference: Mapping[str, tuple] | None = None,
    *,
    xlabel: str = "value (mean and interval)",
) -> Figure:
    """Means and intervals of several guides beside a reference posterior, a line per variable.

    Args:
        intervals: guide to variable to ``(mean, low, high)``; a variable that a guide lacks is left out for it.
        reference: variable to ``(mean, low, high)``, drawn as a grey band with a black mean.

    Raises:
        ValueError: no guides, a guide without variables, or ``low > high``.
    """
    need(intervals, "intervals")
    for guide, table in [*intervals.items(), *([("reference", reference)] if reference is not None else [])]:
        need(table, f"intervals of {guide!r}")
        for variable, triple in table.items():
            if len(triple) != 3 or not np.isfinite(triple).all() or triple[1] > triple[2]:
                raise ValueError(f"{guide!r}, {variable!r}: give finite (mean, low, high), low <= high, not {triple}")
    variables = list(dict.fromkeys([*(reference or {}), *(v for table in intervals.values() for v in table)]))
    figure, axes = single(max(2.2, 0.9 + len(variables) * max(0.34, 0.17 * (len(intervals) + 1))))
    handles, names = [], []
    for row, variable in enumerate(variables):
        if variable in (reference or {}):
            mean, low, high = reference[variable]
            axes.barh(row, high - low, left=low, height=0.86, color="#DDDDDD", linewidth=0)
            axes.plot([mean, mean], [row - 0.43, row + 0.43], color=INK, linewidth=1)
    for i, (guide, table) in enumerate(intervals.items()):
        offset = 0.7 * ((i + 0.5) / len(intervals) - 0.5)
        where = [variables.index(variable) + offset for variable in table]
        mean, low, high = np.array(list(table.values()), float).T
        colour = COLOURS[i % len(COLOURS)]
        axes.hlines(where, low, high, color=colour, linewidth=1.8)
        handles += axes.plot(mean, where, MARKERS[i % 4], color=colour, markersize=4)
        names.append(guide)
    if reference:
        handles.append(Patch(color="#DDDDDD"))
        names.append("reference")
    axes.set_yticks(range(len(variables)), [short(v, 24) for v in variables])
    axes.use_sticky_edges = False  # the bands would else end at the frame
    axes.autoscale_view(scaley=False)
    axes.set_ylim(len(variables) - 0.5, -0.5)  # the first variable on top
    axes.set_xlabel(xlabel)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    legend_above(figure, handles, names)
    return figure


@styled
def rate_bars(
    rates: Mapping[str, Mapping[str, float]],
    active: Mapping[str, Mapping[str, tuple]] | None = None,
    *,
    xlabel: str = "rate KL(q || p) (nats per datum)",
) -> Figure:
    """The rate of every layer, one bar per run, with its active units written behind it.

    Args:
        rates: run to site to nats per datum; a site that a run lacks is left out for it.
        active: run to site to ``(active units, units)``, for as many of the bars as are known.

    Raises:
        ValueError: no runs, a run without sites, or a rate that is not finite.
    """
    need(rates, "rates")
    for run, table in rates.items():
        need(table, f"rates of {run!r}")
        for site, rate in table.items():
            if not np.isfinite(rate):
                raise ValueError(f"run {run!r}, site {site!r}: the rate {rate} is not finite")
    sites = list(dict.fromkeys(site for table in rates.values() for site in table))
    figure, axes = single(max(1.8, 0.8 + len(sites) * max(0.4, 0.24 * len(rates)) + 0.2 * (len(rates) > 1)))
    height, handles, texts = 0.8 / len(rates), [], []
    for i, (run, table) in enumerate(rates.items()):
        where = [sites.index(site) + 0.8 * ((i + 0.5) / len(rates) - 0.5) for site in table]
        bars = axes.barh(where, list(table.values()), height=0.9 * height, color=COLOURS[i % len(COLOURS)])
        handles.append(bars)
        for y, (site, rate) in zip(where, table.items(), strict=True):
            text = f"{rate:.{2 if abs(rate) >= 0.1 else 3}f}"
            if active is not None and site in active.get(run, {}):
                text += "   {} of {} units active".format(*active[run][site])
            place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
            texts.append(axes.annotate(text, (max(rate, 0.0), y), fontsize=9, color=MUTED, **place))
            texts[-1].set_in_layout(False)  # or the layout would shrink the axes to make room
    lowest = min(0.0, *(rate for table in rates.values() for rate in table.values()))
    highest = max(max(rate for table in rates.values() for rate in table.values()), 1e-3)
    axes.set_yticks(range(len(sites)), [short(site, 24) for site in sites])
    axes.set_ylim(len(sites) - 0.5, -0.5)
    axes.set_xlim(lowest * 1.05, highest * 1.05)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    if len(rates) > 1:
        legend_above(figure, handles, list(rates))
    # The text behind a bar has a fixed width in pixels: lay out once, then widen the axis until the longest one fits.
    figure.draw_without_rendering()
    frame, left, right = axes.get_window_extent(), *axes.get_xlim()
    for text in texts:
        room = frame.width - (text.get_window_extent().width + 14)
        right = max(right, left + (max(text.xy[0], 0.0) - left) * frame.width / max(room, 1.0))
    axes.set_xlim(left, right)
    return figure


@styled
def k_hat_histogram(k: np.ndarray) -> Figure:
    """Pareto k-hat of every datum, over the bands good (<= 0.5), usable (<= 0.7) and do not trust.

    Args:
        k: (N,); plus or minus infinity is counted in the last or first bin.

    Raises:
        ValueError: no values, or NaN among them.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646
    """
    shares = k_hat_shares(k)
    k = np.asarray(k, float).ravel()
    finite = k[np.isfinite(k)]
    low, high = min(-0.2, *finite, 0.0), max(0.9, *finite, 0.0)
    # Bins of one width with an edge on both thresholds, so that no bar straddles two classes.
    width = max(0.05, round((high - low) / 60, 1))
    edges = np.arange(np.floor(low / width), np.ceil(high / width) + 1) * width
    edges = np.unique(np.concatenate([edges, [0.5, 0.7]]).round(6))
    figure, axes = single(3.0)
    for (_, left, right), colour in zip(K_HAT_CLASSES, K_HAT_COLOURS, strict=True):
        axes.axvspan(max(left, edges[0]), min(right, edges[-1]), color=colour, alpha=0.18, linewidth=0)
    # k on an edge belongs to the class below (k <= 0.5 is good), while numpy's bins are closed on the left.
    counts = np.histogram(-np.clip(k, edges[0], edges[-1]), bins=-edges[::-1])[0][::-1]
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#4D4D4D", edgecolor="white", linewidth=0.5)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(xlabel="Pareto k-hat", ylabel="data")
    bounds = ("k ≤ 0.5", "0.5 < k ≤ 0.7", "k > 0.7")
    names = [f"{name}: {share:.1%}\n{bound}" for (name, share), bound in zip(shares.items(), bounds, strict=True)]
    handles = [Patch(color=colour, alpha=0.35, linewidth=0) for colour in K_HAT_COLOURS]
    figure.legend(handles, names, loc="outside upper left", ncols=3, fontsize=9)
    return figure


def k_hat_shares(k: np.ndarray) -> dict[str, float]:
    """The share of data in each class of k-hat; the three sum to one.

    >>> k_hat_shares(np.array([0.1, 0.5, 0.6, np.inf]))
    {'good': 0.5, 'usable': 0.25, 'do not trust': 0.25}
    """
    k = np.asarray(k, float).ravel()
    if k.size == 0:
        raise ValueError("k is empty: give one k-hat per datum")
    if np.isnan(k).any():
        raise ValueError(
            f"{np.isnan(k).sum()} of {k.size} k-hats are NaN: they belong to no class; leave them out and say so"
        )
    return {
        name: float(np.mean((k > low) & (k <= high) | (np.isneginf(k) & np.isneginf(low))))
        for name, low, high in K_HAT_CLASSES
    }
