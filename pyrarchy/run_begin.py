"""The beginning of a run in its folder: whether it may begin or go on there, and making room for it."""

import hashlib
import json
import os
import re
from contextlib import contextmanager, suppress

from .faults import DamagedRunError, DataError, RunError
from .run_config import BEFORE, MOVING, plain, read_config
from .run_folder import FILES

# How the numbers are computed, and what it is where nothing is said. A run that is resumed keeps it.
KEPT = {"threads": "auto", "tape": True}


def settle(config, out, resume=False):
    """Fill in, in place, what a run keeps from its beginning where the command line says nothing (``None``)."""
    before = read_config(out) if resume and (out / "config.json").exists() else {}
    for key, usual in KEPT.items():
        if config[key] is None:
            config[key] = before.get(key, usual)


def check_folder(out, config, resume=False, overwrite=False):
    """See that a run may begin or go on in a folder; an existing run is neither mixed with another nor overwritten.

    :raises RunError: for a folder that holds a run already, was begun with another configuration, or holds other files.
    :raises DataError: for data other than those the run began with.
    """
    if not (out / "config.json").exists():
        if any((out / name).exists() for name in FILES if name.startswith("checkpoint")):
            raise DamagedRunError(
                f"{out}: holds a checkpoint but no config.json; put that file back, or choose another --out"
            )
        if out.is_dir() and any(path.name != "example.npz" and path.name[:1] != "." for path in out.iterdir()):
            raise RunError(f"{out}: holds files, but not of a run; choose another --out")
        return
    if overwrite:
        return
    if not resume:
        if (out / "checkpoint.npz").exists():
            raise RunError(
                f"{out}: holds a run already; add --resume to continue it or --overwrite to begin anew, or choose another "
                "--out"
            )
        return  # a run that ended before it had anything to lose
    before, now = read_config(out), json.loads(json.dumps(plain(config)))
    differ = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
    if "data_sha256" not in differ and "data" in differ:
        differ.remove("data")  # the same rows under another name
    if "ranks" in differ:
        then = before.get("ranks", 1)
        how = f"resume it under torchrun --nproc-per-node {then}" if then > 1 else "resume it without torchrun"
        raise RunError(
            f"{out}: was started by {then} process(es), not {now.get('ranks', 1)}; {how}, or choose another --out"
        )
    if differ == ["data_sha256"]:
        raise DataError(
            f"{config['data']}: is not what the run {out} began with; put that file back, or choose another --out"
        )
    if differ:
        raise RunError(
            f"{out}: was started with another {', '.join(differ)} "
            f"({', '.join(f'{k}={before.get(k)}' for k in differ)}); give the same, or choose another --out"
        )


@contextmanager
def in_place_of(out):
    """A block that begins a run where another may be: unless it leaves a checkpoint, the folder is as it was before.

    The other run waits in a folder inside. The lock must be held.
    """
    try:
        _set_aside(out)
    except BaseException:
        _bring_back(out)
        raise
    try:
        yield
    finally:
        if not (out / "checkpoint.npz").exists():
            clear(out)
        _bring_back(out)


def _set_aside(out):
    """Move an earlier run's files into ``.before``, which has its name once all are in it."""
    found = [name for name in reversed(FILES) if (out / name).is_file()]
    if found:
        (out / MOVING).mkdir()
        for name in found:
            os.replace(out / name, out / MOVING / name)
        os.replace(out / MOVING, out / BEFORE)


def _bring_back(out):
    """Put what was set aside back, unless a checkpoint has taken its place; also what a killed process began to move."""
    if _is_ours(out / BEFORE):
        if (out / "checkpoint.npz").exists():
            clear(out / BEFORE)
            _take_away(out / BEFORE)
        else:
            clear(out)
            os.replace(out / BEFORE, out / MOVING)
    if _is_ours(out / MOVING):
        for name in FILES:  # the checkpoint last: with it the run is whole again
            if (out / MOVING / name).exists():
                os.replace(out / MOVING / name, out / name)
        _take_away(out / MOVING)


def _take_away(folder):
    with suppress(OSError):  # what a user has put into it stays
        folder.rmdir()


def _is_ours(folder):
    """Whether a folder holds a run's files alone. A link would be an invitation to move another run's."""
    return folder.is_dir() and not folder.is_symlink() and all(path.name in FILES for path in folder.iterdir())


def sweep(out):
    """Undo what a killed process left half done: its temporary files, a run set aside. The folder's lock must be held."""
    _bring_back(out)
    for path in out.iterdir():
        if any(re.fullmatch(rf"\.{re.escape(name)}\.(\w{{8}}|link)", path.name) for name in FILES):
            path.unlink(missing_ok=True)


def clear(out):
    """Take away what an earlier run left, and nothing else. The folder's lock must be held.

    The configuration goes last: until then a folder that this was interrupted in is known as that of a run.
    """
    for name in reversed(FILES):
        if not (out / name).is_dir():
            (out / name).unlink(missing_ok=True)


def data_sha256(data):
    """Sixteen hexadecimal digits of the rows of a data set, held-out ones included, by which it is known again."""
    digest = hashlib.sha256()
    for part in [*data.train, data.test] if isinstance(data.train, tuple) else [data.train, data.test]:
        if part is not None:
            array = part if part.flags.c_contiguous else part.copy()
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(memoryview(array).cast("B") if array.size else b"")
    return digest.hexdigest()[:16]
