"""The HTML of a report: sections in a fixed order, every string escaped, pictures as data URIs.

The page loads nothing: its style is inline and the one link out is the source's.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .report_parts import cell_class, css_class, escaped, figure_of, percent, readable_number, section_of, table_of
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
    "active": "Active: a rate of 0.1 nats or more, and a unit whose mean varies over the data.",
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
    parts = [_header(report), _warnings(report.warnings), section_of("Key figures", _key_figures(report))]
    parts.append(section_of("Layers", _layers(report.layers)))
    parts += [section_of(heading, _diagnostic(found)) for heading, found in report.diagnostics]
    for name, heading, caption in _FIGURES:
        if name == "forest" and report.intervals_of:
            heading += f" of the {report.intervals_of}"
        parts.append(section_of(heading, figure_of(getattr(report, name), caption, name)))
    parts.append(section_of("Importance weights", _k_hat(report.k_hat)))
    note = (
        f'<p class="muted">{escaped(report.intervals_note)}</p>\n' if report.posterior and report.intervals_note else ""
    )
    heading = (report.intervals_of or "posterior").capitalize()
    parts.append(section_of(heading, note + _posterior(report.posterior)))
    parts.append(section_of("Not on this page", _left_out(report.left_out)))
    parts.append(section_of("Configuration", _config(report.config)))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Even if something slipped in, the browser would fetch nothing and run nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f'<link rel="icon" href="data:,">\n<title>{escaped(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        "<body>\n" + "\n".join(part for part in parts if part) + "\n</body>\n</html>\n"
    )


def _header(report):
    rows = [("Pair", escaped(report.pair)), ("Data", escaped(report.data))]
    rows += [("Objective", escaped(report.objective)), ("Budget", escaped(report.budget))]
    source = escaped(report.source or report.source_link)
    if report.source_link.startswith(("https://", "http://")):  # never javascript: or a path of this machine
        source = f'<a href="{escaped(report.source_link)}" rel="noreferrer">{source}</a>'
    rows.append(("Source", source))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in rows if value)
    density = f'<p class="density">{escaped(report.density)}</p>\n' if report.density else ""
    return f"<header>\n<h1>{escaped(report.title)}</h1>\n{density}{f'<dl>{listed}</dl>' if listed else ''}\n</header>"


def _warnings(warnings):
    if isinstance(warnings, str):
        raise TypeError(f"warnings must be a list of sentences, not the one string {warnings!r}")
    items = "".join(f"<li>{escaped(warning)}</li>\n" for warning in warnings)
    return f'<aside class="warnings">\n<strong>Read this first</strong>\n<ul>\n{items}</ul>\n</aside>' if items else ""


def _key_figures(report):
    cards = []
    for name, estimate in ((report.log_px_name, report.log_px), ("ELBO", report.elbo)):
        if estimate is not None:
            note = f"nats per datum{', ' + estimate.note if estimate.note else ''}"
            cards.append(f"<span>{escaped(name)}</span><b>{escaped(estimate)}</b><span>{escaped(note)}</span>")
    if report.k_hat is not None and np.size(report.k_hat):
        finite = _without_nan(report.k_hat)
        if finite.size:
            from .plots import k_hat_shares

            shares = k_hat_shares(finite).items()
            items = "".join(
                f'<li><b class="{css_class(n)}">{percent(s)} {escaped(n)}</b></li>' for n, s in shares if s > 0
            )
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
        rate = f"{layer.rate:.2f}" if layer.rate >= 0.1 else readable_number(float(layer.rate))
        numbers = "".join(f'<td class="number">{escaped(n)}</td>' for n in (rate, units))
        word = f'<td><strong class="{css_class(layer.word)}">{layer.word}</strong></td>'
        rows.append(f'<tr><th scope="row">{escaped(layer.site)}</th>{word}{numbers}</tr>')
    head = [("Site", ""), ("Layer is", ""), ("Rate (nats per datum)", "number"), ("Active units", "number")]
    used = dict.fromkeys(layer.word for layer in layers)
    return table_of(head, rows) + f'\n<p class="muted">{" ".join(_WORDS[word] for word in used)}</p>'


def _diagnostic(found):
    """A section of :mod:`pyrarchy.section`: its sentences, then its table, then its pictures."""
    parts = [f"<p>{escaped(sentence)}</p>" for sentence in found.sentences]
    if found.table is not None:
        (first, *names), rows = found.table
        body = []
        for name, *cells in rows:
            kinds = "".join(f'<td class="{cell_class(cell)}">{escaped(cell)}</td>' for cell in cells)
            body.append(f'<tr><th scope="row">{escaped(name)}</th>{kinds}</tr>')
        parts.append(table_of([(first, ""), *zip(names, map(cell_class, rows[0][1:]), strict=True)], body))
    parts += [figure_of(figure, caption, name) for name, (figure, caption) in found.figures.items()]
    return "\n".join(parts)


def _left_out(reasons):
    rows = [
        f'<tr><th scope="row"><code>{escaped(name)}</code></th><td class="wide">{escaped(reason)}</td></tr>'
        for name, reason in reasons.items()
    ]
    return table_of([("Diagnostic", ""), ("Why", "")], rows) if rows else ""


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
    return words + figure_of(k_hat_histogram(kept), caption, "k_hat")


def _posterior(table):
    if not table:
        return ""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    rows = []
    for variable, row in table.items():
        cells = "".join(
            f'<td class="number">{escaped(readable_number(row.get(column, "–")))}</td>' for column in columns
        )
        rows.append(f'<tr><th scope="row">{escaped(variable)}</th>{cells}</tr>')
    return table_of([("Variable", ""), *((column, "number") for column in columns)], rows)


def _config(config):
    rows = []

    def walk(prefix, table):
        for key, value in table.items():
            if isinstance(value, Mapping) and value:
                walk(f"{prefix}{key}.", value)
            else:
                # The value as it was given, not rounded: this table is for repeating the run.
                rows.append(
                    f'<tr><th scope="row"><code>{escaped(prefix)}{escaped(key)}</code></th>'
                    f'<td class="wide"><code>{escaped(value)}</code></td></tr>'
                )

    walk("", config)
    return table_of([("Setting", ""), ("Value", "")], rows) if rows else ""


def _without_nan(k):
    k = np.asarray(k, float).ravel()
    return k[~np.isnan(k)]
