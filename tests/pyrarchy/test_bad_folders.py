"""Run folders and checkpoints that are damaged, planted or of something else: one line, the right code, nothing lost."""

import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from pyrarchy.checkpoint import _digest, load_latest, save_state
from pyrarchy.inference import CheckpointError, load_state
from pyrarchy.run_begin import _set_aside

from .conftest import RUNS
from .test_bad_input import OBJECTS, Bomb, archive


def planted(entries):
    """A checkpoint with a right digest, as somebody who wants it to be opened would write it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
        file.comment = _digest(entries)
    return content.getvalue()


def packed():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("state.json", b"[" * 10**7)
    return content.getvalue()


def torch_file():
    content = io.BytesIO()
    torch.save({"modules": Bomb()}, content)
    return content.getvalue()


def change(name, **entries):
    def apply(run):
        path = run / name
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return apply


def put(name, content):
    return lambda run: (run / name).write_bytes(content)


def take(*names):
    return lambda run: [(run / name).unlink() for name in names]


def both(*changes):
    return lambda run: [apply(run) for apply in changes]


def cut(name, share):
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[: int(share * (run / name).stat().st_size)])


def other_pair(run):
    shutil.copy(run.parent / "other" / "checkpoint.npz", run / "checkpoint.npz")


def pipe(name):
    def apply(run):
        (run / name).unlink()
        os.mkfifo(run / name)

    return apply


def no_rows(run):
    with np.load(run / "example.npz") as file:
        arrays = {name: file[name][:0] if name == "train0" else file[name] for name in file.files}
    np.savez(run / "example.npz", **arrays)


def rewritten(change):
    """A checkpoint with another state and a right digest."""

    def apply(run):
        state = load_state(run / "checkpoint.npz")
        change(state)
        save_state(run / "checkpoint.npz", state)
        (run / "checkpoint.previous.npz").unlink(missing_ok=True)

    return apply


def spoil_weights(state):
    next(iter(state["modules"][0].values())).fill_(float("nan"))


NEITHER = take("checkpoint.previous.npz")
# what happened to the folder -> (how, code of opening it, what is said)
FOLDERS = {
    "configuration gone": (take("config.json"), 2, "not a run folder"),
    "configuration empty": (put("config.json", b""), 3, "cannot be read"),
    "configuration cut": (cut("config.json", 0.5), 3, "cannot be read"),
    "configuration noise": (put("config.json", b"\xff\x00\x13"), 3, "cannot be read"),
    "configuration a pickle": (put("config.json", pickle.dumps(Bomb())), 3, "cannot be read"),
    "configuration a list": (put("config.json", b"[1, 2]"), 3, "holds a list"),
    "configuration deep": (put("config.json", b"[" * 100_000), 3, "cannot be read"),
    "pair a number": (change("config.json", pair=7), 3, "'pair' is 7, not of type str"),
    "pair unknown": (change("config.json", pair="nope"), 3, "no pair is called 'nope'"),
    "pair of a module": (change("config.json", pair="evil:pair"), 2, "opening a run executes none"),
    "pair a path": (change("config.json", pair="../evil:pair"), 2, "opening a run executes none"),
    "pair of the system": (change("config.json", pair="os:system"), 3, "not a pair"),
    "options unknown": (change("config.json", options={"nope": 1}), 3, "has no option"),
    "options a list": (change("config.json", options=[1]), 3, "not of type dict"),
    "options of another type": (change("config.json", options={"z_dim": "a"}), 3, "cannot be built"),
    "other sizes": (change("config.json", options={"z_dim": 5, "hidden": [7, 5]}), 3, "do not fit the pair"),
    "support unknown": (change("config.json", support="imaginary"), 3, "does not fit"),
    "configuration a pipe": (pipe("config.json"), 3, "config.json: is no file"),
    "checkpoint a pipe": (both(NEITHER, pipe("checkpoint.npz")), 3, "checkpoint.npz: is no file"),
    "columns a number": (change("config.json", columns=1.5), 3, "'columns' is 1.5, not a list"),
    "columns of another kind": (change("config.json", columns=["a"]), 3, "not a list of columns' numbers"),
    "columns too few": (change("config.json", columns=[1]), 3, "does not fit the configuration"),
    "threads none": (change("config.json", threads=0), 3, "'threads' is 0"),
    "warm-up beyond all": (change("config.json", warm_up=1e308), 3, "not a share from 0 to 1"),
    "samples none": (change("config.json", samples=0), 3, "'samples' is 0"),
    "binarised otherwise": (change("config.json", binarize="x"), 3, "not dynamic, fixed or none"),
    "example of no rows": (no_rows, 3, "it holds no rows"),
    "weights not finite": (both(NEITHER, rewritten(spoil_weights)), 3, "are not finite; fit again"),
    "example gone": (take("example.npz"), 3, "example.npz: cannot be read"),
    "example cut": (cut("example.npz", 0.7), 3, "example.npz: cannot be read"),
    "example a pickle": (put("example.npz", pickle.dumps(Bomb())), 3, "example.npz: cannot be read"),
    "example of objects": (put("example.npz", archive(("train0.npy", OBJECTS))), 3, "example.npz: cannot be read"),
    "example of something else": (put("example.npz", archive(("a.npy", OBJECTS[:0]))), 3, "example.npz"),
    "checkpoints gone": (both(NEITHER, take("checkpoint.npz")), 3, "no such checkpoint"),
    "checkpoint cut": (both(NEITHER, cut("checkpoint.npz", 0.9)), 3, "no good one before it; fit again"),
    "checkpoints both cut": (both(cut("checkpoint.npz", 0.5), cut("checkpoint.previous.npz", 0.5)), 3, "no good one"),
    "checkpoint a pickle": (both(NEITHER, put("checkpoint.npz", pickle.dumps(Bomb()))), 3, "not a readable checkpoint"),
    "checkpoint of torch": (both(NEITHER, put("checkpoint.npz", torch_file())), 3, "no good one before it"),
    "checkpoint packed": (both(NEITHER, put("checkpoint.npz", packed())), 3, "compressed"),
    "checkpoint with objects": (
        both(NEITHER, put("checkpoint.npz", planted({"state.json": b'{"array": "0"}', "0.npy": OBJECTS}))),
        3,
        "not a readable checkpoint",
    ),
    "checkpoint of nothing": (
        put("checkpoint.npz", planted({"state.json": b'{"dict": []}'})),
        3,
        "do not fit the pair",
    ),
    "checkpoint of a list": (put("checkpoint.npz", planted({"state.json": b"[]"})), 3, "do not fit the pair"),
    "checkpoint with a path": (
        put("checkpoint.npz", planted({"state.json": b'{"dict": []}', "../../evil.npy": OBJECTS})),
        0,
        "generation before it is used",
    ),
    "checkpoint of another pair": (other_pair, 3, "do not fit the pair"),
}


@pytest.fixture(scope="session")
def broken(fitted, workplace):
    """The folder of a run and of another beside it, to be damaged in copies."""
    place = workplace / "broken"
    shutil.copytree(fitted("vae").out, place / "run")
    shutil.copy(place / "run" / "checkpoint.npz", place / "run" / "checkpoint.previous.npz")
    shutil.copytree(fitted("hvae").out, place / "other")
    return place


def bytes_of(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


@pytest.mark.filterwarnings("default")  # the command line shows them as notes
@pytest.mark.parametrize("name", FOLDERS)
def test_a_bad_folder_is_one_line_and_stays_as_it_is(name, broken, command, here, tmp_path, no_pictures):
    apply, code, says = FOLDERS[name]
    shutil.copytree(broken, tmp_path, dirs_exist_ok=True)
    (tmp_path / "evil.py").write_text("import os; os.mkdir('exploded')")
    run = tmp_path / "run"
    apply(run)
    before = bytes_of(run)
    os.chdir(tmp_path)  # where a planted module would be found; `here` goes back
    found, _, err = command("sample", run, "--num", 2, "--out", tmp_path / "samples.npz")
    assert found == code, err
    assert len(err) == 1 and says in err[0] and err[0].startswith("error: " if code else "note: ")
    assert bytes_of(run) == before
    if code != 2:
        os.chdir(here)
        shown = "with another pair" if "pair" in name else ""
        found, _, err = command("fit", *RUNS["vae"], "--resume", "--quiet", "--samples", 7, "--out", run, "--debug")
        text = " ".join(err)
        assert found in (0, 2, 3), (shown, text)
        if found:
            assert bytes_of(run) == before and err[-1].startswith("error: ")
    assert not (tmp_path / "exploded").exists() and not (here / "exploded").exists()


CRAFTED = {
    "optimiser of another kind": lambda state: state.update(optimizer=[1]),
    "optimiser of other sizes": lambda state: state["optimizer"]["param_groups"].clear(),
    "memory not finite": lambda state: state["optimizer"]["state"][0]["exp_avg"].fill_(float("inf")),
    "no place": lambda state: state["place"].clear(),
    "modules none": lambda state: state.update(modules=None),
    "modules too few": lambda state: state["modules"].pop(),
    "weights not finite": spoil_weights,
    "record a text": lambda state: state.update(record="x"),
    "generators gone": lambda state: state["rng"].clear(),
}


@pytest.mark.parametrize("what", CRAFTED)
def test_a_state_with_a_right_digest_and_wrong_content_is_one_line(what, broken, refused, here, tmp_path):
    shutil.copytree(broken / "run", tmp_path / "run")
    rewritten(CRAFTED[what])(tmp_path / "run")
    before = bytes_of(tmp_path / "run")
    said = refused(3, "fit", *RUNS["vae"], "--resume", "--quiet", "--out", tmp_path / "run")
    assert "checkpoint.npz: " in said and bytes_of(tmp_path / "run") == before


@pytest.mark.parametrize(
    "content", ["step,log_likelihood\n", "step,log_likelihood\n0,nan\n", "step,log_likelihood\n0,inf\n"]
)
def test_a_curve_of_em_without_numbers_is_one_line(content, fitted, refused, here, tmp_path):
    shutil.copytree(fitted("factor_analysis").out, tmp_path / "run")
    (tmp_path / "run" / "history.csv").write_text(content)
    assert "history.csv: holds no curve of finite numbers" in refused(3, "report", tmp_path / "run", "--quick")


def test_a_run_that_waits_to_come_back_is_named(broken, refused, command, here, tmp_path):
    """What --overwrite leaves that is killed before its first checkpoint: the next fit, though refused, brings it back."""
    run = tmp_path / "run"
    shutil.copytree(broken / "run", run)
    before = bytes_of(run)
    _set_aside(run)
    (run / "config.json").write_text("{}")
    assert "the next fit with --out" in refused(3, "sample", run, "--out", tmp_path / "x.npz")
    assert "holds a run already" in refused(2, "fit", *RUNS["vae"], "--out", run)
    assert bytes_of(run) == before


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_resumed_run_has_its_example_again(damage, fitted, command, here, tmp_path, no_pictures):
    shutil.copytree(fitted("vae").out, tmp_path / "run")
    path = tmp_path / "run" / "example.npz"
    whole = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(whole[:100])
    assert command("fit", *RUNS["vae"], "--resume", "--quiet", "--out", tmp_path / "run")[0] == 0
    assert path.read_bytes() == whole


def test_there_are_enough_of_them():
    assert len(FOLDERS) >= 10


def test_300_flipped_bits_of_a_checkpoint_are_noticed_or_harmless(broken, tmp_path):
    """In the newest of two generations: what is read is what was written, or the generation before, with a remark."""
    path, whole = tmp_path / "checkpoint.npz", (broken / "run" / "checkpoint.npz").read_bytes()
    expected = load_state(broken / "run" / "checkpoint.npz")
    rng, harmless = np.random.default_rng(0), 0
    for bit in rng.choice(8 * len(whole), 300, replace=False):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            found = load_state(path)
            harmless += 1
            assert repr(found["setting"]) == repr(expected["setting"]) and found["step"] == expected["step"]
            for new, old in zip(found["modules"], expected["modules"], strict=True):
                assert new.keys() == old.keys() and all(torch.equal(new[n], old[n]) for n in old)
    assert harmless < 60  # dates and attributes of the archive's entries, which nobody reads
    shutil.copy(broken / "run" / "checkpoint.npz", tmp_path / "checkpoint.previous.npz")
    _, used, remark = load_latest(path)
    assert remark is None or (used.name == "checkpoint.previous.npz" and "generation before" in remark)
