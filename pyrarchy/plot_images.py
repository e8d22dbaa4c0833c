"""Images pixel by pixel in labelled lines, and heat maps for data that are no images."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .plot_codes import points_by_label
from .plot_style import DPI, WIDTH, need, short, single, styled

__all__ = ["image_grid", "interpolations", "profile_grid", "traversals"]

FRAME = "#C8C8C8"  # round each image, so that a white edge does not melt into the page


def image_grid(
    rows: Mapping[str, np.ndarray], image_shape: tuple | None, *, columns: int = 10, limits: tuple | None = (0.0, 1.0)
) -> Figure:
    """Rows of images under their labels, as for inputs, reconstructions and prior samples, pixel by pixel.

    Args:
        rows: label to images of shape (n, D); more than ``columns`` images go on to further lines.
        image_shape: ``(height, width)`` with D = height * width; None (data that are no images): :func:`profile_grid`.
        limits: the values drawn black and white; None takes the least and the greatest value of all rows.

    Raises:
        ValueError: no rows, a row without images, or images that do not fit ``image_shape``.
    """
    if image_shape is None:
        return profile_grid(rows)
    need(rows, "rows")
    images = {label: _images(row, image_shape, label) for label, row in rows.items()}
    return _mosaics(images, min(columns, max(len(row) for row in images.values())), limits)


def traversals(
    images: np.ndarray,
    image_shape: tuple | None,
    labels: Sequence[str] | None = None,
    *,
    limits: tuple | None = (0.0, 1.0),
) -> Figure:
    """One line of images per latent unit, decoded while that unit alone moves from low (left) to high (right).

    Args:
        images: (units, steps, D), means of p(x | z).
        image_shape: ``(height, width)``, or None for data that are no images: one heat map per unit.
        labels: one per unit; "unit 1" and so on if not given.

    Raises:
        ValueError: an empty array, not three dimensions, or labels that do not number the units.
    """
    return _strips(images, image_shape, labels, limits, "unit")


def interpolations(
    images: np.ndarray,
    image_shape: tuple | None,
    labels: Sequence[str] | None = None,
    *,
    limits: tuple | None = (0.0, 1.0),
) -> Figure:
    """One line of images per pair of data, decoded along the way between the two codes.

    Args, errors: as :func:`traversals`, with ``images`` of shape (pairs, steps, D).
    """
    return _strips(images, image_shape, labels, limits, "pair")


@styled
def profile_grid(
    rows: Mapping[str, np.ndarray], *, names: Sequence[str] | None = None, ylabel: str = "datum", columns: int = 40
) -> Figure:
    """What :func:`image_grid` is for data that are no images: a heat map per label (a line is a datum), one scale.

    Two-dimensional data are drawn as a scatter, a colour per label, since that shows their shape at once.

    Args:
        rows: label to values of shape (n, D), D common to all.
        names: the D coordinates' names, written on the axis when they fit (D <= 20).
        columns: the most data drawn per label (the scatter draws all).

    Raises:
        ValueError: no rows, a row that is empty or without a finite value, D that differs between rows, or names that
            do not number D.
    """
    need(rows, "rows")
    rows = {label: np.asarray(values, float) for label, values in rows.items()}
    widths = {values.shape[-1] if values.ndim == 2 and values.size else None for values in rows.values()}
    if None in widths or len(widths) > 1:
        shapes = {label: values.shape for label, values in rows.items()}
        raise ValueError(f"every row needs values of shape (n, D) with n > 0 and one common D; given {shapes}")
    dim = widths.pop()
    for label, values in rows.items():
        if not np.isfinite(values).any():
            raise ValueError(f"{label!r} has no finite value to draw")
    if names is not None and len(names) != dim:
        raise ValueError(f"{len(names)} names for {dim} dimensions; give one name per dimension")
    if dim == 2:
        figure, axes = single(4.2)
        labels = np.repeat(np.array(list(rows), dtype=object), [len(values) for values in rows.values()])
        points_by_label(figure, axes, np.concatenate(list(rows.values())), labels)
        axes.set(**dict(zip(("xlabel", "ylabel"), names or ("x[0]", "x[1]"), strict=True)))
        return figure
    shown = {label: values[:columns] for label, values in rows.items()}
    heights = [max(0.6, 0.12 * len(values)) for values in shown.values()]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.35 * len(heights) + 0.5), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    low = min(np.nanmin(values) for values in shown.values())
    high = max(np.nanmax(values) for values in shown.values())
    limits = {"vmin": low, "vmax": high if high > low else low + 1}
    for axes, (label, values) in zip(panels, shown.items(), strict=True):
        drawn = axes.imshow(values, aspect="auto", interpolation="nearest", cmap="viridis", **limits)
        axes.set_title(short(label, 60), loc="left")
        axes.set_ylabel(ylabel)
        axes.set_yticks([])
    if names is not None and dim <= 20:
        steep = max(len(str(n)) for n in names) * 13 > 580 / dim  # 13 pixels: the width of a letter
        panels[-1].set_xticks(range(dim), [short(n, 16) for n in names], rotation=90 if steep else 0)
    else:
        panels[-1].set_xlabel("dimension of x")
        panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.colorbar(drawn, ax=list(panels), label="value", aspect=30)
    return figure


def _images(images, image_shape, label):
    images = np.asarray(images, float)
    if len(image_shape) != 2:
        raise ValueError(f"image_shape is {image_shape}; give (height, width), or None for data that are no images")
    if images.ndim != 2 or images.size == 0 or images.shape[1] != image_shape[0] * image_shape[1]:
        raise ValueError(
            f"{label!r} has shape {images.shape}; images of {image_shape[0]} x {image_shape[1]} pixels need "
            f"(n, {image_shape[0] * image_shape[1]}) with n > 0"
        )
    return images.reshape(-1, *image_shape)


def _mosaic(images, columns):
    """Images (n, h, w) on one sheet, `columns` in a line, a gap of one pixel (NaN) between and after them."""
    number, height, width = images.shape
    lines = -(-number // columns)
    sheet = np.full((lines * columns, height + 1, width + 1), np.nan)
    sheet[:number, :height, :width] = images
    sheet = sheet.reshape(lines, columns, height + 1, width + 1).swapaxes(1, 2)
    return sheet.reshape(lines * (height + 1), columns * (width + 1))[:-1, :-1]


@styled
def _mosaics(images, columns, limits):
    """A sheet per label (of images (n, h, w)) under each other, `columns` images in a line.

    A pixel is a whole number of device pixels, so that nothing blurs. Short labels stand on the left, long ones above.
    """
    blocks = {label: _mosaic(row, columns) for label, row in images.items()}
    height, width = next(iter(images.values())).shape[1:]
    if limits is None:
        limits = min(np.nanmin(b) for b in blocks.values()), max(np.nanmax(b) for b in blocks.values())
    page, margin = round(WIDTH * DPI), 15
    left = max(len(short(label, 60)) for label in blocks) <= 8
    # 13 pixels: the width of a letter at 10 points; 32: the height of a line.
    gutter = margin + (13 * max(len(str(label)) for label in blocks) + 12 if left else 0)
    across = max(block.shape[1] for block in blocks.values())
    size = max(1, min((page - gutter - margin) // across, 160 // max(height, width)))
    page = max(page, gutter + across * size + margin)
    heading, gap = (0, 12) if left else (32, 14)
    tall = sum(block.shape[0] * size + heading + gap for block in blocks.values()) + 2 * margin - gap
    figure = Figure(figsize=(page / DPI, tall / DPI))
    top = tall - margin
    for label, block in blocks.items():
        down, right = block.shape[0] * size, block.shape[1] * size
        box = (gutter / page, (top - heading - down) / tall, right / page, down / tall)
        axes = figure.add_axes(box, frameon=False, xticks=[], yticks=[], label=str(label))
        axes.imshow(block, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto")
        for i in range(len(images[label])):
            line, column = divmod(i, columns)
            x, y = gutter + column * (width + 1) * size, top - heading - (line * (height + 1) + height) * size
            _frame(figure, x / page, y / tall, width * size / page, height * size / tall)
        if left:
            figure.text((gutter - 12) / page, (top - down / 2) / tall, label, ha="right", va="center")
        else:
            figure.text(gutter / page, (top - 4) / tall, short(label, 60), ha="left", va="top")
        top -= heading + down + gap
    return figure


def _frame(figure, x, y, width, height):
    """A sheet of grey under one image (in shares of the figure), one pixel larger all round: it covers none of it."""
    right, up = 1 / figure.bbox.width, 1 / figure.bbox.height
    place = {"transform": figure.transFigure, "zorder": -1, "antialiased": False}
    corner, sides = (x - right, y - up), (width + 2 * right, height + 2 * up)
    figure.add_artist(Rectangle(corner, *sides, facecolor=FRAME, linewidth=0, **place))


def _strips(images, image_shape, labels, limits, noun):
    images = np.asarray(images, float)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"images have shape {images.shape}; give ({noun}s, steps, D), none of them 0")
    labels = [f"{noun} {i + 1}" for i in range(len(images))] if labels is None else [str(label) for label in labels]
    if len(labels) != len(images) or len(set(labels)) != len(labels):
        raise ValueError(f"labels {labels} for {len(images)} {noun}s: give one label each, all different")
    rows = dict(zip(labels, images, strict=True))
    if image_shape is None:
        return profile_grid(rows, ylabel="step")
    return _mosaics({label: _images(row, image_shape, label) for label, row in rows.items()}, images.shape[1], limits)
