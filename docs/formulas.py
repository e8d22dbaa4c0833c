"""Sphinx extension: formulas as SVG, drawn at build time, so that a page needs no script, no font and no network.

MathML would be shorter, but a browser without a mathematical font (most of those on Linux) neither stretches its
brackets nor spaces its operators.
"""

import re
from html import escape

import ziamath
from docutils import nodes
from sphinx.errors import ExtensionError

SIZE = 17  # pixels; the text is 16
TALLEST = 150  # pixels; more is a mistake of the converter, not a formula
# The converter has no \big, and every use of it stands before a bracket, where \left and \right do as well.
OPENING, CLOSING = re.compile(r"\\[bB]igg?l?\s*(?=[(\[])"), re.compile(r"\\[bB]igg?r?\s*(?=[)\]])")
# It wants an alphabet's letter in braces, and puts no space around \sim.
LETTER, SIM = re.compile(r"\\(mathbb|mathcal|mathrm)\s+([A-Za-z])"), re.compile(r"\s*\\sim(?![a-z])\s*")
SPACING = re.compile(r"\\qquad|\\quad")


def to_svg(latex, display):
    """A formula as an ``<svg>`` on the line of the text, in the text's colour, its source as the label.

    :raises ExtensionError: for a formula that cannot be drawn.
    """
    text = CLOSING.sub(r"\\right", OPENING.sub(r"\\left", latex.strip()))
    text = SIM.sub(r"\\;\\sim\\;", LETTER.sub(r"\\\1{\2}", text))
    try:
        formula = ziamath.Latex(text, size=SIZE, inline=not display, color="currentColor")
        if formula.getsize()[1] > TALLEST:  # ziamath 0.13 on a displayed sum with limits between \left and \right
            formula = ziamath.Latex(text, size=SIZE, inline=True, color="currentColor")
        markup, height, below = formula.svg(), formula.getsize()[1], -formula.getyofst()
    except Exception as error:
        raise ExtensionError(f"cannot draw the formula {latex!r}: {error!r}") from error
    if not 0 < height < TALLEST:
        raise ExtensionError(f"the formula {latex!r} came out {height:.0f} pixels high")
    label = f'role="img" aria-label="{escape(latex.strip(), quote=True)}" style="vertical-align: {-below:.1f}px"'
    return markup.replace("<svg ", f'<svg class="math" {label} ', 1)


def lines(latex):
    """The lines of a displayed formula, each cut at its own ``\\quad`` into parts that may wrap."""
    out = []
    for line in re.split(r"\n\s*\n", latex.strip()):
        parts, start, depth = [], 0, 0
        for token in re.finditer(r"\\left|\\right|\\begin|\\end|\\[{}]|[{}]|\\qquad|\\quad", line):
            word = token.group()
            if word in ("\\left", "\\begin", "{"):
                depth += 1
            elif word in ("\\right", "\\end", "}"):
                depth -= 1
            elif SPACING.match(word) and depth == 0:
                parts.append(line[start : token.start()].strip())
                start = token.end()
        parts.append(line[start:].strip())
        out.append([part for part in parts if part])
    return out


def visit_inline(writer, node):
    """A formula in the text."""
    writer.body.append(to_svg(node.astext(), display=False))
    raise nodes.SkipNode


def visit_block(writer, node):
    """A formula on lines of its own; what is still too wide for the page scrolls by itself."""
    rows = ("".join(f"<span>{to_svg(part, display=True)}</span>" for part in parts) for parts in lines(node.astext()))
    writer.body.append(f'<div class="formula">{"".join(f"<div>{row}</div>" for row in rows)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register the renderer ``svg``."""
    app.add_html_math_renderer("svg", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
