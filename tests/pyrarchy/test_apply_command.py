"""encode, reconstruct and sample from a run folder: the same numbers as the pair in memory, bit for bit."""

import shutil

import numpy as np
import pytest
import torch

import pyrarchy
from pyrarchy import inference
from pyrarchy.apply_command import rows_of
from pyrarchy.binarize import binarization
from pyrarchy.placement import to_tensors

DATA = {"vae": "unit.npy", "hvae": "digits", "factor_analysis": "digits", "ppca": "real.csv",
        "eight_schools": "eight_schools", "plain": "real.csv"}  # fmt: skip


def read(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype, name


def rows_as_the_library_takes_them(name, run):
    """The rows, found without the command: a named set's held-out ones, or all of a file's."""
    data = run.fit.whole
    if name == "eight_schools":
        return to_tensors(data.train)
    if name == "hvae":
        return torch.from_numpy(binarization("dynamic").prepare(data).test)
    if name == "factor_analysis":
        return torch.from_numpy(np.ascontiguousarray(data.test[:, np.ptp(data.train, axis=0) > 0]))
    if name == "vae":
        grey = np.load("unit.npy").astype(np.float32)
        return torch.from_numpy((np.random.default_rng([0, 0]).random(grey.shape) < grey).astype(np.float32))
    return torch.from_numpy(np.loadtxt("real.csv", delimiter=",", skiprows=1).astype(np.float32))


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("use", ["encode", "reconstruct"])
def test_numbers_of_the_pair_in_memory(name, use, fitted, here, command):
    run = fitted(name)
    rows, function = rows_as_the_library_takes_them(name, run), getattr(inference, use)
    for how, words in (({}, ()), ({}, ("--mean",)), ({"draws": 3, "seed": 5}, ("--draws", 3, "--seed", 5))):
        code, out, err = command(use, run.out, "--data", DATA[name], *words, "--out", "found.npz")
        assert (code, err) == (0, [])
        expected = function(run.model, run.guide, rows, **how)
        same(read("found.npz"), expected)
        assert out == [f"{site} {array.shape}" for site, array in expected.items()]


@pytest.mark.parametrize("name", DATA)
def test_samples_of_the_pair_in_memory(name, fitted, here, command):
    run = fitted(name)
    rows = to_tensors(run.fit.data.train)
    args = rows if isinstance(rows, tuple) else (rows[:16],)
    for how, words in (
        ({"num": 7}, ("--num", 7)),
        ({"num": 21, "mean": True}, ("--mean", "--num", 21)),
        ({"num": 4, "seed": 9}, ("--draws", 4, "--seed", 9)),
        ({"num": 7}, ("--num", 7, "--data", DATA[name])),
    ):
        assert command("sample", run.out, *words, "--out", "found.npz")[0] == 0
        same(read("found.npz"), inference.sample(run.model, args, **how))
    assert command("sample", run.out, "--out", "found.npz")[0] == 0
    assert {len(array) for array in read("found.npz").values()} == {100}


def test_npy_holds_one_site(fitted, here, command):
    """The layer nearest the data for codes, the data for reconstructions and samples."""
    out = fitted("hvae").out
    for words, shape in ((("encode", out, "--data", "digits"), (297, 3)),
                         (("reconstruct", out, "--data", "digits", "--draws", 2), (2, 297, 64)),
                         (("sample", out, "--num", 5), (5, 64))):  # fmt: skip
        assert command(*words, "--out", "one.npy")[0] == 0
        assert np.load("one.npy", allow_pickle=False).shape == shape


def test_files_give_their_test_rows_where_they_have_them(fitted, here):
    grey = np.load("unit.npy").astype(np.float32)
    np.savez("split.npz", train=grey[:30], test=grey[30:])
    np.savez("whole.npz", x=grey)
    out = fitted("vae").out
    assert rows_of(out, "whole.npz").shape == (41, 6)
    held_out = rows_of(out, "split.npz")
    assert np.array_equal(held_out, binarization("dynamic").prepare(pyrarchy.load_data("split.npz")).test)
    assert set(np.unique(held_out)) == {0.0, 1.0}


def test_one_row_is_enough(fitted, here, command):
    np.savetxt("one.csv", np.arange(5.0)[None], delimiter=",")
    assert command("encode", fitted("ppca").out, "--data", "one.csv", "--out", "one.npz")[0] == 0
    assert read("one.npz")["z1"].shape == (1, 2)


def test_mapped_file_is_used_where_it_lies(fitted, here, monkeypatch):
    """A file too large for memory is read-only; no warning (they are errors here), and the same numbers."""
    from pyrarchy import apply_command, files

    rows = np.loadtxt("real.csv", delimiter=",", skiprows=1).astype(np.float32)
    np.save("large.npy", rows)
    run = fitted("ppca")
    monkeypatch.setattr(apply_command, "read_table", lambda path: files.read_table(path, memory=0))
    mapped = rows_of(run.out, "large.npy")
    assert not mapped.flags.writeable
    same(inference.encode(run.model, run.guide, to_tensors(mapped)),
         inference.encode(run.model, run.guide, torch.from_numpy(rows)))  # fmt: skip


@pytest.mark.parametrize(
    ("run", "data", "said"),
    [
        ("vae", "real.csv", "5 columns, but the run"),
        ("vae", "digits", "64 columns, but the run"),
        ("vae", "eight_schools", "another kind of data"),
        ("eight_schools", "real.csv", "another kind of data"),
        ("vae", "beyond.npy", "its values are real, but the run runs/vae is about values in [0, 1]"),
        ("vae", "nope.npy", "no such file"),
        ("vae", "weights.pt", "pickles"),
    ],
)
def test_data_that_do_not_fit_are_refused(run, data, said, fitted, here, refused):
    np.save("beyond.npy", np.load("unit.npy") * 3)
    fitted(run)
    assert said in refused(3, "encode", f"runs/{run}", "--data", data, "--out", "refused.npz")
    assert not (here / "refused.npz").exists()


def test_output_is_refused_before_the_work(fitted, here, refused):
    fitted("vae")
    assert "there is no folder missing" in refused(
        3, "encode", "runs/vae", "--data", "unit.npy", "--out", "missing/a.npy"
    )
    assert "give a .npz" in refused(2, "encode", "runs/vae", "--data", "unit.npy", "--out", "a.csv")


def test_nothing_is_written_over_the_run_or_the_data(fitted, here, refused, tmp_path):
    run = fitted("vae").out
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for name in ("checkpoint.npz", "checkpoint.previous.npz", "example.npz"):
        said = refused(2, "encode", run, "--data", "unit.npy", "--out", run / name)
        assert "is a file of the run in that folder" in said
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    rows = (here / "unit.npy").read_bytes()
    assert "is the data's own file" in refused(2, "encode", run, "--data", "unit.npy", "--out", here / "unit.npy")
    assert (here / "unit.npy").read_bytes() == rows


def test_data_of_another_kind_of_model_are_refused(fitted, here, refused):
    said = refused(3, "sample", fitted("eight_schools").out, "--data", "radon", "--out", "x.npz")
    assert "radon: is 4 arrays, but the run" in said and "was fitted to 2" in said


def test_broken_checkpoint_is_one_line(fitted, here, refused, tmp_path):
    shutil.copytree(fitted("vae").out, tmp_path / "broken")
    (tmp_path / "broken" / "checkpoint.npz").write_bytes(b"PK nonsense")
    (tmp_path / "broken" / "checkpoint.previous.npz").unlink(missing_ok=True)
    said = refused(3, "encode", tmp_path / "broken", "--data", "unit.npy", "--out", "a.npy")
    assert "not a readable checkpoint" in said
