"""Checkpoints hold any state to the bit, execute nothing, notice damage and keep the generation before."""

import contextlib
import io
import json
import pickle
import random
import time
import zipfile

import numpy as np
import pytest
import torch

from pyrarchy.checkpoint import _digest, load_latest, previous
from pyrarchy.inference import CheckpointError, load_state, save_state


def state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weights": torch.randn(3, 2, generator=generator),
        "double": torch.randn((), generator=generator, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "transposed": torch.arange(6).reshape(2, 3).t(),
        "empty": torch.zeros(0, 4),
        "array": np.arange(5, dtype=np.uint32),
        "nested": [{1: (2, None, "name", 0.1, float("inf"), True)}, []],
        "python": random.Random(seed).getstate(),
    }


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    else:
        assert a == b
    return True


def test_a_state_comes_back_to_the_bit(tmp_path):
    save_state(tmp_path / "c.npz", state())
    assert same(load_state(tmp_path / "c.npz"), state())
    loaded = load_state(tmp_path / "c.npz")["weights"]
    loaded += 1  # a writable tensor of its own


def test_the_same_state_gives_the_same_bytes_and_leaves_no_litter(tmp_path, monkeypatch):
    for day, (name, seed) in enumerate((("a.npz", 0), ("b.npz", 0), ("c.npz", 1))):
        monkeypatch.setattr(time, "time", lambda day=day: 1e9 + 86_400.0 * day)  # a zip notes the hour of its entries
        save_state(tmp_path / name, state(seed))
    a, b, c = ((tmp_path / f"{n}.npz").read_bytes() for n in "abc")
    assert a == b != c and len(list(tmp_path.iterdir())) == 3
    assert np.load(tmp_path / "a.npz", allow_pickle=False)["00000"].shape == (3, 2)  # numpy opens it too


def test_the_generation_before_is_kept_and_used_when_the_newest_is_damaged(tmp_path):
    path = tmp_path / "c.npz"
    save_state(path, state(0))
    save_state(path, state(1))
    same(load_state(previous(path)), state(0))
    assert load_latest(path)[1:] == (path, None)
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"c\.npz"):
            load_state(path)
        got, used, remark = load_latest(path)
        same(got, state(0))
        assert used == previous(path) and "generation before" in remark
    save_state(path, state(2))  # saving over damage must not push out the good generation
    same(load_state(previous(path)), state(0))
    path.write_bytes(b"")
    previous(path).write_bytes(b"")
    with pytest.raises(CheckpointError):
        load_latest(path)


@pytest.mark.parametrize("at", range(0, 2400, 97))
def test_one_flipped_bit_anywhere_is_noticed(tmp_path, at):
    path = tmp_path / "c.npz"
    save_state(path, {"w": torch.arange(40.0), "n": "word" * 20})
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 4
    path.write_bytes(bytes(content))
    with contextlib.suppress(CheckpointError):  # a bit that nobody reads may pass, a changed number may not
        same(load_state(path), {"w": torch.arange(40.0), "n": "word" * 20})


def test_a_well_formed_archive_with_another_array_is_noticed(tmp_path):
    """The zip's own sums are right, as after a careless edit: only the digest over all entries tells."""
    path, other = tmp_path / "c.npz", tmp_path / "d.npz"
    save_state(path, {"w": torch.zeros(3)})
    save_state(other, {"w": torch.ones(3)})
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other) as donor:
        comment = archive.comment
        entries = {"state.json": archive.read("state.json"), "00000.npy": donor.read("00000.npy")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.comment = comment
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_state(path)


class Bomb:
    fired = False

    def __reduce__(self):
        return setattr, (Bomb, "fired", True)


def test_no_pickle_is_executed(tmp_path):
    """An object array inside a well-formed archive, and a torch file: refused without running their code."""
    path = tmp_path / "c.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    entries = {"state.json": json.dumps({"array": "00000"}).encode(), "00000.npy": buffer.getvalue()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.comment = _digest(entries)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_state(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        load_state(path)
    torch.save({"state": Bomb()}, path)
    with pytest.raises(CheckpointError):
        load_state(path)
    assert not Bomb.fired


def test_what_cannot_be_held_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "c.npz"
    save_state(path, state())
    before = path.read_bytes()
    with pytest.raises(TypeError, match="Bomb"):
        save_state(path, {"x": Bomb()})
    with pytest.raises(ValueError, match=r"allow_pickle|Object arrays"):
        save_state(path, {"x": np.array([None])})
    assert path.read_bytes() == before
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_state(tmp_path / "none.npz")
