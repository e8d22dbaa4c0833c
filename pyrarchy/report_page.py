"""The HTML of a report: sections in a fixed order, every string escaped, pictures as data URIs.

The page loads nothing: its style is inline and the one link out is the source's.
"""

import base64
import html
import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .report_style import STYLE

if TYPE_CHECKING:  # report.py imports this file
    from .report import ReportContent

__all__ = ["render_report"]

# Field, heading, caption (also the picture's alternative text).
_FIGURES = (
    (
        "curves",
        "Training",
        "Loss against the step, in nats per datum, smoothed where it is noisy (raw values faint). During a warm-up the loss "
        "leaves part of the latent terms out; the curve at temperature one does not.",
    ),
    ("rates", "Rates", "Rate of every layer, in nats per datum: at most this much does its code say about x."),
    ("images", "Data and samples", "Held-out data, their reconstructions, and samples from the prior."),
    ("traversals", "Traversals", "Each line moves one latent unit from low (left) to high (right), the others held."),
    ("interpolations", "Interpolations", "Each line goes from the code of one datum to the code of another."),
    ("latent", "Latent space", "Held-out data by their codes, one point each."),
    ("forest", "Intervals", "Means and intervals; a grey band, where there is one, is the reference."),
)
_WORDS = {
    "active": "Active: its code carries information about x.",
    "weak": "Weak: a rate below 0.1 nats, hardly used.",
    "collapsed": "Collapsed: a rate below 0.01 nats or no active unit; its code says nothing about x.",
    "not finite": "Not finite: the rate is not a number.",
}


def render_report(report: "ReportContent") -> str:
    """The page as a string: the same content gives the same string, and every string in it is escaped.

    Raises:
        ValueError: an empty title, or a picture that is neither a figure nor a PNG.

    >>> from pyrarchy.report import ReportContent
    >>> "&lt;b&gt;" in render_report(ReportContent(title="<b>"))
    True
    """
    if not report.title.strip():
        raise ValueError("the report's title is empty; give one line that names the run")
    parts = [_header(report), _warnings(report.warnings), _section("Key figures", _key_figures(report))]
    parts.append(_section("Layers", _layers(report.layers)))
    parts += [_section(heading, _diagnostic(found)) for heading, found in report.diagnostics]
    for name, heading, caption in _FIGURES:
        if name == "forest" and report.intervals_of:
            heading += f" of the {report.intervals_of}"
        parts.append(_section(heading, _figure(getattr(report, name), caption, name)))
    parts.append(_section("Importance weights", _k_hat(report.k_hat)))
    note = (
        f'<p class="muted">{_text(report.intervals_note)}</p>\n' if report.posterior and report.intervals_note else ""
    )
    heading = (report.intervals_of or "posterior").capitalize()
    parts.append(_section(heading, note + _posterior(report.posterior)))
    parts.append(_section("Not on this page", _left_out(report.left_out)))
    parts.append(_section("Configuration", _config(report.config)))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Even if something slipped in, the browser would fetch nothing and run nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f'<link rel="icon" href="data:,">\n<title>{_text(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        "<body>\n" + "\n".join(part for part in parts if part) + "\n</body>\n</html>\n"
    )


def _text(value) -> str:
    return html.escape(str(value), quote=True)


def _number(value) -> str:
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


def _section(heading, content):
    return f"<section>\n<h2>{_text(heading)}</h2>\n{content}\n</section>" if content else ""


def _header(report):
    rows = [("Pair", _text(report.pair)), ("Data", _text(report.data))]
    rows += [("Objective", _text(report.objective)), ("Budget", _text(report.budget))]
    source = _text(report.source or report.source_link)
    if report.source_link.startswith(("https://", "http://")):  # never javascript: or a path of this machine
        source = f'<a href="{_text(report.source_link)}" rel="noreferrer">{source}</a>'
    rows.append(("Source", source))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in rows if value)
    density = f'<p class="density">{_text(report.density)}</p>\n' if report.density else ""
    return f"<header>\n<h1>{_text(report.title)}</h1>\n{density}{f'<dl>{listed}</dl>' if listed else ''}\n</header>"


def _warnings(warnings):
    if isinstance(warnings, str):
        raise TypeError(f"warnings must be a list of sentences, not the one string {warnings!r}")
    items = "".join(f"<li>{_text(warning)}</li>\n" for warning in warnings)
    return f'<aside class="warnings">\n<strong>Read this first</strong>\n<ul>\n{items}</ul>\n</aside>' if items else ""


def _key_figures(report):
    cards = []
    for name, estimate in ((report.log_px_name, report.log_px), ("ELBO", report.elbo)):
        if estimate is not None:
            note = f"nats per datum{', ' + estimate.note if estimate.note else ''}"
            cards.append(f"<span>{_text(name)}</span><b>{_text(estimate)}</b><span>{_text(note)}</span>")
    if report.k_hat is not None and np.size(report.k_hat):
        finite = _without_nan(report.k_hat)
        if finite.size:
            from .plots import k_hat_shares

            shares = k_hat_shares(finite).items()
            items = "".join(f'<li><b class="{_class(n)}">{_percent(s)} {_text(n)}</b></li>' for n, s in shares if s > 0)
            cards.append(
                f"<span>Importance weights <i>(Pareto k-hat)</i></span><ul>{items}</ul><span>of the data</span>"
            )
    boxes = "".join(f'<div class="figure">{card}</div>\n' for card in cards)
    return f'<div class="figures">\n{boxes}</div>' if cards else ""


def _layers(layers):
    if not layers:
        return ""
    rows = []
    for layer in layers:
        units = "–" if layer.units is None else f"{'–' if layer.active is None else layer.active} / {layer.units}"
        rate = f"{layer.rate:.2f}" if layer.rate >= 0.1 else _number(float(layer.rate))
        numbers = "".join(f'<td class="number">{_text(n)}</td>' for n in (rate, units))
        word = f'<td><strong class="{_class(layer.word)}">{layer.word}</strong></td>'
        rows.append(f'<tr><th scope="row">{_text(layer.site)}</th>{word}{numbers}</tr>')
    head = [("Site", ""), ("Layer is", ""), ("Rate (nats per datum)", "number"), ("Active units", "number")]
    used = dict.fromkeys(layer.word for layer in layers)
    return _table(head, rows) + f'\n<p class="muted">{" ".join(_WORDS[word] for word in used)}</p>'


def _diagnostic(found):
    """A section of :mod:`pyrarchy.section`: its sentences, then its table, then its pictures."""
    parts = [f"<p>{_text(sentence)}</p>" for sentence in found.sentences]
    if found.table is not None:
        (first, *names), rows = found.table
        body = []
        for name, *cells in rows:
            kinds = "".join(f'<td class="{_kind(cell)}">{_text(cell)}</td>' for cell in cells)
            body.append(f'<tr><th scope="row">{_text(name)}</th>{kinds}</tr>')
        parts.append(_table([(first, ""), *zip(names, map(_kind, rows[0][1:]), strict=True)], body))
    parts += [_figure(figure, caption, name) for name, (figure, caption) in found.figures.items()]
    return "\n".join(parts)


def _kind(cell):
    """The class of a cell: numbers stand on the right."""
    return "number" if not cell or cell[0] in "−-–<0123456789" else ""


def _left_out(reasons):
    rows = [
        f'<tr><th scope="row"><code>{_text(name)}</code></th><td class="wide">{_text(reason)}</td></tr>'
        for name, reason in reasons.items()
    ]
    return _table([("Diagnostic", ""), ("Why", "")], rows) if rows else ""


def _k_hat(k):
    if k is None or not np.size(k):
        return ""
    kept = _without_nan(k)
    missing = np.size(k) - kept.size
    words = (
        f"<p>k-hat could not be computed for {missing} of {np.size(k)} data, which are left out.</p>\n"
        if missing
        else ""
    )
    if not kept.size:
        return words
    from .plots import k_hat_histogram

    caption = (
        "Pareto k-hat of every datum. Up to 0.5 the estimate of log p(x) is good, up to 0.7 usable; "
        "above that do not trust it: a few samples carry all the weight."
    )
    return words + _figure(k_hat_histogram(kept), caption, "k_hat")


def _posterior(table):
    if not table:
        return ""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    rows = []
    for variable, row in table.items():
        cells = "".join(f'<td class="number">{_text(_number(row.get(column, "–")))}</td>' for column in columns)
        rows.append(f'<tr><th scope="row">{_text(variable)}</th>{cells}</tr>')
    return _table([("Variable", ""), *((column, "number") for column in columns)], rows)


def _config(config):
    rows = []

    def walk(prefix, table):
        for key, value in table.items():
            if isinstance(value, Mapping) and value:
                walk(f"{prefix}{key}.", value)
            else:
                # The value as it was given, not rounded: this table is for repeating the run.
                rows.append(
                    f'<tr><th scope="row"><code>{_text(prefix)}{_text(key)}</code></th>'
                    f'<td class="wide"><code>{_text(value)}</code></td></tr>'
                )

    walk("", config)
    return _table([("Setting", ""), ("Value", "")], rows) if rows else ""


def _table(head, rows):
    cells = "".join(f'<th scope="col"{f" class={kind}" if kind else ""}>{_text(name)}</th>' for name, kind in head)
    body = "\n".join(rows)
    # tabindex: a box that scrolls must be reachable with the keyboard.
    table = f"<table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _figure(figure, caption, name):
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
    image = f'<img src="{address}" width="{width}" height="{height}" alt="{_text(caption)}">'
    return f"<figure>\n{image}\n<figcaption>{_text(caption)}</figcaption>\n</figure>"


def _without_nan(k):
    k = np.asarray(k, float).ravel()
    return k[~np.isnan(k)]


def _class(word):
    return word.replace(" ", "-")


def _percent(share):
    """Whole percents, but never 0 % or 100 % for what is not none or all."""
    if 0 < share < 0.01:
        return "&lt; 1 %"
    return "&gt; 99 %" if 0.99 < share < 1 else f"{share:.0%}".replace("%", " %")
