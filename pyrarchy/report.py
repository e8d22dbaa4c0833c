"""One self-contained page about one run: what was fitted to what, how well, which layers are used, what to doubt.

:class:`ReportContent` holds arrays, figures and words; :func:`render_report` is a pure function of it, so that a run
repeated with its seed gives the same bytes (no date, no path, no version); :func:`write_report` puts it into a folder.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .atomic import write_atomically
from .report_page import render_report

if TYPE_CHECKING:  # xarray takes a while to import
    from .section import Section

__all__ = ["Estimate", "Layer", "ReportContent", "render_report", "write_report"]


@dataclass(frozen=True)
class Estimate:
    """A number in nats per datum, with its standard error over data where known, and words on what it is.

    >>> print(Estimate(-21.3456, 0.123, "lower bound, 5000 importance samples"))
    −21.35 ± 0.12
    """

    value: float
    standard_error: float | None = None
    note: str = ""

    def __str__(self):
        if not math.isfinite(self.value):
            return "not finite"
        if self.standard_error is None or not math.isfinite(self.standard_error):
            return f"{self.value:.2f}".replace("-", "−")
        if self.standard_error <= 0:
            return f"{self.value:.2f} ± 0".replace("-", "−")
        decimals = min(max(1 - math.floor(math.log10(self.standard_error)), 0), 6)  # two digits of the standard error
        return f"{self.value:.{decimals}f} ± {self.standard_error:.{decimals}f}".replace("-", "−")


@dataclass(frozen=True)
class Layer:
    """What one latent site does: its rate KL(q || p) in nats per datum and, where counted, its active units.

    >>> Layer("z2", 3.2, 5, 8).word, Layer("z3", 0.04, 1, 4).word, Layer("z4", 0.002, 0, 4).word
    ('active', 'weak', 'collapsed')
    """

    site: str
    rate: float
    active: int | None = None
    units: int | None = None

    @property
    def word(self) -> str:
        """``collapsed`` below 0.01 nats or without an active unit, ``weak`` below 0.1 nats, ``active`` otherwise."""
        from .inference.rates import layer_word

        return layer_word(self.rate, self.active)


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class ReportContent:
    """Everything on the page. What is None or empty is left out, heading and all.

    Figures are matplotlib Figures (drawn by :mod:`pyrarchy.plots`) or the bytes of a PNG.
    """

    title: str
    pair: str = ""
    density: str = ""  # one line, as p(x, z) = p(z2) p(z1 | z2) p(x | z1)
    source: str = ""  # authors and year
    source_link: str = ""
    data: str = ""
    objective: str = ""
    budget: str = ""
    warnings: Sequence[str] = ()
    log_px_name: str = "log p(x), held out"
    log_px: Estimate | None = None  # held-out log p(x); its note says lower bound or exact, and how it was estimated
    elbo: Estimate | None = None
    k_hat: np.ndarray | None = None  # (N,)
    layers: Sequence[Layer] = ()
    curves: Any = None
    rates: Any = None
    images: Any = None
    traversals: Any = None
    interpolations: Any = None
    latent: Any = None
    forest: Any = None
    intervals_of: str = (
        ""  # "guide" where the draws are not to be trusted as the posterior's: it then heads the intervals
    )
    intervals_note: str = ""  # one sentence above the table
    posterior: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # variable to column to value
    diagnostics: Sequence[tuple[str, "Section"]] = ()  # heading and section
    left_out: Mapping[str, str] = field(default_factory=dict)  # diagnostic to the reason why it is not on the page
    config: Mapping[str, Any] = field(default_factory=dict)  # may be nested


def write_report(folder: str | os.PathLike, report: ReportContent) -> Path:
    """Write ``report.html`` into an existing folder and return its path: the old page or the new one, never half of it.

    Raises:
        ValueError: as :func:`render_report`; nothing is then written.
        NotADirectoryError: no such folder.
    """

    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; make it first")
    # xmlcharrefreplace: a lone surrogate (from a broken file name) would otherwise stop the whole page.
    content = render_report(report).encode("utf-8", "xmlcharrefreplace")
    write_atomically(folder / "report.html", content)
    return folder / "report.html"
