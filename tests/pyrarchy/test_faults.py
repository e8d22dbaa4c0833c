"""Exit codes: each condition has its own, and what is said is one line."""

import errno

import numpy as np
import pytest
import torch

from pyrarchy import DataError, cli
from pyrarchy.atomic import WriteError
from pyrarchy.faults import DamagedRunError, FolderBusyError, RunError, exit_code, one_line
from pyrarchy.inference import CheckpointError
from pyrarchy.inference.loop import DivergedError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 2),
        (TypeError("x"), 2),
        (RunError("x"), 2),
        (ImportError("x"), 2),
        (DataError("x"), 3),
        (DamagedRunError("x"), 3),
        (CheckpointError("x"), 3),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 3),
        (MemoryError(), 4),
        (np._core._exceptions._ArrayMemoryError((10**9,), np.dtype("f4")), 4),
        (torch.OutOfMemoryError("CUDA out of memory"), 4),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), 4),
        (DivergedError("x"), 5),
        (FolderBusyError("x"), 6),
        (WriteError(errno.ENOSPC, "x"), 6),
        (OSError(errno.ENOSPC, "No space left on device"), 6),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 6),
        (RuntimeError("size mismatch"), 1),
        (KeyError("x"), 1),
    ],
)
def test_each_condition_has_its_code_and_its_line(error, code, monkeypatch, command):
    assert exit_code(error) == code

    def fail(args):
        raise error

    monkeypatch.setitem(cli.HANDLERS, "check", fail)
    found, _, err = command("check", "vae")
    assert found == code and len(err) == 1 and err[0].startswith("error: ")
    assert (type(error).__name__ in err[0]) == (code == 1)  # only what nobody foresaw shows its type


def test_lines_say_what_to_do():
    assert one_line(MemoryError()) == "out of memory: take a smaller --batch-size, fewer --samples, or a smaller model"
    assert "tried 5 bytes): take" in one_line(torch.OutOfMemoryError("tried\n 5 bytes."))
    assert one_line(PermissionError(13, "Permission denied", "a.npz")).startswith("a.npz: Permission denied; check")
    assert "--debug" in one_line(KeyError("x")) and "--debug" in one_line(ValueError())
    assert str(WriteError(28, "no room")) == "no room"


def test_a_model_that_does_not_fit_in_memory_is_one_line_and_code_4(refused, here, tmp_path):
    out = tmp_path / "runs" / "run"
    said = refused(4, "fit", "vae", "hidden=4000000,4000000", "--steps", 1, "--quiet", "--out", out)
    assert "out of memory" in said and "smaller model" in said
    assert list(tmp_path.iterdir()) == []
