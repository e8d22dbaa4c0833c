"""The pieces of a report's page: escaped text, numbers, sections, tables, and pictures as data URIs."""

import base64
import html
import math
import struct

import numpy as np


def escaped(value) -> str:
    """A value as text, with every character that HTML would read escaped."""
    return html.escape(str(value), quote=True)


def readable_number(value) -> str:
    """Numbers as people read them: about four digits, a real minus; anything else as text."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return str(value)
    if not math.isfinite(value):
        return str(float(value)).replace("-", "−")
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    size = abs(value)
    if 0 < size < 0.01 or size >= 1e6:
        text = f"{value:.3g}"
    else:
        text = f"{value:,.{4 if size < 1 else 2 if size < 1000 else 0}f}"
    return text.replace("-", "−")


def section_of(heading, content):
    """A section under a heading; empty where there is no content."""
    return f"<section>\n<h2>{escaped(heading)}</h2>\n{content}\n</section>" if content else ""


def table_of(head, rows):
    """A table in a box that scrolls: ``head`` is (name, class) of each column, ``rows`` are ready lines."""
    cells = "".join(f'<th scope="col"{f" class={kind}" if kind else ""}>{escaped(name)}</th>' for name, kind in head)
    body = "\n".join(rows)
    # tabindex: a box that scrolls must be reachable with the keyboard.
    table = f"<table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def figure_of(figure, caption, name):
    """A picture as a data URI with its caption; ValueError for what is neither a figure nor a PNG."""
    if figure is None:
        return ""
    if not isinstance(figure, bytes):
        if not hasattr(figure, "savefig"):
            raise ValueError(f"{name} is a {type(figure).__name__}; give a matplotlib Figure or the bytes of a PNG")
        from .plots import png

        figure = png(figure)
    if not figure.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{name}: these {len(figure)} bytes are no PNG")
    width, height = struct.unpack(">II", figure[16:24])  # so that the page does not jump while it decodes
    address = "data:image/png;base64," + base64.b64encode(figure).decode("ascii")
    image = f'<img src="{address}" width="{width}" height="{height}" alt="{escaped(caption)}">'
    return f"<figure>\n{image}\n<figcaption>{escaped(caption)}</figcaption>\n</figure>"


def css_class(word):
    """The name of a style for a word of the page."""
    return word.replace(" ", "-")


def percent(share):
    """Whole percents, but never 0 % or 100 % for what is not none or all."""
    if 0 < share < 0.01:
        return "&lt; 1 %"
    return "&gt; 99 %" if 0.99 < share < 1 else f"{share:.0%}".replace("%", " %")


def cell_class(cell):
    """The class of a cell: numbers stand on the right."""
    return "number" if not cell or cell[0] in "−-–<0123456789" else ""
