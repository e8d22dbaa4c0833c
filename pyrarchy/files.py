r"""A user's own ``.npy``, ``.npz`` or ``.csv`` file as float32 arrays, or one sentence that says what is wrong with it.

Whatever the byte order, memory order or number type in the file, the same numbers give the same float32, C-contiguous
arrays. Files are opened without executing anything in them: pickled objects are refused.

Held-out rows: unless the file brings its own ``test`` array, :func:`held_out_rows` picks one row in ten. The choice
depends on the number of rows only, never on their values, on NumPy's version or on the machine.

A ``.npy`` file of float32 rows that is larger than half of the machine's memory stays on disk (a read-only
``np.memmap``). Its held-out rows are then the *last* tenth, because picking rows would copy the file into memory.
"""

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .csv_table import read_csv
from .faults import DataError

SUFFIXES = (".npy", ".npz", ".csv")
MISSING = ("refuse", "drop-rows")
_CHUNK = 1 << 24  # numbers looked at in one go, so that checking a file larger than memory does not load it
_BESIDE = {"test", "labels", "test_labels"}  # what an .npz may hold beside the data
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


@dataclass(frozen=True, eq=False)
class Table:
    """What a file holds: ``train`` (N, D) and, where the file has them, ``test`` (M, D) and labels (N,), (M,).

    ``image_shape`` is (H, W) where the file held (N, H, W) arrays, which are flattened to D = H W columns;
    ``coords`` is ``{"column": names}`` where the file names its columns; ``mapped`` says that rows stay on disk.
    """

    train: np.ndarray
    test: np.ndarray | None = None
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    image_shape: tuple[int, int] | None = None
    coords: dict[str, list[str]] = field(default_factory=dict)
    mapped: bool = False
    dropped: int = 0  # rows with a NaN or an infinity that were left out


def read_table(path, *, memory: int | None = None, missing: str = "refuse") -> Table:
    """Read a .npy, .npz or .csv file, checked and converted to float32.

    ``memory`` is the number of bytes above which a .npy file stays on disk (default: half of the machine's memory).
    ``missing="drop-rows"`` leaves out rows that hold a NaN, an infinity or, in a .csv, an empty cell or NA (no row of a
    file that stays on disk). Raises :class:`DataError` for anything that is not a table of finite numbers.
    """
    if missing not in MISSING:
        raise DataError(f"missing is {missing!r}; give one of {', '.join(MISSING)}")
    drop = missing == "drop-rows"
    path = Path(os.path.expanduser(path))  # which leaves an unknown ~user as it is
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise DataError(f"{path}: {suffix} files are pickles, which run code when opened; np.save the array instead")
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: cannot read {suffix or 'a file without a suffix'}; give a .npy, .npz or .csv file")
    if not path.is_file():
        found = "is a folder" if path.is_dir() else f"no such file (looked in {path.absolute().parent})"
        raise DataError(f"{path}: {found}; give the path of a {suffix} file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); save it again")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: may not be read by this user; change its permissions")
    if suffix == ".csv":
        values, names = read_csv(path, gaps=drop)
        values, keep = _complete(values, path) if drop else (values, None)
        train, _ = as_rows(values, str(path))
        return Table(train, coords={} if names is None else {"column": names}, dropped=_count(keep))
    _check_kind(path, suffix)
    if suffix == ".npz":
        return _read_npz(path, drop)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can raise nearly anything: ValueError, EOFError, SyntaxError, ...
        raise _unreadable(path, error) from error
    if mapped.nbytes <= (_half_of_memory() if memory is None else memory):
        values, keep = _complete(mapped, path) if drop else (np.array(mapped), None)
        train, image_shape = as_rows(values, str(path))
        return Table(train, image_shape=image_shape, dropped=_count(keep))
    if mapped.dtype != np.float32 or not mapped.flags.c_contiguous:  # converting would load what does not fit
        found = f"{mapped.nbytes} bytes of {mapped.dtype.str}"
        raise DataError(f"{path}: has {found}, too many to convert in memory; save it as native float32 in C order")
    train, image_shape = as_rows(mapped, str(path))
    return Table(train, image_shape=image_shape, mapped=True)


def as_rows(values: np.ndarray, where: str) -> tuple[np.ndarray, tuple[int, int] | None]:
    """``values`` (N, D) or (N, H, W) of any real number type -> float32, C-contiguous (N, D), and (H, W) or None.

    ``where`` begins every error. Raises :class:`DataError` for other dimensions, no rows or columns, objects, text,
    complex numbers, and the first NaN or infinity, named by row and column counted from 0.

    >>> rows, image_shape = as_rows(np.arange(12).reshape(2, 2, 3), "example")
    >>> rows.shape, rows.dtype.name, image_shape
    ((2, 6), 'float32', (2, 3))
    """
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where}: holds {values.dtype}, not real numbers; save it as float32")
    if values.ndim not in (2, 3):
        hint = "(rows, 1) or (1, columns)" if values.ndim == 1 else "(rows, columns)"
        raise DataError(
            f"{where}: has shape {values.shape}, not rows x columns (or N x H x W images); reshape to {hint}"
        )
    if values.size == 0:
        what = "rows" if values.shape[0] == 0 else "columns"
        raise DataError(f"{where}: has shape {values.shape}, no {what}; save an array with at least one row and column")
    image_shape = values.shape[1:] if values.ndim == 3 else None
    values = values.reshape(len(values), -1)
    with np.errstate(over="ignore"):  # the check below finds an overflow and says where
        rows = np.ascontiguousarray(values, dtype=np.float32)
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        bad = np.argwhere(~np.isfinite(rows[start : start + step]))
        if len(bad):
            row, column = int(bad[0, 0]) + start, int(bad[0, 1])
            found = values[row, column]
            reason = "not a finite number; fill it, or leave such rows out (fit does with --missing drop-rows)"
            if np.isfinite(found):
                reason = "too large for float32; rescale it"
            raise DataError(f"{where}: row {row}, column {column} (counted from 0) is {found}, {reason}")
    return rows, image_shape


def _complete(values, where):
    """The rows without a NaN or an infinity, and which they are: an array of bool, or ``None`` where all can be."""
    if values.dtype.kind != "f" or values.ndim not in (2, 3) or values.size == 0:
        return np.array(values), None
    step = max(1, _CHUNK // values[0].size)
    parts = [values[start : start + step] for start in range(0, len(values), step)]
    keep = np.concatenate([np.isfinite(part).reshape(len(part), -1).all(1) for part in parts])
    if not keep.any():
        raise DataError(f"{where}: each of its {len(keep)} rows holds a NaN or an infinity; none is left to fit")
    return values[keep], keep


def _count(keep):
    return 0 if keep is None else int((~keep).sum())


def shuffled(count: int, seed: int = 0) -> np.ndarray:
    """A permutation of range(count), int64 (count,), that no version of NumPy or machine changes.

    It sorts raw PCG64 words: NumPy promises to keep a bit generator's stream, not that of ``permutation``.

    >>> shuffled(6).tolist()
    [3, 2, 1, 0, 4, 5]
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def held_out_rows(count: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to hold out, each sorted: the first ``floor(share * count)`` of :func:`shuffled`.

    Fewer than 1 / share rows hold out nothing. Raises :class:`DataError` unless 0 <= share < 1.

    >>> train, test = held_out_rows(25)
    >>> len(train), test.tolist()
    (23, [3, 11])
    """
    if not 0.0 <= share < 1.0:
        raise DataError(f"held_out is {share}; give the share of rows to hold out, at least 0 and below 1")
    order, held = shuffled(count), int(share * count + 1e-9)  # 0.29 * 100 is 28.999...: the tolerance keeps 29
    return np.sort(order[held:]), np.sort(order[:held])


def _half_of_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2 << 30


def _check_kind(path: Path, suffix: str) -> None:
    # By its first bytes: np.load takes whatever it does not know for a pickle, and leaves a broken archive open.
    with path.open("rb") as stream:
        start = stream.read(6)
    if start[:1] == b"\x80":
        raise _unreadable(path, ValueError("pickle"))
    found = ".npy" if start == b"\x93NUMPY" else ".npz" if start[:2] == b"PK" else None
    if found is None:
        raise DataError(f"{path}: is truncated, corrupt or no {suffix} file (begins with {start!r}); save it again")
    if found != suffix:
        raise DataError(f"{path}: is a {found} file under another name; rename it to {path.stem}{found}")


def _unreadable(what, error: Exception) -> Exception:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return MemoryError(f"{what} does not fit")
    if "pickle" in str(error).lower() or "python object" in str(error).lower():
        return DataError(f"{what}: holds pickled Python objects, which are refused; save an array of numbers instead")
    return DataError(f"{what}: is truncated or corrupt ({type(error).__name__}: {error}); save or copy it again")


def _read_npz(path: Path, drop: bool) -> Table:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(np.load(stack.enter_context(path.open("rb")), allow_pickle=False))
        except Exception as error:  # as in read_table
            raise _unreadable(path, error) from error
        keys = set(archive.files)
        named = keys & {"train", "x"} or (keys - _BESIDE if len(keys) == 1 else set())
        if len(named) != 1:
            found, beside = ", ".join(sorted(keys)) or "nothing", ", ".join(sorted(_BESIDE))
            raise DataError(f"{path}: holds {found}; save one array, or one called train or x (and beside it {beside})")
        (key,), arrays = named, {}
        for name in named | (keys & _BESIDE):
            try:
                arrays[name] = archive[name]
            except Exception as error:  # as in read_table, for one member
                raise _unreadable(f"{path}[{name}]", error) from error
            if not isinstance(arrays[name], np.ndarray):  # numpy hands out an entry of another kind as its bytes
                raise DataError(f"{path}[{name}]: is no array of numbers; save one with np.savez")
    kept = dict.fromkeys((key, "test"))
    if drop:
        for name in kept:
            if name in arrays:
                arrays[name], kept[name] = _complete(arrays[name], f"{path}[{name}]")
    train, image_shape = as_rows(arrays[key], f"{path}[{key}]")
    test = None
    if "test" in arrays:
        test, test_shape = as_rows(arrays["test"], f"{path}[test]")
        if test.shape[1] != train.shape[1] or test_shape != image_shape:
            shapes = f"test has shape {arrays['test'].shape} but {key} has {arrays[key].shape}"
            raise DataError(f"{path}: {shapes}; give both the same columns")
    elif "test_labels" in arrays:
        raise DataError(f"{path}: holds test_labels but no test; add the array test or leave test_labels out")
    labels = _as_labels(arrays.get("labels"), train, kept[key], f"{path}[labels]")
    test_labels = _as_labels(arrays.get("test_labels"), test, kept["test"], f"{path}[test_labels]")
    return Table(train, test, labels, test_labels, image_shape, dropped=sum(map(_count, kept.values())))


def _as_labels(labels, rows, keep, where):
    if labels is None:
        return None
    count = len(rows) if keep is None else len(keep)
    if labels.shape != (count,) or labels.dtype.kind not in "biu":
        raise DataError(f"{where}: is {labels.dtype} {labels.shape}; give one integer per row, shape ({count},)")
    return labels.astype(np.int64)[slice(None) if keep is None else keep]
