"""``fit --profile`` and ``--no-tape``: a table beside the same bytes, and the same numbers under Pyro alone."""

import json

import pytest

from pyrarchy.inference.profile_step import PARTS
from pyrarchy.run_config import read_config

from .conftest import RUNS, UNIT
from .test_fit_command import contents, differing

BN = RUNS["ladder_vae_bn"]


def test_a_profile_is_printed_and_changes_no_byte(here, command, tmp_path, no_pictures):
    """Batch statistics, dynamic binarisation, warm-up: checkpoint, figures and page are those of a run without it."""
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    assert command("fit", *BN, "--quiet", "--out", plain)[0] == 0
    code, said, _ = command("fit", *BN, "--profile", "--out", profiled)
    assert code == 0 and [line.split()[0] for line in said if line.endswith("%") and line[:2] == "  "] == [
        *PARTS, "step", "replay", "guard"
    ]  # fmt: skip
    assert differing(contents(plain), contents(profiled)) == []


def test_without_the_tape_the_numbers_are_the_same(here, command, tmp_path, no_pictures):
    taped, eager = tmp_path / "taped", tmp_path / "eager"
    assert "; tape (1 of 9 steps)" in "\n".join(command("fit", *RUNS["vae"], "--out", taped)[1])
    assert "; Pyro (tape=False)" in "\n".join(command("fit", *RUNS["vae"], "--no-tape", "--out", eager)[1])
    assert [read_config(out)["tape"] for out in (taped, eager)] == [True, False]
    assert [n for n in differing(contents(taped), contents(eager)) if n != "report.html"] == ["config.json"]


def test_a_resumed_run_keeps_to_pyro(here, command, refused, tmp_path, no_pictures):
    words, out = ("fit", "vae", "z_dim=3", "hidden=7,5", "--data", "unit.npy", *UNIT), tmp_path / "run"
    assert command(*words, "--no-tape", "--out", out)[0] == 0
    said = "\n".join(command(*words, "--resume", "--out", out)[1])
    assert "; Pyro (tape=False)" in said and json.loads((out / "config.json").read_text())["tape"] is False
    other = tmp_path / "taped"
    assert command(*words, "--quiet", "--out", other)[0] == 0
    assert "was started with another tape (tape=True)" in refused(2, *words, "--no-tape", "--resume", "--out", other)


@pytest.mark.parametrize("option", ["--no-tape", "--profile"])
def test_what_takes_no_steps_takes_neither(option, refused, tmp_path):
    said = refused(2, "fit", "ppca", option, "--out", tmp_path / "run")
    assert "fitted by exact EM" in said and f"leave {option} away" in said


def test_a_device_has_no_profile(refused, tmp_path):
    said = refused(2, "fit", "vae", "--profile", "--device", "cuda", "--out", tmp_path / "run")
    assert "leave --device away" in said and not (tmp_path / "run").exists()
