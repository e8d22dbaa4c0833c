"""``pyrarchy compare`` and ``pyrarchy nuts``: tables, refusals, processes, and a comparison that was killed."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import pyrarchy
from pyrarchy.atomic import WriteError
from pyrarchy.checkpoint import load_state
from pyrarchy.compare_command import plan, split_pairs
from pyrarchy.inference import CheckpointError, DivergedError, evaluate, groups, summary
from pyrarchy.run_folder import read_config

SMALL = ("z_dim=3", "hidden=7,5")
BUDGET = ("--data", "unit.npy", "--steps", "12", "--batch-size", "13", "--samples", "7")

# A comparison that saves every 5 steps and is killed as the run named last begins step 9.
KILLED = """
import os, signal, sys
from pyrarchy.__main__ import main
from pyrarchy.inference import loop
from pyrarchy.inference.compare import compare

compare.__kwdefaults__["save_every"] = 5
step, where = loop.Loop._step, sys.argv.pop(1)

def die(self, batch):
    if str(self.out).endswith(where) and self.record.step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)

loop.Loop._step = die
main(sys.argv[1:])
"""


def figures(out):
    """table.json without the seconds, which no two runs share."""
    found = json.loads((out / "table.json").read_text(), parse_constant=pytest.fail)
    for row in found["entries"].values():
        row.pop("seconds"), row.pop("seconds_error_over_seeds")
    return found


def test_pairs_and_objectives_give_one_entry_each(here, command, tmp_path):
    out = tmp_path / "out"
    code, said, err = command("compare", "vae", *SMALL, "vae", "z_dim=2", "hidden=7,5", *BUDGET, "--out", out,
                              "--objective", "elbo", "--objective", "iwae:3", "--seeds", "0,4")  # fmt: skip
    assert (code, err) == (0, [])
    found = figures(out)
    names = [f"vae z_dim={z} hidden=7,5 {o}" for z in (3, 2) for o in ("elbo", "iwae:3")]
    assert list(found["entries"]) == names and found["seeds"] == [0, 4]
    assert found["budget"] == "12 steps, batch 13" and found["num_data"] == 4
    assert [row["objective"] for row in found["entries"].values()][:2] == [
        "ELBO(num_particles=1)",
        "ImportanceWeighted(num_particles=3)",
    ]
    assert all(row["steps"] == 12 for row in found["entries"].values())
    assert sum(" seed 4: log p >= " in line for line in said) == 4
    assert "\n".join(said).count("lower bound") > 4 and "K = 7 (lower bound)" in "\n".join(said)
    # each run is a run folder like any other
    run = out / "vae_z_dim=2_hidden=7,5_iwae_3" / "seed4"
    config = read_config(run)
    assert (config["seed"], config["objective"], config["options"]["z_dim"]) == (4, "iwae:3", 2)
    model, guide = pyrarchy.load(run)
    rows = pyrarchy.binarize.binarization("dynamic").prepare(pyrarchy.load_data("unit.npy")).test
    import torch

    again = evaluate(model, guide, torch.from_numpy(rows), num_samples=7)
    np.testing.assert_array_equal(again.log_p, load_state(run / "outcome.npz")["log_p"])


def test_it_trains_as_fit_does(here, command, tmp_path, no_pictures):
    """The same weights, to the bit: warm-up, decay, dynamic binarisation."""
    words = ("hvae", "z_dims=3,2", "hidden=7,5", *BUDGET)
    assert command("compare", *words, "--seeds", 3, "--quiet", "--out", tmp_path / "compare") == (0, [], [])
    assert command("fit", *words, "--seed", 3, "--quiet", "--out", tmp_path / "fit")[0] == 0
    histories = [p.read_bytes() for p in tmp_path.rglob("history.csv")]
    assert len(histories) == 2 and histories[0] == histories[1]
    graded = json.loads((tmp_path / "fit" / "result.json").read_text())
    row = figures(tmp_path / "compare")["entries"]["hvae z_dims=3,2 hidden=7,5"]
    assert row["log_p"] == pytest.approx(graded["log_p"]) and row["elbo"] == pytest.approx(graded["elbo"])


def test_estimators_are_compared(here, command, tmp_path):
    words = ("compare", "vae", *SMALL, *BUDGET, "--objective", "iwae:4", "--quiet", "--out", tmp_path)
    assert command(*words, "--estimator", "plain", "--estimator", "dreg") == (0, [], [])
    entries = figures(tmp_path)["entries"]
    plain, dreg = entries.values()
    assert list(entries) == ["vae z_dim=3 hidden=7,5 plain", "vae z_dim=3 hidden=7,5 dreg"]
    assert "dreg" in dreg["objective"] and "dreg" not in plain["objective"]
    assert plain["log_p"] != dreg["log_p"]


def test_killed_comparison_ends_with_the_same_figures(here, command, tmp_path):
    """SIGKILL in the second of three runs; then two processes go on. The first run is not made again."""
    words = ("compare", "vae", *SMALL, "ladder_vae", "z_dims=3,2", "hidden=7,5", "vae", "z_dim=2", "hidden=7,5", *BUDGET,
             "--quiet")  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start = [sys.executable, "-c", KILLED, "ladder_vae_z_dims=3,2_hidden=7,5/seed0", *words, "--out", str(killed)]
    assert subprocess.run(start, cwd=here, timeout=100).returncode == -signal.SIGKILL
    first = killed / "vae_z_dim=3_hidden=7,5" / "seed0" / "outcome.npz"
    cut = killed / "ladder_vae_z_dims=3,2_hidden=7,5" / "seed0"
    assert load_state(cut / "checkpoint.npz")["step"] == 5 and not (cut / "outcome.npz").exists()
    assert not (killed / "table.json").exists()
    before = first.stat().st_mtime_ns
    assert command(*words, "--out", whole) == (0, [], [])
    assert command(*words, "--processes", 2, "--out", killed) == (0, [], [])
    assert first.stat().st_mtime_ns == before
    assert figures(killed) == figures(whole)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("vae", "one of the arguments --epochs --steps is required"),
        ("vae --steps 3 --seeds 1,1", "must be different seeds"),
        ("vae --steps 3 --seeds 1,x", "must be a whole number"),
        ("z_dim=3 vae --steps 3", "stands before any pair"),
        ("vae vae --steps 3", "given twice"),
        ("vae vae_gaussian --steps 3", "about different things"),
        ("vae eight_schools --steps 3", "about different things"),
        ("vae ppca --steps 3", "exact EM"),
        ("vae nope --steps 3", "no pair is called"),
        ("vae --steps 3 --objective iwea:2", "no objective is called"),
        ("vae --steps 3 --estimator nope", "no estimator is called"),
        ("vae --steps 3 --processes 0", "must be a whole number from 1 to 10^9"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing_behind(words, said, here, refused, tmp_path):
    assert said in refused(2, "compare", *words.split(), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_budget_is_the_first_pair_s_for_all():
    from pyrarchy.parser import build_parser

    args = build_parser().parse_args(["compare", "eight_schools", "eight_schools_iaf", "--steps", "5", "--out", "x"])
    configs, data = plan(args)
    assert [(c["steps"], c["epochs"], c["batch_size"]) for c in configs.values()] == [(5, None, None)] * 2
    assert [c["lr"] for c in configs.values()] == [3e-2, 2e-2]  # a pair's own
    assert isinstance(data.train, tuple)
    assert split_pairs(["a", "k=1", "l=2", "b"]) == [("a", ["k=1", "l=2"]), ("b", [])]


def test_global_latents_are_one_datum(here, command, tmp_path):
    words = ("compare", "eight_schools", "eight_schools_iaf", "--steps", 4, "--samples", 30, "--out", tmp_path / "out")
    code, said, _ = command(*words)
    assert code == 0
    found = figures(tmp_path / "out")
    assert found["num_data"] == 1 and found["evaluated_on"] == "training data"
    assert found["entries"]["eight_schools_iaf"]["less eight_schools"]["elbo"]["paired_error_over_data"] is None
    assert found["entries"]["eight_schools"]["active_units"] is None
    assert any("none was held out" in line for line in said)


NUTS = ("--samples", "12", "--warmup", "10", "--chains", "2")


def test_nuts_against_a_guide(fitted, here, command, refused, tmp_path):
    run, out = fitted("eight_schools").out, tmp_path / "nuts"
    words = ("nuts", "eight_schools", *NUTS, "--seed", 2, "--out", out)
    code, said, err = command(*words, "--against", run)
    assert (code, err) == (0, [])
    text = "\n".join(said)
    assert "theta[A]" in text and "r_hat" in text and "ess_bulk" in text and "2 chains of 12 draws" in text
    assert "note: " in text  # so few draws are no reference, and it says so
    idata = groups.load(out / "posterior.nc")
    assert idata["posterior"]["theta"].sizes["chain"] == 2 and idata["posterior"]["theta"].sizes["draw"] == 12
    assert "r_hat" in summary(idata)
    assert (out / "forest.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "nuts.json").read_text(), parse_constant=pytest.fail)
    assert found["chains"] == 2 and found["draws"] == 24 and "mcse_mean" in found["posterior"]["mu"]
    assert "holds NUTS draws already" in refused(2, *words)


def test_nuts_refusals(fitted, here, refused, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "latent 'z1' per datum" in refused(2, "nuts", "vae", "z_dim=2", "hidden=5", "--data", "unit.npy", *out)
    assert "not a run folder" in refused(2, "nuts", "eight_schools", *NUTS, "--against", tmp_path / "none", *out)
    (tmp_path / "hurt").mkdir()
    (tmp_path / "hurt" / "config.json").write_bytes((fitted("eight_schools").out / "config.json").read_bytes())
    (tmp_path / "hurt" / "posterior.nc").write_bytes(b"no such thing")
    said = refused(3, "nuts", "eight_schools", *NUTS, "--against", tmp_path / "hurt", *out)
    assert "posterior.nc: cannot be read" in said and "to make it again" in said
    assert "about other variables" in refused(2, "nuts", "eight_schools", "--against", fitted("vae").out, *out)
    assert "leave --data away" in refused(2, "nuts", "eight_schools", "--data", "unit.npy", *out)
    assert not (tmp_path / "out").exists()


LIGHT = """
import sys
from pyrarchy.__main__ import main
for words in (["compare", "--help"], ["nuts", "--help"]):
    try:
        main(words)
    except SystemExit as stop:
        assert not stop.code
heavy = {"torch", "pyro", "matplotlib", "arviz", "xarray"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-W", "error", "-c", LIGHT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--estimator" in done.stdout and "iwae:K" in done.stdout and "--against" in done.stdout


@pytest.mark.parametrize("content", ["", "[]", "null", '{"4": "x"}'])
@pytest.mark.parametrize("name", ["setting.json", "clock.json"])
def test_damaged_files_of_a_comparison_are_one_line(name, content, here, command, refused, tmp_path):
    words = ("compare", "vae", *SMALL, *BUDGET, "--quiet", "--out", tmp_path)
    assert command(*words) == (0, [], [])
    (run,) = (path.parent for path in tmp_path.glob("*/*/outcome.npz"))
    (run / "outcome.npz").unlink()
    (run / name).write_text(content)
    if name == "setting.json" and "4" in content:
        assert "was begun with entry None" in refused(2, *words)
    else:
        assert f"{name}: cannot be read" in refused(3, *words)


@pytest.mark.parametrize(("error", "code"), [(WriteError(28, "a: cannot be written"), 6), (CheckpointError("b"), 3),
                                             (OSError(5, "Input/output error"), 3), (DivergedError("c"), 5)])  # fmt: skip
def test_a_run_of_a_comparison_fails_with_its_own_code(error, code, here, refused, tmp_path, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr("pyrarchy.inference.compare_runs.save_state", fail)
    said = refused(code, "compare", "vae", *SMALL, *BUDGET, "--quiet", "--out", tmp_path)
    assert "entry 'vae" in said and str(error) in said
