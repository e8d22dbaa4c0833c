"""One diagnostic is one section: a function from a :class:`Context` to numbers, sentences and pictures, and its row here.

A new diagnostic is one short file with a function under :func:`section`, and its line in :data:`MODULES`::

    @section("held_out", "Held-out log p(x)")
    def held_out(context):
        grades = context.evaluation
        ...
        return Section(dataset, sentences, figures={"log_p": (figure, "Caption.")})

What does not apply to a pair raises :class:`NotApplicable` with the reason (the ValueErrors with which the library refuses a
pair count as well): the diagnostic is then left out, and named with its reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import xarray

#: Modules with sections, in the order of the page.
MODULES = (
    "section_held_out",
    "section_annealed",
    "section_posterior",
    "section_rates",
    "section_average",
    "section_calibration",
    "section_labels",
    "section_gradient",
)
LOWER, LOWER_IN_EXPECTATION = "lower bound", "lower bound in expectation"
EXACT, UPPER_IN_EXPECTATION = "exact", "upper bound in expectation"


class NotApplicable(ValueError):
    """A diagnostic that says nothing of this pair; the message is the reason, shown to the reader."""


@dataclass(frozen=True, eq=False)
class Section:
    """What a diagnostic found.

    :ivar dataset: its numbers; :func:`numbers` labels them with unit and bound.
    :ivar sentences: what the numbers mean, for people.
    :ivar figures: name -> (matplotlib figure, caption).
    :ivar table: head and rows of a small table, all text; the first column names the row.
    """

    dataset: xarray.Dataset
    sentences: Sequence[str] = ()
    figures: Mapping[str, tuple] = field(default_factory=dict)
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None


@dataclass(frozen=True)
class Entry:
    """A row of the registry: the group's name, the page's heading, and whether it is left to the full report."""

    name: str
    title: str
    compute: Callable[["Context"], Section]
    long: bool = False


_ENTRIES: dict[str, Entry] = {}


def section(name, title, *, long=False):
    """Register a diagnostic.

    :param str name: the group of the object that :func:`~pyrarchy.diagnose` returns.
    :param str title: the heading on the page.
    :param bool long: whether it takes more than about a second on a small run, and is left to ``pyrarchy report``.
    """

    def register(compute):
        _ENTRIES[name] = Entry(name, title, compute, long)
        return compute

    return register


def sections():
    """All diagnostics in the order of the page: list of :class:`Entry`."""
    order = [import_module(f".{module}", __package__).__name__ for module in MODULES]
    return sorted(_ENTRIES.values(), key=lambda entry: order.index(entry.compute.__module__))


class Context:
    """A pair, its data, and what several diagnostics need, computed once.

    :ivar model, guide: the pair.
    :ivar tuple args: the model's arguments, the data to diagnose it on.
    :ivar labels: (N,) integers or ``None``.
    :ivar int num_samples: importance samples per datum. ``seed``, ``plates``: as everywhere.
    """

    def __init__(self, model, guide, args, *, num_samples=256, seed=0, plates=1, labels=None, evaluation=None):
        self.model, self.guide, self.args, self.labels = model, guide, args, labels
        self.num_samples, self.seed, self.plates = num_samples, seed, plates
        self._evaluation = evaluation

    @property
    def evaluation(self):
        """:class:`~pyrarchy.inference.Evaluation` of the data; what stopped it the first time stops it at once again."""
        if self._evaluation is None:
            from .inference import evaluate

            options = {"num_samples": self.num_samples, "plates": self.plates, "seed": self.seed}
            try:
                self._evaluation = evaluate(self.model, self.guide, self.args, **options)
            except (ValueError, TimeoutError) as error:
                self._evaluation = error
        if isinstance(self._evaluation, Exception):
            raise self._evaluation
        return self._evaluation

    @cached_property
    def is_global(self):
        """Whether all latents are global, so that the data set is one datum."""
        from .inference import isolated, make_terms, trace_pair

        with isolated(self.model, self.guide, seed=self.seed):
            terms = make_terms(*trace_pair(self.model, self.guide, self.args, plates=self.plates), plates=self.plates)
        return terms.layout.data_dim is None

    @property
    def unit(self):
        """The unit of a log-density: per datum, or of the whole data set where all latents are global."""
        return "nats for the data set" if self.is_global else "nats per datum"

    def need_local(self):
        """Refuse a model whose latents are all global."""
        if self.is_global:
            raise NotApplicable("all latents are global: there are no codes of single data")


def numbers(dims, values, unit, bound=None, **attrs: Any):
    """A variable of a section's dataset, labelled with its unit and, for a log-density, with what side it bounds."""
    labels = {"unit": unit, **({} if bound is None else {"bound": bound}), **attrs}
    return xarray.Variable(dims, values, labels)
