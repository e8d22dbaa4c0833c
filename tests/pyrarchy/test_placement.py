"""Devices and precisions, threads: what is not there is one line, and float64 reaches every number of a run."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import pyrarchy
from pyrarchy import fit_command
from pyrarchy.inference import load_state
from pyrarchy.placement import default_dtype, find_device
from pyrarchy.run_config import read_config
from pyrarchy.zoo.factor_analysis_arrays import FactorAnalysisArrays

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


@pytest.fixture
def cores(monkeypatch):
    """Torch says that it has four threads, and notes what it is given in this list."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    given = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: given[-1])
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    return given


@pytest.mark.parametrize("method", ["svi", "em", "cavi"])
def test_a_run_computes_on_its_threads_to_the_end(method, here, command, tmp_path, no_pictures, cores, monkeypatch):
    """Evaluation and a later report, too; afterwards torch has its own again."""
    name = {"svi": ("vae", "z_dim=3", "hidden=7,5", "--data", "unit.npy", "--steps", "9"),
            "em": ("ppca", "z_dim=2", "--data", "real.csv"), "cavi": ("normal_gamma",)}[method]  # fmt: skip
    evaluate, seen = fit_command.Fit.evaluate, []

    def look(self, *args):
        seen.append(torch.get_num_threads())
        return evaluate(self, *args)

    monkeypatch.setattr(fit_command.Fit, "evaluate", look)
    words = ("fit", *name, "--samples", "7")
    code, said, _ = command(*words, "--out", tmp_path / "auto")
    assert code == 0 and read_config(tmp_path / "auto")["threads"] == "auto"
    assert ("1 thread (not timed: a short run)" in "\n".join(said)) == (method == "svi")
    assert command(*words, "--threads", 2, "--quiet", "--out", tmp_path / "two")[0] == 0
    for out in ("auto", "two"):
        assert command("report", tmp_path / out, "--quick")[0] == 0
    assert seen == [1, 2, 1, 2] and cores[-1] == 4


def test_a_resumed_run_keeps_its_threads(here, command, refused, tmp_path, no_pictures, cores):
    out = tmp_path / "run"
    assert command("fit", *RUNS["vae"], "--quiet", "--out", out)[0] == 0
    assert load_state(out / "checkpoint.npz")["threads"] == 1
    said = refused(2, "fit", *RUNS["vae"], "--threads", 2, "--resume", "--out", out)
    assert "was started with another threads (threads=auto)" in said
    command("fit", *RUNS["ppca"], "--threads", 3, "--quiet", "--out", tmp_path / "three")
    assert command("fit", *RUNS["ppca"], "--resume", "--quiet", "--out", tmp_path / "three")[0] == 0  # kept, unsaid
    assert "1 thread (as before)" in "\n".join(command("fit", *RUNS["vae"], "--resume", "--out", out)[1])
    assert "auto or a whole number from 1" in refused(2, "fit", "vae", "--threads", "some")


def test_numpy_s_blas_has_the_threads_asked_for(here, command, tmp_path, no_pictures, monkeypatch):
    """Torch's number does not govern it."""
    seen, em = [], FactorAnalysisArrays.fit

    def look(*args, **kwargs):
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        return em(*args, **kwargs)

    monkeypatch.setattr(FactorAnalysisArrays, "fit", look)
    with threadpool_limits(2, user_api="blas"):
        for number, out in (("auto", "auto"), (1, "one")):
            assert command("fit", *RUNS["ppca"], "--threads", number, "--quiet", "--out", tmp_path / out)[0] == 0
    assert seen == [{2}, {1}]


def test_the_default_is_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), default_dtype("float64"):
        assert torch.zeros(1).dtype == torch.float64
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32
