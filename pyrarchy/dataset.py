"""What a data set is: its rows with what is known about them, and how a named one announces itself.

A module of named sets holds ``NAMED``, a dictionary name -> :class:`NamedData`; :mod:`pyrarchy.datasets` lists the modules.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .faults import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data with what is known about them.

    ``train`` is float32 (N, D), C-contiguous, or a tuple of aligned arrays for models that take several (eight schools:
    effects and standard errors; an empty tuple for a model that is a density and takes no data); ``test`` (M, D) or None;
    labels int64 (N,), (M,) or None; ``image_shape`` (H, W) with H W = D or None; ``support`` says where all values lie:
    "binary", "unit" ([0, 1]) or "real"; ``coords`` names rows or columns; ``remarks`` say what was done to a file's rows.
    Raises :class:`~.faults.DataError` when these do not fit together.
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
    remarks: tuple[str, ...] = ()

    def __post_init__(self):
        if self.support not in ("binary", "unit", "real"):
            raise DataError(f"{self.name}: support is {self.support!r}; give binary, unit or real")
        if isinstance(self.train, tuple):
            if len({len(part) for part in self.train}) > 1:
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
        """N, the number of training rows; 0 for no data."""
        if isinstance(self.train, tuple) and not self.train:
            return 0
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


@dataclass(frozen=True)
class NamedData:
    """A named data set: what it is and how large, in words; its licence and source; and ``load(folder)``, which returns
    its :class:`Dataset` (``folder`` is where to look first for data that are not in the package). ``where`` says where
    data come from that are neither in the package nor fetched."""

    what: str
    size: str
    licence: str
    source: str
    load: Callable[[str | os.PathLike | None], Dataset]
    where: str = "in the package"
