"""Checkpoints that open without executing code: arrays in one zip of .npy files, everything else in one JSON entry.

The file is written beside its place, flushed and then moved over the old one, which is kept as the generation before.
Two generations and a temporary file need room; a full disk leaves both generations as they were.
A SHA-256 over all entries detects damage; the same state gives the same bytes. Torch is imported by what reads a tensor.
"""

import hashlib
import io
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .atomic import write_atomically

_JSON = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not one of ours."""


@dataclass(frozen=True, eq=False)
class AsTensor:
    """An array that is to be read back as a tensor, for a writer without torch."""

    array: np.ndarray


def _is_tensor(value):
    torch = sys.modules.get("torch")  # without it nothing is one
    return torch is not None and isinstance(value, torch.Tensor)


def _pack(value, arrays):
    """Plain JSON for a nested state, its arrays and tensors moved to ``arrays``."""
    if _is_tensor(value):
        value = AsTensor(value.detach().cpu().numpy())
    if isinstance(value, (AsTensor, np.ndarray, np.generic)):
        kind = "tensor" if isinstance(value, AsTensor) else "array"
        key = f"{len(arrays):05d}"
        arrays[key] = value.array if kind == "tensor" else np.asarray(value)
        return {kind: key}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_pack(v, arrays) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_pack(k, arrays), _pack(v, arrays)] for k, v in value.items()]}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpack(value, arrays):
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        import torch

        return torch.from_numpy(np.array(arrays[content]))
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {_unpack(k, arrays): _unpack(v, arrays) for k, v in content}
    return {"list": list, "tuple": tuple}[kind](_unpack(v, arrays) for v in content)


def _digest(entries):
    digest = hashlib.sha256()
    for name in sorted(entries):
        digest.update(f"{name}:{len(entries[name])}:".encode())
        digest.update(entries[name])
    return digest.hexdigest().encode()


def save_state(path, state):
    """Write a nested state of tensors, arrays and plain Python values; keep the previous file as ``.previous``.

    :raises TypeError: for a value of any other type.
    """
    arrays = {}
    tree = _pack(state, arrays)
    entries = {_JSON: json.dumps(tree).encode()}
    for key, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, allow_pickle=False)
        entries[f"{key}.npy"] = buffer.getvalue()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)  # a fixed date: same state, same bytes
        archive.comment = _digest(entries)
    # a damaged file must not push out the good generation before it
    write_atomically(path, content.getvalue(), keep=previous(path) if _intact(path) else None)


def _entries(archive):
    """Name -> bytes. Names are keys and never paths; ours are not packed, so none unpacks to more than the file holds."""
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ValueError("its entries are compressed")
    return {info.filename: archive.read(info) for info in archive.infolist()}


def _intact(path):
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive)
            return _digest(entries) == archive.comment
    except Exception:  # missing, or no zip at all
        return False


def previous(path):
    """Where the generation before a checkpoint lies."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load_state(path):
    """Read a state written by :func:`save_state`, without unpickling anything.

    :raises CheckpointError: when the file is missing, damaged (its digest differs) or not a checkpoint.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would keep whoever opens it waiting
            raise CheckpointError(f"{path}: is no file")
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive)
            if _digest(entries) != archive.comment:
                raise CheckpointError(f"{path}: damaged (its SHA-256 differs from the one it carries)")
        arrays = {
            name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
            for name, data in entries.items()
            if name != _JSON
        }
        return _unpack(json.loads(entries[_JSON]), arrays)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except CheckpointError:
        raise
    except Exception as error:  # a damaged zip raises a dozen different types
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__}: {error})") from None


def load_latest(path):
    """The newest readable generation: ``(state, path read, remark)``; the remark says when the newest was damaged.

    :raises CheckpointError: when neither can be read.
    """
    try:
        return load_state(path), Path(path), None
    except CheckpointError as error:
        older = previous(path)
        try:
            return load_state(older), older, f"{error}; the generation before it is used"
        except CheckpointError:
            raise CheckpointError(f"{error}, and there is no good one before it; fit again") from None
