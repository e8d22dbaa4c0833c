"""``config.json``, what was asked of a run: written in one step, and read as something that anybody may have written."""

import json
import math
import sys
from pathlib import Path

import numpy as np

from .atomic import write_atomically
from .faults import DamagedRunError, RunError
from .placement import DTYPES
from .registry import get_pair

# Where an earlier run waits until the one in its place has a checkpoint; and where it is while it is moved.
BEFORE, MOVING = ".before", ".moving"
_KINDS = {
    "pair": str,
    "options": dict,
    "data": str,
    "rows": int,
    "support": str,
    "binarize": str,
    "method": str,
    "objective": str,
    "seed": int,
    "samples": int,
    "ranks": int,
}


def _count(value):
    return type(value) is int and value >= 1


# Entry -> what it must be, beyond its type.
_VALUES = {
    "columns": (
        lambda value: value is None or (isinstance(value, list) and value and all(type(c) is int for c in value)),
        "a list of columns' numbers or null",
    ),
    "threads": (lambda value: value == "auto" or _count(value), "auto or a number"),
    "warm_up": (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a share from 0 to 1"),
    "samples": (_count, "a number of at least 1"),
    "binarize": (lambda value: value in ("dynamic", "fixed", "none"), "dynamic, fixed or none"),
}


class _Config(dict):
    """A configuration that names its file when an entry is missing."""

    def __init__(self, path, content):
        super().__init__(content)
        self.path = path

    def __missing__(self, key):
        raise DamagedRunError(f"{self.path}: has no entry '{key}' (written by another version of pyrarchy?); fit again")


def read_config(run):
    """The configuration of a run.

    :raises RunError: when the folder is not a run, or (:class:`~.faults.DamagedRunError`) its file cannot be used.
    """
    path = Path(run) / "config.json"
    if any((Path(run) / name).is_dir() for name in (BEFORE, MOVING)) and not (Path(run) / "checkpoint.npz").exists():
        raise DamagedRunError(
            f"{run}: its run is being replaced, or was when a process was killed; the next fit with --out {run} then brings "
            "it back"
        )
    if path.exists() and not path.is_file():  # a pipe would keep whoever opens it waiting
        raise DamagedRunError(f"{path}: is no file; fit again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{run}: not a run folder (it has no config.json); give the --out of a fit") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedRunError(f"{path}: cannot be read ({error}); fit again") from None
    if not isinstance(content, dict):
        raise DamagedRunError(f"{path}: holds a {type(content).__name__}, not a run's configuration; fit again")
    for key, kind in _KINDS.items():
        if key in content and type(content[key]) is not kind:
            raise DamagedRunError(
                f"{path}: its entry '{key}' is {content[key]!r}, not of type {kind.__name__}; fit again"
            )
    if content.setdefault("dtype", "float32") not in DTYPES:
        raise DamagedRunError(
            f"{path}: its entry 'dtype' is {content['dtype']!r}, not one of {', '.join(DTYPES)}; fit again"
        )
    content.setdefault("threads", "auto")
    content.setdefault("tape", True)
    for key, (fits, needed) in _VALUES.items():
        if key in content and not fits(content[key]):
            raise DamagedRunError(f"{path}: its entry '{key}' is {content[key]!r}, not {needed}; fit again")
    return _Config(path, content)


def pair_of(config):
    """The row of a run's pair. Opening a run imports nobody's code: that is for whoever opens it to do.

    :raises RunError: when the pair is somebody's own, and its module has not been imported by this program.
    """
    name = config["pair"]
    if ":" in name and name.partition(":")[0] not in sys.modules:
        raise RunError(
            f"{config.path}: the pair {name} is code that is not in the folder, and opening a run executes none: if you "
            f"trust it, import {name.partition(':')[0]} first, or give --pair {name} on the command line"
        )
    try:
        return get_pair(name)
    except ValueError as error:
        raise DamagedRunError(f"{config.path}: {error}") from None


def write_json(path, content):
    """Write JSON in one step; numbers that are not finite become null, which every reader takes."""
    write_atomically(path, (json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n").encode())


def plain(value):
    """A value as JSON can hold it: numpy to Python, keys to strings, what is not finite to ``None``."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
