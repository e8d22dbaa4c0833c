"""The look that all figures share: size, colours, fonts, legends, and a PNG that does not depend on the machine.

Figures are 810 pixels wide at 150 dpi (readable on a page and on a phone), made without pyplot and whatever the user's
rcParams say. Colours are those of Okabe and Ito, then of Tol, which the colour-blind can tell apart; markers or dashes
repeat what the colour says.

Source: Okabe and Ito (2008), Color universal design, https://jfly.uni-koeln.de/color/;
Tol (2021), Colour schemes, https://personal.sron.nl/~pault/
"""

import functools
import io
from collections.abc import Mapping

import matplotlib.style
from matplotlib.figure import Figure

__all__ = ["png"]

DPI, WIDTH = 150, 5.4
INK, MUTED = "#222222", "#666666"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#882255", "#999933", "#332288")
# Beside ten colours, four of each: a pair repeats only after 20.
MARKERS, DASHES = "os^D", ("-", "--", "-.", ":")
STYLE = {
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same letters
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a site or a run may have a dollar sign in its name
    "axes.titlesize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "xtick.color": "#999999",
    "ytick.color": "#999999",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
}


def styled(draw):
    """Run under the house style, and lay the figure out there, since ticks read rcParams when they are first drawn."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with matplotlib.style.context(STYLE, after_reset=True):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
        return figure

    return wrapper


def png(figure: Figure) -> bytes:
    """The figure as a PNG file: the same figure gives the same bytes (no date, no version of matplotlib inside)."""
    buffer = io.BytesIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def need(table, what):
    if not isinstance(table, Mapping):
        raise TypeError(f"{what} must be a mapping from names, not {type(table).__name__}")
    if not table:
        raise ValueError(f"{what} is empty: there is nothing to draw")


def single(height):
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def short(name, width):
    """The name with its middle left out if it is too long for the page: both ends of a run's name tell."""
    name = str(name)
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width - width // 2) :]}"


def legend_above(figure, handles, names):
    """A legend outside the data, above them, in as many columns as its longest name leaves room for."""
    names = [short(name, 48) for name in names]
    for columns in range(len(names), 0, -1):
        legend = figure.legend(handles, names, loc="outside upper left", ncols=columns, fontsize=9, columnspacing=1.2)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width - 10:
            return
        legend.remove()
