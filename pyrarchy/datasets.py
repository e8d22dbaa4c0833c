"""Data sets by name or by path: ``load_data("digits")``, ``load_data("mnist")``, ``load_data("mine.csv")``.

Named sets carry their source and licence; the modules in ``MODULES`` hold them. MNIST and Fashion-MNIST are not in the
package: they are read from the first of these folders that holds all four files (.gz or not), and their bytes are checked
against pinned sha256 sums:

1. ``mnist``, ``fashion_mnist`` or ``fashion-mnist`` in the ``folder`` handed over, then in ``$PYRARCHY_DATA``
2. the system's, ``/usr/share/datasets`` (Debian's package dataset-fashion-mnist)
3. torchvision's, ``MNIST/raw`` or ``FashionMNIST/raw`` in ``./data``, ``~/data`` and ``~/.cache/torchvision``
4. the cache of ``pyrarchy data fetch``

Paths go through :mod:`pyrarchy.files`.
"""

import difflib
import importlib
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .binarize import support_of
from .dataset import Dataset, NamedData
from .faults import DataError
from .fetch import REMOTES, find
from .files import held_out_rows, read_table

HELD_OUT = 0.1
MODULES = (
    "data_images",
    "data_statistics",
    "data_regression",
    "data_series",
    "data_simulated",
    "data_spins",
    "data_patches",
)


class DataRow(NamedTuple):
    """A row of :func:`list_data`; ``where``: the folder found, "in the package", what else has them, or how to get them."""

    name: str
    what: str
    size: str
    licence: str
    where: str


@cache
def named() -> dict[str, NamedData]:
    """All named data sets, in the order of the modules."""
    modules = (importlib.import_module(f".{module}", __package__) for module in MODULES)
    return {name: entry for module in modules for name, entry in module.NAMED.items()}


def load_data(name_or_path, *, folder=None, held_out: float | None = None, missing: str = "refuse") -> Dataset:
    """A data set by name (see :func:`list_data`) or from a user's .npy, .npz or .csv file.

    ``folder`` is looked into first for MNIST and Fashion-MNIST. ``held_out`` is the share of a file's rows to hold out,
    0.1 by default (see :mod:`pyrarchy.files`); named sets and files with a ``test`` array bring their own split.
    ``missing="drop-rows"`` leaves out a file's rows that hold a NaN or an infinity, and says so in ``remarks``.
    Raises :class:`~.files.DataError`: one sentence with what was found, where, and what to do.

    >>> digits = load_data("digits")
    >>> digits.train.shape, digits.test.shape, digits.image_shape, digits.support
    ((1500, 64), (297, 64), (8, 8), 'unit')
    """
    name = os.fspath(name_or_path).replace("-", "_")
    if name in named():
        if held_out is not None:
            raise DataError(f"{name}: comes with its own split; leave held_out away")
        if missing != "refuse":
            raise DataError(f"{name}: lacks no value; leave missing={missing!r} away")
        return named()[name].load(folder)
    path = Path(name_or_path)
    if not path.suffix and len(path.parts) == 1 and not path.exists():
        near = difflib.get_close_matches(name, named(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(
            f"no data set is called {str(path)!r}; {hint}give one of {', '.join(named())}, or a file's path"
        )
    return _from_file(path, held_out, missing)


def list_data(folder=None) -> list[DataRow]:
    """One row per named data set. Nothing is opened or downloaded: ``where`` looks for file names only."""
    rows = []
    for name, entry in named().items():
        where = entry.where
        if name in REMOTES:
            found = find(name, folder)
            where = f"get it with: pyrarchy data fetch {name}" if found is None else str(found)
        rows.append(DataRow(name, entry.what, entry.size, entry.licence, where))
    return rows


def _from_file(path: Path, held_out: float | None, missing: str) -> Dataset:
    table = read_table(path, missing=missing)
    train, test, train_labels, test_labels = table.train, table.test, table.train_labels, table.test_labels
    if test is not None and held_out is not None:
        raise DataError(f"{path}: brings its own test rows; leave held_out away")
    support = support_of(train) if test is None else support_of(train, test)
    if test is None:
        keep, held = held_out_rows(len(train), HELD_OUT if held_out is None else held_out)
        if len(held) and table.mapped:  # views: the rows stay on disk
            train, test = train[: len(keep)], train[len(keep) :]
        elif len(held):
            train, test = train[keep], train[held]
            if train_labels is not None:
                train_labels, test_labels = train_labels[keep], train_labels[held]
    return Dataset(
        path.stem,
        train,
        test,
        train_labels,
        test_labels,
        table.image_shape,
        support,
        table.coords,
        str(path),
        "the user's",
        (f"{table.dropped} row(s) of {path.name} hold missing or infinite values and are left out.",)
        if table.dropped
        else (),
    )
