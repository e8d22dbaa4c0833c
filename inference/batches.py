"""Minibatches whose order is a function of the seed and the epoch alone, so that a resumed run sees the same rows."""

import copy
import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from .isolation import rng_state, set_rng_state


class Batches:
    """Aligned tensors cut into minibatches, reshuffled every epoch.

    :param tensors: a tensor or a tuple of tensors with the same first dimension N (or anything, for one whole batch).
    :param int batch_size: rows per batch; ``None`` gives the data whole, in order, as one batch. The last batch of an
        epoch may be smaller.
    :param int seed: seed of the order.
    :param transform: function of a batch's tensors that returns a tensor or a tuple, applied at every use (dynamic
        binarisation, say); it draws from the global generator.

    >>> batches = Batches(torch.arange(5), batch_size=2)
    >>> [tuple(b[0].shape) for b in batches.epoch(0)], len(batches)
    ([(2,), (2,), (1,)], 3)
    """

    def __init__(self, tensors, batch_size=None, *, seed=0, transform=None):
        self.tensors = tensors if isinstance(tensors, tuple) else (tensors,)
        self.batch_size, self.seed, self.transform = batch_size, int(seed), transform
        self.num_rows, self.part, self.parts = None, 0, 1
        if batch_size is not None:
            if not isinstance(batch_size, int) or batch_size < 1:
                raise ValueError(f"batch_size must be a positive integer or None, not {batch_size!r}")
            shapes = [tuple(getattr(t, "shape", ())) for t in self.tensors]
            if not shapes or any(not s or s[0] != shapes[0][0] for s in shapes):
                raise ValueError(f"minibatches need tensors with one common first dimension, not shapes {shapes}")
            self.num_rows = shapes[0][0]
            if self.num_rows == 0:
                raise ValueError("the data have no rows")

    @property
    def whole(self):
        """Whether every step sees all rows, in one order."""
        return self.batch_size is None

    @property
    def step_size(self):
        """Rows of a step, all parts of it together."""
        return None if self.batch_size is None else self.batch_size * self.parts

    def shared(self, part, parts):
        """The part of one process among several that take every step together, ``batch_size`` rows each.

        The rows of a step are those that one process would take with as many times the batch size. In the last step of an
        epoch the parts differ by a row, and some may have none. Whole data stay whole: everybody sees all rows.

        >>> [[b[0].tolist() for b in Batches(torch.arange(5), 2).shared(i, 2).epoch(0)] for i in (0, 1)]
        [[[4, 1], [2]], [[0, 3], []]]
        """
        if self.num_rows is not None and self.num_rows < parts:
            raise ValueError(f"{self.num_rows} rows cannot be shared by {parts} processes: start fewer")
        own = copy.copy(self)
        if not self.whole:
            own.part, own.parts = part, parts
        return own

    def __len__(self):
        return 1 if self.batch_size is None else -(-self.num_rows // self.step_size)

    def epoch(self, number, start=0, rng=None):
        """Iterate over the batches of one epoch from batch ``start`` on; each is a tuple of tensors.

        :param rng: unused here: the order needs no global generator.
        """
        if self.batch_size is None:
            if start == 0:
                yield self._use(self.tensors)
            return
        generator = torch.Generator("cpu").manual_seed((self.seed * 1_000_003 + number) % 2**63)
        order = torch.randperm(self.num_rows, generator=generator, device="cpu")  # where the generator is
        for first in range(start * self.step_size, self.num_rows, self.step_size):
            rows = order[first : first + self.step_size][self.part :: self.parts]
            yield self._use(tuple(t[rows.to(t.device)] for t in self.tensors))

    def __iter__(self):
        return self.epoch(0)

    def _use(self, batch):
        if self.transform is None or is_empty(batch):
            return batch
        out = self.transform(*batch)
        return out if isinstance(out, tuple) else (out,)


class IterableBatches:
    """Any re-iterable of batches (a list, a ``DataLoader``), each a tensor or a tuple of model arguments."""

    def __init__(self, iterable):
        self.iterable = iterable

    @property
    def whole(self):
        """Whether every step sees the same rows, in one order (a loader may shuffle even its only batch)."""
        return isinstance(self.iterable, (list, tuple)) and len(self.iterable) == 1

    def __len__(self):
        return len(self.iterable)

    def epoch(self, number, start=0, rng=None):
        """Iterate once, from batch ``start`` on.

        :param rng: the generators' state when the epoch was begun: a shuffling loader draws its order from it.
        :raises ValueError: when nothing came, as with an exhausted generator.
        """
        now = rng_state()
        if start:
            set_rng_state(rng)
        iterator = iter(self.iterable)
        for _ in range(start):
            next(iterator)
        if start:
            set_rng_state(now)
        empty = start == 0
        for batch in iterator:
            empty = False
            yield tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if empty:
            raise ValueError(
                f"epoch {number} of the data gave no batch. Pass something that can be iterated again (a list or a "
                "DataLoader), not a generator."
            )


def as_batches(data, batch_size=None, seed=0):
    """What :func:`~pyrarchy.inference.fit` accepts as data, as an object with ``epoch(number)``.

    :param data: a tensor, a tuple of aligned tensors, ``None`` or ``()`` (a model without arguments), a
        :class:`Batches`, or an iterable of batches.
    """
    if hasattr(data, "epoch"):
        if batch_size is not None and batch_size != getattr(data, "batch_size", None):
            raise ValueError("batch_size was given twice: the data are batches already")
        return data
    if data is None:
        data = ()
    if isinstance(data, (torch.Tensor, tuple)):
        return Batches(data, batch_size, seed=seed)
    if not hasattr(data, "__iter__") or isinstance(data, (np.ndarray, dict, str)):
        raise TypeError(
            f"data must be a tensor, a tuple of tensors or an iterable of batches, not {type(data).__name__}"
        )
    if isinstance(data, Iterator):  # asking iter() would make a DataLoader draw a seed
        raise TypeError(
            f"data is a {type(data).__name__}, which is exhausted after one pass. Pass something that can be iterated "
            "again: a list or a DataLoader."
        )
    if batch_size is not None:
        raise ValueError("batch_size goes with a tensor or a tuple of tensors; an iterable brings its own batches")
    return IterableBatches(data)


def digest(batch):
    """A short hash of a batch, by which a resumed run knows its data again."""
    sha = hashlib.sha256()
    for part in batch:
        if isinstance(part, torch.Tensor):
            sha.update(f"{part.dtype} {tuple(part.shape)}".encode())
            array = part.detach().cpu().contiguous().numpy()
            sha.update(
                memoryview(array).cast("B") if array.size else b""
            )  # no copy: the rows may not fit in memory twice
    return sha.hexdigest()[:12]


def is_empty(batch):
    """Whether a batch is the part of a process that has no row in this step."""
    return any(getattr(part, "shape", (1,))[:1] == (0,) for part in batch)


def smallest_part(rows, batch_size, parts=1):
    """Rows of the smallest part of an epoch's steps; a part that has none does nothing and does not count."""
    step = batch_size * parts
    return max(1, (rows % step or step) // parts)


def smallest(batches):
    """Rows of the smallest batch of an epoch, or ``None`` where the data do not tell before they are drawn."""
    if isinstance(batches, Batches) and not batches.whole:
        return smallest_part(batches.num_rows, batches.batch_size, batches.parts)
    elif isinstance(batches, Batches):
        return _rows(batches.tensors)
    else:
        source = getattr(batches, "iterable", None)
        if isinstance(source, (list, tuple)):
            return min((n for n in map(_rows, source) if n is not None), default=None)
        size = getattr(source, "batch_size", None)  # a DataLoader
        if not isinstance(size, int) or not hasattr(source, "dataset") or not hasattr(source.dataset, "__len__"):
            return None
        rows = len(source.dataset)
        if getattr(source, "drop_last", False):
            return size
    return rows % size or size


def _rows(batch):
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    return min((part.shape[0] for part in parts if getattr(part, "shape", ())), default=None)


def length(batches):
    """Batches an epoch, or ``None`` for an iterable that does not know."""
    try:
        return len(batches)
    except TypeError:  # an iterable without a length
        return None
