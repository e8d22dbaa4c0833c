"""Gallery pictures of chains in time: series, and the band in which the posterior puts the signal beneath the noise."""

import numpy as np

import pyrarchy
from pyrarchy import plots
from pyrarchy.apply_command import rows_of
from pyrarchy.placement import to_tensors
from pyrarchy.plot_style import COLOURS, INK, WIDTH, single, styled

DRAWS = 400
SHOWN = 6


def band(pair, run, num):
    """Rows (num, T) of a run's data, and mean and 5 % and 95 % points of E[x | z] over draws of z, each (num, T)."""
    import torch

    from pyrarchy.inference import decode, encode

    model, guide = pyrarchy.load(run)
    rows = to_tensors(rows_of(run, pair.data))[:num]
    draws = encode(model, guide, rows, draws=DRAWS)
    flat = {name: torch.from_numpy(z.reshape(-1, *z.shape[2:])) for name, z in draws.items()}
    signal = decode(model, (rows,), flat)["x"].reshape(DRAWS, len(rows), -1)
    return rows.numpy(), signal.mean(0), *np.quantile(signal, [0.05, 0.95], 0)


def long_series(pair, run):
    """One series over its whole length."""
    names = pyrarchy.load_data(pair.data).coords["column"]
    figure = one_series(np.array([int(name) for name in names]), *(part[0] for part in band(pair, run, 1)))
    return plots.png(figure), "Annual flow (dots), and the level given all years: mean and 90 % band."


@styled
def one_series(steps, rows, mean, low, high):
    """Dots, a line and its band over time."""
    figure, axes = single(3.0)
    axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(steps, mean, color=COLOURS[0], linewidth=1.6)
    axes.plot(steps, rows, "o", color=INK, markersize=2.5)
    axes.set(xlabel="year", ylabel="flow of the Nile (10^8 cubic metres)")
    return figure


def short_series(pair, run):
    """Several held-out series side by side."""
    months = pyrarchy.load_data(pair.data).coords["column"]
    figure = several(months, *band(pair, run, SHOWN))
    caption = "Six held-out years: degrees above the usual (dots), and the signal given the year: mean and 90 % band."
    return plots.png(figure), caption


@styled
def several(names, rows, mean, low, high):
    """Small panels with common axes, a series in each."""
    from matplotlib.figure import Figure

    figure, steps = Figure(figsize=(WIDTH, 3.4), layout="constrained"), np.arange(len(names))
    for i, axes in enumerate(figure.subplots(2, SHOWN // 2, sharex=True, sharey=True).flat):
        axes.axhline(0, color="#CCCCCC", linewidth=0.8)
        axes.fill_between(steps, low[i], high[i], color=COLOURS[0], alpha=0.25, linewidth=0)
        axes.plot(steps, mean[i], color=COLOURS[0], linewidth=1.4)
        axes.plot(steps, rows[i], "o", color=INK, markersize=2.5)
        axes.set_xticks(steps[:: len(steps) // 3], names[:: len(steps) // 3])
    figure.supylabel("degrees above the month's mean", fontsize=10)
    return figure


DRAW = {"LocalLevel": long_series, "LinearStateSpace": short_series, "DeepMarkov": short_series}
