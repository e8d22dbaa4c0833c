"""Losses and bounds against the step."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from .plot_style import COLOURS, DASHES, MUTED, legend_above, need, single, styled

__all__ = ["loss_curves"]


@styled
def loss_curves(
    curves: Mapping[str, tuple], *, ylabel: str = "loss (nats per datum)", xlabel: str = "step", log_x: bool = False
) -> Figure:
    """Loss or bound against the step, one colour per run: a running mean (a fiftieth of the run), raw values faint.

    The vertical frame holds each run's running mean from a twentieth of its length on, so that the first steps do not
    flatten the rest (with ``log_x``, which is there to show them, from the square root of its length on); where values
    are cut off, the figure says so. Values that are not finite leave a gap.

    Args:
        curves: run to ``(steps, values)``, both of shape (T,), values in nats per datum; T may differ between runs.
        log_x: a logarithmic step axis; all steps must then be positive.

    Raises:
        ValueError: no runs, a run without a finite value, lengths that differ, steps below 1 with ``log_x``.

    >>> figure = loss_curves({"vae": (np.arange(1, 4), np.array([9.0, 5.0, 4.0]))})
    >>> figure.axes[0].lines[-1].get_ydata()
    array([9., 5., 4.])
    """
    need(curves, "curves")
    figure, axes = single(3.4)
    lows, highs, handles, cut = [], [], [], False
    for i, (name, (steps, values)) in enumerate(curves.items()):
        steps, values = np.asarray(steps, float), np.asarray(values, float)
        if steps.ndim != 1 or steps.shape != values.shape:
            raise ValueError(
                f"run {name!r}: steps have shape {steps.shape} and values {values.shape}; give vectors of one length"
            )
        if not np.isfinite(values).any():
            raise ValueError(f"run {name!r} has no finite value to draw ({values.size} values given)")
        if log_x and steps.min() <= 0:
            raise ValueError(f"run {name!r} has step {steps.min():g}: with log_x count the steps from 1")
        colour, smooth = COLOURS[i % len(COLOURS)], _running_mean(values, max(1, len(values) // 50))
        if len(values) >= 100:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
        marker = "o" if np.isfinite(smooth).sum() == 1 else None  # a line of one point would be invisible
        handles += axes.plot(steps, smooth, color=colour, linestyle=DASHES[i % 4], linewidth=1.6, marker=marker)
        settled = smooth[_settled_from(len(smooth), log_x) :]
        settled = settled[np.isfinite(settled)] if np.isfinite(settled).any() else smooth[np.isfinite(smooth)]
        lows.append(settled.min())
        highs.append(settled.max())
    low, high = min(lows), max(highs)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - pad, high + pad)
    for _, values in curves.values():
        values = np.asarray(values, float)[: max(1, _settled_from(len(values), log_x))]
        cut |= bool(np.any((values < low - pad) | (values > high + pad)))
    if cut:
        axes.set_title("the first steps lie outside the frame", loc="right", fontsize=8, color=MUTED)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y")
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if np.ptp(np.concatenate([steps for steps, _ in curves.values()])) == 0:
            axes.set_xlim(steps[0] - 2, steps[0] + 2)  # a single step: no ticks between the whole numbers
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}" if step >= 1 or step <= 0 else ""))
    legend_above(figure, handles, list(curves))
    return figure


def _settled_from(length, log_x):
    return round(length**0.5) - 1 if log_x else length // 20


def _running_mean(values, window):
    """Mean of the finite values within half a window either side (fewer at the ends); NaN where there are none."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(values))
    first, last = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(values))
    number = count[last] - count[first]
    mean = (total[last] - total[first]) / np.maximum(number, 1)
    return np.where(finite, mean, np.nan) if window > 1 else np.where(finite, values, np.nan)
