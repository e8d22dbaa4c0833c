"""The beginning of a run: what is refused, what --overwrite takes away, and what is left alone."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

import pyrarchy
from pyrarchy.run_begin import _bring_back, _set_aside, clear, data_sha256, in_place_of, sweep
from pyrarchy.run_folder import FILES, PICTURES

from .conftest import RUNS
from .test_fit_command import contents, differing


def test_files_are_those_that_runs_leave(fitted, here):
    for name in ("vae", "factor_analysis", "eight_schools"):
        assert {path.name for path in fitted(name).out.iterdir()} <= set(FILES)
    assert len(set(FILES)) == 9 + len(PICTURES)


def test_overwrite_begins_anew_and_touches_nothing_else(fitted, here, command, refused, tmp_path, no_pictures):
    out, again = tmp_path / "run", tmp_path / "again"
    shutil.copytree(fitted("vae").out, out)
    (out / "notes.txt").write_text("mine")
    (out / "latent_.png").write_text("mine")
    words = ("fit", *RUNS["vae"], "--seed", 4, "--quiet")
    said = refused(2, *words, "--out", out)
    assert "holds a run already; add --resume to continue it or --overwrite to begin anew" in said
    assert "not allowed with" in refused(2, *words, "--resume", "--overwrite", "--out", out)
    assert "no option" in refused(2, *words[:2], "nope=1", *words[2:], "--overwrite", "--out", out)
    assert command(*words, "--overwrite", "--out", out)[0] == 0
    assert (out / "notes.txt").read_text() == (out / "latent_.png").read_text() == "mine"
    (out / "latent_.png").unlink()
    assert command(*words, "--out", again)[0] == 0
    assert differing(contents(out), contents(again)) == []  # the old pictures are gone too
    assert not (out / "checkpoint.previous.npz").exists()


def test_overwrite_is_no_leave_to_write_among_other_files(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    assert "not of a run" in refused(2, "fit", "vae", "--steps", 2, "--overwrite", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("why", ["estimator", "diverged", "disk full", "out of memory", "interrupted"])
def test_overwrite_that_leaves_no_checkpoint_loses_nothing(
    why, fitted, here, command, tmp_path, monkeypatch, no_pictures
):
    """Whatever ends the new run before it has something to continue from: the old one is back, byte for byte."""
    out = tmp_path / "run"
    shutil.copytree(fitted("vae").out, out)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    more = {"estimator": ("--estimator", "vimco"), "diverged": ("--lr", "1e30")}.get(why, ())
    raised = {"disk full": OSError(errno.ENOSPC, "No space left"), "out of memory": MemoryError(),
              "interrupted": KeyboardInterrupt()}  # fmt: skip
    if why in raised:

        def fail(*_):
            raise raised[why]

        monkeypatch.setattr("pyrarchy.inference.loop.save_state", fail)
    code, *_ = command("fit", *RUNS["vae"], "--overwrite", "--quiet", "--out", out, *more)
    assert code == {"estimator": 2, "diverged": 5, "disk full": 6, "out of memory": 4, "interrupted": 130}[why]
    assert differing(before, contents(out)) == [] and not list(out.glob(".*"))


@pytest.mark.parametrize("moment", range(2, 24))
def test_overwrite_killed_anywhere_loses_nothing(moment, fitted, tmp_path):
    """A process that ends between two moves, a whole run set aside, or half of it brought back: the next begins with all."""
    out = tmp_path / "run"
    shutil.copytree(fitted("vae").out, out)
    before, moves = contents(out), []

    class Killed(BaseException):
        pass

    def replace(source, target, real=os.replace):
        moves.append(source)
        if len(moves) == moment:
            raise Killed
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrarchy.run_begin.os.replace", replace)
        with pytest.raises(Killed):
            _set_aside(out)
            (out / "config.json").write_text("new")
            _bring_back(out)
    sweep(out)
    assert differing(before, contents(out)) == [] and not list(out.glob(".*"))


@pytest.mark.parametrize("number", [2, 5])
def test_ctrl_c_while_the_old_run_is_set_aside(number, fitted, tmp_path, monkeypatch):
    """An interrupt between two moves: all is moved back before the command ends."""
    out, moves = tmp_path / "run", []
    shutil.copytree(fitted("vae").out, out)
    before = contents(out)

    def replace(source, target, real=os.replace):
        moves.append(source)
        if len(moves) == number:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr("pyrarchy.run_begin.os.replace", replace)
    with pytest.raises(KeyboardInterrupt), in_place_of(out):
        raise AssertionError("the block was entered")
    assert differing(before, contents(out)) == [] and not list(out.glob(".*"))


@pytest.mark.parametrize("what", ["a file .before", "a folder .before", "a folder in it"])
def test_what_a_user_keeps_under_our_names_stays(what, fitted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(fitted("vae").out, out)
    before = contents(out)
    if what == "a file .before":
        (out / ".before").write_text("mine")
        with pytest.raises(OSError), in_place_of(out):
            raise AssertionError("the block was entered")
        assert (out / ".before").read_text() == "mine"
        (out / ".before").unlink()
    elif what == "a folder .before":
        (out / ".before").mkdir()
        (out / ".before" / "notes").write_text("mine")
        with pytest.raises(OSError), in_place_of(out):
            raise AssertionError("the block was entered")
        found = [path for path in out.rglob("notes")]
        assert [path.read_text() for path in found] == ["mine"]
        shutil.rmtree(found[0].parent)
    else:
        (out / "report.html").unlink()
        (out / "report.html").mkdir()
        (out / "report.html" / "notes").write_text("mine")
        with in_place_of(out):
            (out / "checkpoint.npz").write_text("new")
        assert (out / "report.html" / "notes").read_text() == "mine"
        return
    assert differing(before, contents(out)) == []


@pytest.mark.parametrize("name", [".before", ".moving"])
def test_a_planted_link_moves_nobody_s_files(name, fitted, tmp_path):
    for folder in ("run", "other"):
        shutil.copytree(fitted("vae").out, tmp_path / folder)
    (tmp_path / "run" / "checkpoint.npz").unlink()
    (tmp_path / "run" / name).symlink_to(tmp_path / "other")
    before = contents(tmp_path / "other")
    sweep(tmp_path / "run")
    assert differing(before, contents(tmp_path / "other")) == [] and not (tmp_path / "run" / "checkpoint.npz").exists()


def test_clear_takes_the_configuration_last(fitted, here, tmp_path, monkeypatch):
    """Interrupted anywhere, the folder is still known as a run's, and one that has nothing to lose any more."""
    gone = []
    monkeypatch.setattr("pathlib.Path.unlink", lambda path, missing_ok: gone.append(path.name))
    clear(tmp_path)
    assert gone[:2] == ["checkpoint.npz", "checkpoint.previous.npz"] and gone[-1] == "config.json"


def test_sweep_takes_temporary_files_of_its_own_only(tmp_path):
    mine = [".config.json.swp", ".checkpoint.npz", ".notes.txt.abcdefgh", "a.npz", ".git"]
    for name in [*mine, ".checkpoint.npz.x_1bcd9z", ".report.html.abcdefgh", ".checkpoint.previous.npz.link"]:
        (tmp_path / name).write_text("x")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(mine)


def test_resume_with_other_data_under_the_same_name_is_refused(here, command, refused, tmp_path, no_pictures):
    """One number changed in a row of the last batch, or in a held-out row."""
    rows, out = np.load("unit.npy"), tmp_path / "run"
    np.save("mine.npy", rows)
    words = ("fit", *RUNS["vae"][:3], "--data", "mine.npy", *RUNS["vae"][5:], "--quiet", "--out", out)
    assert command(*words)[0] == 0
    before = contents(out)
    for row in (40, 11):
        changed = rows.copy()
        changed[row, 5] = 0.5
        np.save("mine.npy", changed)
        assert "mine.npy: is not what the run" in refused(3, *words, "--resume")
        assert "mine.npy: is not what the run" in refused(3, "report", out)
    assert differing(before, contents(out)) == []
    np.save("mine.npy", np.asfortranarray(rows.astype(">f8")))  # the same numbers
    assert command(*words, "--resume")[0] == 0


def test_resume_with_the_same_data_under_another_name(here, command, fitted, tmp_path, no_pictures):
    shutil.copytree(fitted("vae").out, tmp_path / "run")
    words = [word if word != "unit.npy" else str(here / "unit.npy") for word in RUNS["vae"]]
    assert words != list(RUNS["vae"])
    assert command("fit", *words, "--resume", "--quiet", "--out", tmp_path / "run")[0] == 0


def test_the_digest_is_of_numbers_shapes_and_both_parts():
    digits, schools = pyrarchy.load_data("digits"), pyrarchy.load_data("eight_schools")
    found = {data_sha256(data) for data in (digits, schools)}
    from dataclasses import replace

    found.add(data_sha256(replace(digits, test=digits.test[::-1].copy())))
    found.add(data_sha256(replace(digits, train=digits.train.reshape(-1, 32), test=None, train_labels=None,
                                  test_labels=None, image_shape=None)))  # fmt: skip
    found.add(data_sha256(replace(digits, test=None, test_labels=None)))
    assert len(found) == 5 and all(len(digest) == 16 for digest in found)
    assert data_sha256(digits) == data_sha256(pyrarchy.load_data("digits"))


def test_a_checkpoint_without_a_configuration_is_not_written_over(fitted, here, refused, tmp_path):
    shutil.copy(fitted("vae").out / "checkpoint.npz", tmp_path)
    for more in ((), ("--resume",), ("--overwrite",)):
        said = refused(3, "fit", *RUNS["vae"], "--out", tmp_path, *more)
        assert "holds a checkpoint but no config.json" in said
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_configurations_say_what_is_not_in_them(fitted, here, refused, tmp_path):
    shutil.copytree(fitted("vae").out, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["data_sha256"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert "has no entry 'data_sha256'" in refused(3, "report", tmp_path / "run")


@pytest.mark.parametrize("name", ["os:system", "a/b:c", "../x:y", "x:../y", ":x", "x:", "a..b:c", "/etc/passwd:x"])
def test_names_of_pairs_never_become_paths(name, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text("raise SystemExit('imported')")
    said = refused(2, "fit", name)
    assert "write module:function" in said or "not a pair" in said
