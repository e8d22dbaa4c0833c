"""Latent codes in the plane, coloured by label."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .plot_style import COLOURS, DASHES, MARKERS, legend_above, single, styled

__all__ = ["latent_scatter"]


@styled
def latent_scatter(z: np.ndarray, labels: Sequence | None = None, *, name: str = "z") -> Figure:
    """Codes in the plane, coloured by label: as they are for two units, their first two principal axes for more.

    One unit is drawn as a histogram per label. The sign of a principal axis is fixed by making its largest loading
    positive, so that equal codes give equal pictures. More than 20 different numbers as labels become a colour bar.

    Args:
        z: (N, d) posterior means or samples.
        labels: (N,) or None.

    Raises:
        ValueError: no codes, not two dimensions, values that are not finite, labels that do not number N.
    """
    z = np.asarray(z, float)
    if z.ndim != 2 or z.size == 0:
        raise ValueError(f"z has shape {z.shape}; give codes of shape (N, d) with N, d > 0")
    if not np.isfinite(z).all():
        raise ValueError(f"z has {np.sum(~np.isfinite(z))} values that are not finite; leave those data out")
    if labels is not None and len(labels) != len(z):
        raise ValueError(f"{len(labels)} labels for {len(z)} codes; give one label per code")
    figure, axes = single(3.2 if z.shape[1] == 1 else 4.4)
    if z.shape[1] == 1:
        groups = _groups(labels, len(z))
        edges, handles = np.histogram_bin_edges(z, bins=30), []
        for i, member in enumerate(groups.values()):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % 4], "linewidth": 1.4}
            axes.hist(z[member, 0], bins=edges, histtype="step", **style)
            handles.append(Line2D([], [], **style))
        axes.set(xlabel=name, ylabel="data")
        if labels is not None:
            legend_above(figure, handles, [str(g) for g in groups])
        return figure
    if z.shape[1] == 2:
        points, axis_names = z, [f"{name}[0]", f"{name}[1]"]
    else:
        centred = z - z.mean(0)
        _, singular, axes_in_z = np.linalg.svd(centred, full_matrices=False)
        largest = np.take_along_axis(axes_in_z, np.abs(axes_in_z).argmax(1)[:, None], 1)
        # One code has one singular vector: the second coordinate is then zero.
        points = np.zeros((len(z), 2))
        kept = (centred @ (axes_in_z * np.where(largest < 0, -1.0, 1.0)).T)[:, :2]
        points[:, : kept.shape[1]] = kept
        share = np.zeros(2)
        share[: min(2, len(singular))] = (singular**2 / max((singular**2).sum(), np.finfo(float).tiny))[:2]
        axis_names = [f"{name}: principal axis {i + 1} ({s:.0%} of variance)" for i, s in enumerate(share)]
    points_by_label(figure, axes, points, labels)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def _groups(labels, number):
    """Label to the indices that carry it, labels in their sorted order (as text if they do not compare)."""
    if labels is None:
        return {"": np.arange(number)}
    labels = list(labels.tolist() if isinstance(labels, np.ndarray) else labels)
    different = list(dict.fromkeys(labels))
    if not all(isinstance(label, str) for label in different):
        different.sort()
    if len(different) > 20:
        raise ValueError(f"{len(different)} different labels: no one can tell more than 20 apart; group them first")
    return {label: np.array([i for i, other in enumerate(labels) if other == label]) for label in different}


def points_by_label(figure, axes, points, labels):
    """Scatter of (N, 2) points by label: fainter the more there are, the largest group at the back."""

    def look(number):
        size, alpha = np.clip(6000 / number, 9, 30), np.clip(300 / number, 0.55, 0.9)
        return {"s": float(size), "alpha": float(alpha), "linewidths": 0}

    values = None if labels is None else np.asarray(labels)
    if values is not None and values.dtype.kind in "iuf" and len(np.unique(values)) > 20:
        drawn = axes.scatter(*points.T, c=values, cmap="viridis", **look(len(points)))
        figure.colorbar(drawn, ax=axes, label="label").solids.set_alpha(1)
        return
    handles, groups = [], _groups(labels, len(points))
    for i, member in enumerate(groups.values()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % 4]}
        axes.scatter(
            *points[member].T, zorder=2 - len(member) / len(points), **style, **look((len(member) * len(points)) ** 0.5)
        )
        handles.append(Line2D([], [], linestyle="", markersize=6, **style))
    if labels is not None:
        legend_above(figure, handles, [str(g) for g in groups])
