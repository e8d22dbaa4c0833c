"""The registry of pairs: one decorated function per row builds model and guide and carries what is known of them.

The command line, the contract tests, the README's table and the gallery all follow from the rows. Rows of other people's
packages plug in through the entry-point group ``pyrarchy.pairs``, or are named as ``module:function``.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points

from .options import parse_options

ROWS = (
    "rows_linear",
    "rows_images",
    "rows_hierarchies",
    "rows_sparse",
    "rows_stages",
    "rows_priors",
    "rows_discrete",
    "rows_time",
    "rows_flows",
    "rows_statistics",
    "rows_regression",
    "rows_conjugate",
    "rows_spins",
)


@dataclass(frozen=True)
class Source:
    """Where a pair comes from: authors, year, title and link; ``bibtex`` makes an entry of them.

    ``letter`` tells one first author's works of a year apart.
    """

    authors: str
    year: int
    title: str
    link: str
    letter: str = ""

    @property
    def key(self):
        """Key of the BibTeX entry: first author's surname, the year and the letter."""
        surname = self.authors.split(",")[0].split(" and ")[0].split()[-1].lower()
        return f"{''.join(c for c in surname if c.isalnum())}{self.year}{self.letter}"

    @property
    def bibtex(self):
        """A BibTeX entry."""
        return (
            f"@misc{{{self.key},\n  author = {{{self.authors}}},\n  title = {{{self.title}}},\n"
            f"  year = {{{self.year}}},\n  url = {{{self.link}}}\n}}"
        )


@dataclass(frozen=True)
class Training:
    """How a pair is fitted when nothing else is said.

    ``method`` is "svi", "em" or "cavi" (the last two run to convergence and use nothing of the rest); ``objective`` as on
    the command line; ``estimator`` how its gradient is formed (``None``: the plain one; layers of bits have none);
    ``warm_up`` the share of the steps over which the temperature rises from 0 to 1; ``decay`` the share of the learning
    rate that a cosine leaves at the end.
    """

    method: str = "svi"
    objective: str = "elbo"
    estimator: str | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    warm_up: float = 0.0
    decay: float = 1.0


@dataclass(frozen=True)
class Pair:
    """A row: a model with a matching guide, its default data, its source and how to train it.

    :ivar name: as on the command line.
    :ivar build: function of a :class:`~pyrarchy.Dataset` and keyword options that returns ``(model, guide)``.
    :ivar model, guide: names of the classes.
    :ivar density: the joint density, as text.
    :ivar data: name of the default data set.
    :ivar likelihood: "bernoulli", "gaussian" or "own" (the model brings its own observations).
    :ivar differs: what differs from the source; empty when nothing does.
    :ivar caution: what is known to go wrong.
    :ivar picks: function of (dataset, options) that returns the columns to keep, or ``None`` for all.
    :ivar arrays: function of (dataset, options, dtype) that returns what fits the pair without torch, like
        :class:`~pyrarchy.zoo.factor_analysis_arrays.FactorAnalysisArrays`: ``fit(x, seed=)``, then ``parameters`` (arrays,
        named as the model's) and ``log_marginal(x)``. ``None`` where torch is needed.
    """

    name: str
    build: Callable
    model: str
    guide: str
    density: str
    source: Source
    data: str = "digits"
    likelihood: str = "bernoulli"
    training: Training = field(default_factory=Training)
    differs: str = ""
    caution: str = ""
    picks: Callable | None = None
    arrays: Callable | None = None

    @property
    def summary(self):
        """First line of the builder's docstring."""
        return (inspect.getdoc(self.build) or "no description").splitlines()[0]

    @property
    def options(self):
        """Keyword options of the builder with their defaults."""
        return {
            name: p.default
            for name, p in inspect.signature(self.build).parameters.items()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def parse_options(self, texts):
        """Options from ``key=value`` texts, converted to the types of their defaults.

        :raises ValueError: for an unknown key (the valid ones are listed) or a value of another type.
        """
        return parse_options(texts, self.options, self.name)

    def columns(self, data, options=None):
        """Which columns of a data set this pair uses: an index array, or ``None`` for all."""
        return None if self.picks is None else self.picks(data, {**self.options, **(options or {})})

    def in_arrays(self, data, options, dtype="float32"):
        """What fits this pair to a data set without torch, or ``None``."""
        return None if self.arrays is None else self.arrays(data, {**self.options, **options}, dtype)

    def __call__(self, data=None, *, seed=0, **options):
        """Build ``(model, guide)`` for a data set, from a seed; the generators outside are left as they were.

        :param data: a :class:`~pyrarchy.Dataset` or the name of one; the pair's default data when ``None``.
        """
        from ._start import torch

        if data is None or isinstance(data, str):
            from .datasets import load_data

            data = load_data(data or self.data)
            keep = self.columns(data, options)
            if keep is not None:
                data = select_columns(data, keep)
        if not hasattr(data, "train"):
            raise TypeError(f"data must be a pyrarchy.Dataset or its name, not {type(data).__name__}: see load_data()")
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise ValueError(
                f"pair {self.name} has no option(s) {unknown}; it has: {', '.join(self.options) or 'none'}"
            )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build(data, **options)


def pair(name, **row):
    """Decorator that makes a :class:`Pair` of a builder function; the fields of the row are keywords."""

    def decorate(build):
        return Pair(name=name, build=build, **row)

    return decorate


def select_columns(data, keep):
    """A data set with some of its columns, names and all (not an image any more)."""
    import numpy as np

    def cut(rows):
        return None if rows is None else np.ascontiguousarray(rows[:, keep])

    coords = {key: [names[i] for i in keep] if key == "column" else names for key, names in data.coords.items()}
    return replace(data, train=cut(data.train), test=cut(data.test), image_shape=None, coords=coords)


@cache
def _registry():
    rows = {}
    for module in ROWS:
        for value in vars(importlib.import_module(f".{module}", __package__)).values():
            if isinstance(value, Pair):
                rows[value.name] = value
    for point in entry_points(group="pyrarchy.pairs"):
        rows.setdefault(point.name, point)
    return rows


def list_pairs():
    """All rows, by name; those of other packages are imported here."""
    return {name: get_pair(name) for name in _registry()}


def get_pair(name):
    """The row called ``name``, or the one at ``module:function``.

    :raises ValueError: for an unknown name; the valid ones are listed.
    """
    if ":" in name:
        module, _, function = name.partition(":")
        # importlib would take a/b for a path
        if not all(part.isidentifier() for part in (*module.split("."), function)):
            raise ValueError(f"'{name}' names no pair: write module:function, as in my_package.pairs:my_pair")
        return _load(name, lambda: getattr(importlib.import_module(module), function))
    rows = _registry()
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"no pair is called '{name}'.{hint} The pairs are: {', '.join(rows)}; one of your own is module:function"
        )
    row = rows[name]
    return row if isinstance(row, Pair) else _load(name, row.load)


def _load(name, load):
    """The pair that other people's code holds under ``name``."""
    try:
        found = load()
    except Exception as error:  # importing somebody's module may raise anything
        raise ValueError(f"cannot load the pair {name}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Pair):
        raise ValueError(
            f"{name} is a {type(found).__name__}, not a pair: decorate the function with @pyrarchy.pair(...)"
        )
    return replace(found, name=name)
