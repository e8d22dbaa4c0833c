"""Calibration: the ranks of Bayes' loop against uniform, expected coverage, and replicated data beside the data."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .plot_style import COLOURS, DASHES, INK, MUTED, WIDTH, legend_above, need, short, single, styled

__all__ = ["ecdf_band", "rank_ecdf", "replicates"]

BAND = "#DDDDDD"


def ecdf_band(
    num: int, num_draws: int, *, level: float = 0.95, seed: int = 0, simulations: int = 2000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A band that holds the whole ECDF of ``num`` uniform ranks with probability ``level``.

    At each point the band is a central binomial interval; their common pointwise level is the one at which ``level`` of
    simulated samples stay inside everywhere.

    Args:
        num: S, ranks in a sample, each uniform on 0..``num_draws``.
        level: probability of no excursion anywhere, for one sample.
        seed, simulations: of the samples that calibrate the band.

    Returns:
        points (K,) in (0, 1), and the lowest and highest ECDF - point inside the band, (K,) each.

    Source: Säilynoja, Bürkner, Vehtari (2022), Graphical test for discrete uniformity, https://arxiv.org/abs/2103.10522
    (their first method, by simulation)

    >>> points, low, high = ecdf_band(200, 3)
    >>> points, bool((low < 0).all() and (high > 0).all())
    (array([0.25, 0.5 , 0.75]), True)
    """
    if num < 1 or num_draws < 1 or not 0 < level < 1:
        raise ValueError(
            f"num = {num}, num_draws = {num_draws}, level = {level} given: positive sizes, level in (0, 1)"
        )
    points = np.arange(1, num_draws + 1) / (num_draws + 1)
    tail = _two_tails(num, points)
    rng, least = np.random.default_rng(seed), []
    for start in range(0, simulations, 500):
        size = min(500, simulations - start)
        counts = rng.multinomial(num, np.full(num_draws + 1, 1 / (num_draws + 1)), size).cumsum(1)[:, :-1]
        least.append(tail[np.arange(num_draws), counts].min(1))
    inside = tail >= np.quantile(np.concatenate(least), 1 - level)
    low, high = inside.argmax(1), num - inside[:, ::-1].argmax(1)
    return points, low / num - points, high / num - points


def _two_tails(num, points):
    """Twice the smaller of P(X <= k) and P(X >= k) for X ~ Binomial(num, point): (K, num + 1)."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num + 1)))])
    k = np.arange(num + 1)
    choose = logs[-1] - logs[k] - logs[num - k]
    mass = np.exp(choose + k * np.log(points[:, None]) + (num - k) * np.log1p(-points[:, None]))
    return 2 * np.minimum(mass.cumsum(1), mass[:, ::-1].cumsum(1)[:, ::-1])


@styled
def rank_ecdf(
    ranks: Mapping[str, np.ndarray],
    num_draws: int,
    *,
    level: float = 0.95,
    most: int = 6,
    xlabel: str = "rank of the truth among the draws, as a fraction",
) -> Figure:
    """ECDF of ranks minus the uniform's, over a band that holds a uniform line entirely with probability ``level``.

    A line that stays above is a guide whose draws lie too high, one that stays below a guide whose draws lie too low. A
    line above on the left and below on the right is an overconfident guide (the truth lies at the ends), its mirror image
    an underconfident one.

    Args:
        ranks: quantity to its ranks (S,), integers in 0..``num_draws``; all of one length.
        most: how many lines have a colour: those that leave the band furthest; the others are thin and grey.

    Raises:
        ValueError: no quantities, ranks outside 0..``num_draws``, or lengths that differ.
    """
    need(ranks, "ranks")
    columns = {name: np.asarray(column) for name, column in ranks.items()}
    num = len(next(iter(columns.values())))
    for name, column in columns.items():
        if column.shape != (num,) or num == 0:
            raise ValueError(
                f"quantity {name!r} has ranks of shape {column.shape}; give vectors of one length, not empty"
            )
        if column.min() < 0 or column.max() > num_draws:
            raise ValueError(f"quantity {name!r}: ranks {column.min()} to {column.max()} are not in 0..{num_draws}")
    points, low, high = ecdf_band(num, num_draws, level=level)
    grid = np.concatenate([[0.0], points, [1.0]])
    lines = {}
    for name, column in columns.items():
        counts = np.bincount(column, minlength=num_draws + 1).cumsum()[:-1]
        lines[name] = np.concatenate([[0.0], counts / num - points, [0.0]])
    outside = {n: float(np.max(np.maximum(line[1:-1] / high, line[1:-1] / low))) for n, line in lines.items()}
    shown = set(sorted(outside, key=outside.get, reverse=True)[:most])
    figure, axes = single(3.4)
    axes.fill_between(grid, np.concatenate([[0], low, [0]]), np.concatenate([[0], high, [0]]), color=BAND, linewidth=0)
    handles, names = [Patch(color=BAND)], [f"uniform, {level:.0%} of lines inside"]
    for name, line in lines.items():
        if name not in shown:
            axes.plot(grid, line, color=MUTED, linewidth=0.5, alpha=0.6, drawstyle="steps-post")
            continue
        i = len(handles) - 1
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % 4], "linewidth": 1.4}
        handles += axes.plot(grid, line, drawstyle="steps-post", **style)
        names.append(short(name, 24))
    axes.set_xlim(0, 1)
    axes.set(xlabel=xlabel, ylabel="ECDF − uniform")
    axes.grid(axis="y")
    legend_above(figure, handles, names)
    return figure


@styled
def replicates(tables: Mapping[str, tuple]) -> Figure:
    """Statistics of replicated data as histograms, with the data's own value as a line and its p.

    Args:
        tables: statistic to ``(replicated (D,), observed, p)``.

    Raises:
        ValueError: no statistics, or values that are not finite.
    """
    need(tables, "tables")
    columns = 2 if len(tables) in (2, 4) else min(3, len(tables))
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(WIDTH, 0.4 + 1.7 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (name, (drawn, observed, p)) in zip(panels, tables.items(), strict=False):
        drawn = np.asarray(drawn, float).ravel()
        if not drawn.size or not np.isfinite(drawn).all() or not np.isfinite(observed):
            raise ValueError(f"statistic {name!r}: replicated and observed values must be finite, and not empty")
        axes.hist(drawn, bins=min(30, max(5, int(drawn.size**0.5))), color="#56B4E9", linewidth=0)
        axes.axvline(observed, color=INK, linewidth=1.5)
        axes.set_title(f"{short(name, 12)}  p = {p:.2g}", fontsize=9)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=3)
    for axes in panels[len(tables) :]:
        axes.remove()
    legend_above(figure, [Patch(color="#56B4E9"), panels[0].lines[0]], ["replicated data", "the data"])
    return figure
