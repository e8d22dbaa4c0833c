"""Data sets by name or by path: ``load_data("digits")``, ``load_data("mnist")``, ``load_data("mine.csv")``.

Named sets carry their source and licence. MNIST and Fashion-MNIST are not in the package: they are read from the first
of these folders that holds all four files (.gz or not), and their bytes are checked against pinned sha256 sums:

1. ``mnist``, ``fashion_mnist`` or ``fashion-mnist`` in the ``folder`` handed over, then in ``$PYRARCHY_DATA``
2. the system's, ``/usr/share/datasets`` (Debian's package dataset-fashion-mnist)
3. torchvision's, ``MNIST/raw`` or ``FashionMNIST/raw`` in ``./data``, ``~/data`` and ``~/.cache/torchvision``
4. the cache of ``pyrarchy data fetch``

Paths go through :mod:`pyrarchy.files`.

Source: Alpaydin and Kaynak (1998), https://doi.org/10.24432/C50P49; LeCun, Cortes and Burges (1998),
http://yann.lecun.com/exdb/mnist; Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747; Rubin (1981),
https://doi.org/10.3102/10769986006004377.
"""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .binarize import support_of
from .fetch import REMOTES, find, places, read_idx
from .files import DataError, held_out_rows, read_table

HELD_OUT = 0.1


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data with what is known about them.

    ``train`` is float32 (N, D), C-contiguous, or a tuple of aligned arrays for models that take several (eight schools:
    effects and standard errors); ``test`` (M, D) or None; labels int64 (N,), (M,) or None; ``image_shape`` (H, W) with
    H W = D or None; ``support`` says where all values lie: "binary", "unit" ([0, 1]) or "real"; ``coords`` names rows
    or columns. Raises :class:`~.files.DataError` when these do not fit together.
    """

    name: str
    train: np.ndarray | tuple[np.ndarray, ...]
    test: np.ndarray | None = None
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    image_shape: tuple[int, int] | None = None
    support: str = "real"
    coords: dict[str, list] = field(default_factory=dict)
    source: str = ""
    licence: str = ""

    def __post_init__(self):
        if self.support not in ("binary", "unit", "real"):
            raise DataError(f"{self.name}: support is {self.support!r}; give binary, unit or real")
        if isinstance(self.train, tuple):
            if len({len(part) for part in self.train}) != 1:
                shapes = ", ".join(str(part.shape) for part in self.train)
                raise DataError(f"{self.name}: train has shapes {shapes}; give arrays with equally many rows")
            return
        for what, rows, labels in (
            ("train", self.train, self.train_labels),
            ("test", self.test, self.test_labels),
        ):
            if rows is None:
                continue
            if rows.ndim != 2 or rows.dtype != np.float32 or not rows.flags.c_contiguous:
                raise DataError(
                    f"{self.name}: {what} is {rows.dtype} of shape {rows.shape}; give a float32, C-contiguous matrix "
                    "(pyrarchy.files.as_rows makes one)"
                )
            if rows.shape[1] != self.train.shape[1]:
                raise DataError(
                    f"{self.name}: test has {rows.shape[1]} columns, train {self.train.shape[1]}; make them equal"
                )
            if labels is not None and labels.shape != (len(rows),):
                raise DataError(f"{self.name}: {what}_labels has shape {labels.shape}; give ({len(rows)},)")
        if self.image_shape is not None and np.prod(self.image_shape) != self.train.shape[1]:
            raise DataError(f"{self.name}: image_shape {self.image_shape} does not hold {self.train.shape[1]} columns")

    @property
    def num_train(self) -> int:
        """N, the number of training rows."""
        return len(self.train[0] if isinstance(self.train, tuple) else self.train)

    @property
    def dim(self) -> int:
        """D, the number of columns. Raises :class:`~.files.DataError` where ``train`` is a tuple."""
        return self._matrix("dim").shape[1]

    @property
    def mean(self) -> np.ndarray:
        """The mean of the training rows, float32 (D,), summed in float64. Raises as :attr:`dim` does."""
        return self._matrix("mean").mean(0, dtype=np.float64).astype(np.float32)

    def _matrix(self, what: str) -> np.ndarray:
        if isinstance(self.train, tuple):
            raise DataError(f"{self.name}: is a tuple of {len(self.train)} arrays, without a {what}; pick one array")
        return self.train


class DataRow(NamedTuple):
    """A row of :func:`list_data`; ``where`` is the folder found, "in the package", or how to get the data."""

    name: str
    what: str
    size: str
    licence: str
    where: str


def load_data(name_or_path, *, folder=None, held_out: float | None = None) -> Dataset:
    """A data set by name (see :func:`list_data`) or from a user's .npy, .npz or .csv file.

    ``folder`` is looked into first for MNIST and Fashion-MNIST. ``held_out`` is the share of a file's rows to hold out,
    0.1 by default (see :mod:`pyrarchy.files`); named sets and files with a ``test`` array bring their own split.
    Raises :class:`~.files.DataError`: one sentence with what was found, where, and what to do.

    >>> digits = load_data("digits")
    >>> digits.train.shape, digits.test.shape, digits.image_shape, digits.support
    ((1500, 64), (297, 64), (8, 8), 'unit')
    """
    name = os.fspath(name_or_path).replace("-", "_")
    if name in _NAMED:
        if held_out is not None:
            raise DataError(f"{name}: comes with its own split; leave held_out away")
        return _NAMED[name].load(folder)
    path = Path(name_or_path)
    if not path.suffix and len(path.parts) == 1 and not path.exists():
        near = difflib.get_close_matches(name, _NAMED, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"no data set is called {str(path)!r}; {hint}give one of {', '.join(_NAMED)}, or a file's path")
    return _from_file(path, held_out)


def list_data(folder=None) -> list[DataRow]:
    """One row per named data set. Nothing is opened or downloaded: ``where`` looks for file names only."""
    rows = []
    for name, entry in _NAMED.items():
        where = "in the package"
        if name in REMOTES:
            found = find(name, folder)
            where = f"get it with: pyrarchy data fetch {name}" if found is None else str(found)
        rows.append(DataRow(name, entry.what, entry.size, entry.licence, where))
    return rows


def _from_file(path: Path, held_out: float | None) -> Dataset:
    table = read_table(path)
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
    )


def _digits(folder) -> Dataset:
    with np.load(Path(__file__).with_name("data") / "digits.npz", allow_pickle=False) as archive:
        images, labels, order = archive["images"], archive["labels"].astype(np.int64), archive["order"]
    rows, labels = images[order].astype(np.float32) / np.float32(16), labels[order]
    train, test, entry = rows[:1500], rows[1500:], _NAMED["digits"]
    return Dataset("digits", train, test, labels[:1500], labels[1500:], (8, 8), "unit", {}, entry.source, entry.licence)


def _eight_schools(folder) -> Dataset:
    effects = np.array([28, 8, -3, 7, -1, 1, 18, 12], dtype=np.float32)
    errors = np.array([15, 10, 16, 11, 9, 11, 10, 18], dtype=np.float32)
    entry, coords = _NAMED["eight_schools"], {"school": list("ABCDEFGH")}
    return Dataset("eight_schools", (effects, errors), coords=coords, source=entry.source, licence=entry.licence)


def _newcomb(folder) -> Dataset:
    entry = _NAMED["newcomb"]
    return Dataset("newcomb", (_table("newcomb")[:, 0].copy(),), source=entry.source, licence=entry.licence)


def _old_faithful(folder) -> Dataset:
    entry, coords = _NAMED["old_faithful"], {"column": ["eruption", "waiting"]}
    return Dataset("old_faithful", _table("old_faithful"), coords=coords, source=entry.source, licence=entry.licence)


def _table(name: str) -> np.ndarray:
    path = Path(__file__).with_name("data") / f"{name}.csv"
    return np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32, ndmin=2)


def _gaussian_tree(folder) -> Dataset:
    # The tree of the ladder's exact test: d = 2, a = 1, z1_scale^2 = .1, x_scale = 1.
    rng = np.random.default_rng(0)
    z2 = rng.standard_normal((600, 1))
    z1 = z2 + np.sqrt(0.1) * rng.standard_normal((600, 2))
    x = (z1 + rng.standard_normal((600, 2))).astype(np.float32)
    entry = _NAMED["gaussian_tree"]
    return Dataset("gaussian_tree", x[:500], x[500:], source=entry.source, licence=entry.licence)


def _idx_images(name: str, folder) -> Dataset:
    found = find(name, folder)
    if found is None:
        looked = ", ".join(str(place) for place in places(name, folder))
        raise DataError(f"{name}: its four files are in none of {looked}; get them with: pyrarchy data fetch {name}")
    arrays = {}
    for file, digest in REMOTES[name].files.items():
        path = found / f"{file}.gz"
        arrays[file] = read_idx(path if path.is_file() else found / file, digest)
    train, test = (
        arrays[f"{part}-images-idx3-ubyte"].reshape(-1, 784).astype(np.float32) / np.float32(255)
        for part in ("train", "t10k")
    )
    labels = (arrays[f"{part}-labels-idx1-ubyte"].astype(np.int64) for part in ("train", "t10k"))
    entry = _NAMED[name]
    return Dataset(name, train, test, *labels, (28, 28), "unit", {}, entry.source, entry.licence)


@dataclass(frozen=True)
class _Named:
    what: str
    size: str
    licence: str
    source: str
    load: Callable[[str | os.PathLike | None], Dataset]


_NAMED = {
    "digits": _Named(
        "8x8 handwritten digits, 13 writers, grey in [0, 1]",
        "1,500 + 297 x 64",
        "CC BY 4.0",
        "Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49",
        _digits,
    ),
    "mnist": _Named(
        "28x28 handwritten digits, grey in [0, 1]",
        "60,000 + 10,000 x 784",
        "CC BY-SA 3.0",
        "LeCun, Cortes and Burges (1998), http://yann.lecun.com/exdb/mnist",
        lambda folder: _idx_images("mnist", folder),
    ),
    "fashion_mnist": _Named(
        "28x28 pictures of clothes, grey in [0, 1]",
        "60,000 + 10,000 x 784",
        "MIT",
        "Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747",
        lambda folder: _idx_images("fashion_mnist", folder),
    ),
    "eight_schools": _Named(
        "effects of coaching and their standard errors",
        "2 x 8",
        "facts, no licence needed",
        "Rubin (1981), Estimation in parallel randomized experiments, https://doi.org/10.3102/10769986006004377",
        _eight_schools,
    ),
    "newcomb": _Named(
        "passage times of light, Newcomb's third series of 1882, nanoseconds beyond 24,800",
        "66",
        "facts, no licence needed",
        "Stigler (1973), Simon Newcomb, Percy Daniell, and the history of robust estimation 1885-1920, Journal of the "
        "American Statistical Association 68, 872-879; the rows are those of newcomb in R's MASS",
        _newcomb,
    ),
    "old_faithful": _Named(
        "eruptions of the Old Faithful geyser: duration and waiting time to the next, minutes",
        "272 x 2",
        "facts, no licence needed",
        "Azzalini and Bowman (1990), A look at some data on the Old Faithful geyser, https://doi.org/10.2307/2347385; "
        "the rows are those of Haerdle (1991), as in R",
        _old_faithful,
    ),
    "gaussian_tree": _Named(
        "draws of the linear-Gaussian tree z2 -> z1 -> x with two leaves (simulated)",
        "500 + 100 x 2",
        "simulated, no licence needed",
        "simulated from pyrarchy.zoo.GaussianTree's density with seed 0",
        _gaussian_tree,
    ),
}
