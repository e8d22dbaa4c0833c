"""Devices and precisions: what is not there is one line, and float64 reaches every number of a run."""

import numpy as np
import pytest
import torch

import pyrarchy
from pyrarchy.inference import load_state
from pyrarchy.placement import default_dtype, find_device

from .conftest import RUNS


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", "cpu:3", "xpu", "cuda:99", "mps:1"])
def test_devices_that_are_not_there_are_one_line(name, refused, here, tmp_path):
    said = refused(2, "fit", *RUNS["vae"], "--device", name, "--out", tmp_path / "run")
    assert said.startswith(f"error: --device {name}: ") and "give" in said
    assert list(tmp_path.iterdir()) == []


def test_a_named_cpu_is_the_cpu(fitted, here, command, tmp_path, no_pictures):
    assert find_device("cpu:0").type == "cpu"
    out = tmp_path / "run"
    assert command("fit", *RUNS["vae"], "--device", "cpu:0", "--quiet", "--out", out)[0] == 0
    assert (out / "history.csv").read_bytes() == (fitted("vae").out / "history.csv").read_bytes()


def test_em_has_no_device(refused, tmp_path):
    said = refused(2, "fit", "ppca", "--device", "cuda", "--out", tmp_path / "run")
    assert "fitted by exact EM" in said and "leave --device away" in said


@pytest.mark.parametrize("name", ["vae", "ladder_vae_bn", "ppca", "eight_schools", "plain"])
def test_float64_reaches_every_number(name, here, command, tmp_path):
    out = tmp_path / "run"
    assert command("fit", *RUNS[name], "--dtype", "float64", "--quiet", "--out", out)[0] == 0
    assert torch.get_default_dtype() == torch.float32
    state = load_state(out / "checkpoint.npz")
    tensors = [t for weights in state["modules"] for t in weights.values()] + list(state["params"].values())
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float64}
    model, _ = pyrarchy.load(out)
    assert {p.dtype for p in getattr(model, "parameters", list)()} <= {torch.float64}
    assert command("report", out, "--quick")[0] == 0
    assert command("sample", out, "--num", 3, "--out", tmp_path / "s.npz")[0] == 0
    with np.load(tmp_path / "s.npz") as found:
        assert {found[key].dtype.name for key in found.files} <= {"float64", "int64"}


def test_the_default_is_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), default_dtype("float64"):
        assert torch.zeros(1).dtype == torch.float64
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32
