"""``pyrarchy fit`` and ``report``: plans, refusals, users' files, and runs that are the same bytes again."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyrarchy
from pyrarchy.inference import ELBO, Batches, Temper, evaluate, fit, load_state
from pyrarchy.inference.groups import load as load_groups
from pyrarchy.placement import to_tensors
from pyrarchy.run_config import read_config
from pyrarchy.section import sections

from .conftest import RUNS, UNIT, fit_now

SAME = ("checkpoint.npz", "history.csv", "result.json", "report.html", "config.json", "example.npz")

# A fit that saves every 20 steps and is killed as it begins step 48.
KILLED = """
import os, signal, sys
from pyrarchy.__main__ import main
from pyrarchy.inference import fit, loop

fit.__kwdefaults__["save_every"] = 20
step = loop.Loop._step

def die(self, batch):
    if self.record.step == 47:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)

loop.Loop._step = die
main(sys.argv[1:])
"""


def contents(out, names=SAME):
    """Name -> bytes, pictures included."""
    return {
        path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name in names or path.suffix == ".png"
    }


def differing(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if first[name] != second[name]]


@pytest.mark.parametrize("name", ["vae", "ladder_vae_bn", "factor_analysis"])
def test_same_seed_gives_the_same_bytes(name, fitted, here, tmp_path):
    again = fit_now(here, RUNS[name], tmp_path / "again")
    assert differing(contents(fitted(name).out), contents(again.out)) == []


@pytest.mark.parametrize("name", ["hvae", "ladder_vae_bn", "factor_analysis", "eight_schools"])
def test_report_writes_the_same_bytes_again(name, fitted, here, command):
    """With and without warm-up, EM and SVI, local and global latents."""
    out = fitted(name).out
    before = contents(out)
    for path in [out / "result.json", out / "report.html", *out.glob("*.png")]:
        path.unlink()
    assert command("report", out, "--quick")[0] == 0
    assert differing(before, contents(out)) == []


def test_report_holds_all_diagnostics_and_fit_the_quick_ones(here, command, tmp_path, monkeypatch):
    """The full page says at least what the quick one does, and loads nothing; `fit` says where the rest is."""
    out = tmp_path / "run"
    fit_now(here, ("ppca", "z_dim=2", "--data", "real.csv", "--samples", "30"), out)
    quick = (out / "report.html").read_text()
    assert "<code>gradient</code>" in quick and "`pyrarchy report` of the run computes it" in quick
    assert "Noise of the gradient" not in quick
    sections()
    for name, small in {"ROWS": 5, "TEMPERATURES": 8}.items():
        monkeypatch.setattr(f"pyrarchy.section_annealed.{name}", small)
    code, _, err = command("report", out)
    page = (out / "report.html").read_text()
    assert (code, err) == (0, [])  # no bar where nobody watches
    assert "Held-out log p(x)" in page and "Layers and units" in page and "Noise of the gradient" in page
    assert "between two bounds" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)(?!https?://)|<script|@import|url\(""", page)
    assert re.findall(r'src="(?!data:)', page) == [] and len(page) < 1_500_000
    found = load_groups(out / "diagnostics.nc")
    assert {"held_out", "rates", "gradient"} <= set(found.groups() if callable(found.groups) else found.children)
    assert command("report", out, "--seconds", "0.000001")[0] == 0  # the evaluation itself has no cap
    assert "took more than 1e-06 seconds" in (out / "report.html").read_text()


def test_report_of_changed_data_is_refused(here, command, refused, tmp_path, no_pictures):
    rows = np.loadtxt("real.csv", delimiter=",", skiprows=1)
    np.save("changing.npy", rows)
    out = tmp_path / "run"
    assert command("fit", "ppca", "z_dim=2", "--data", "changing.npy", "--samples", 5, "--quiet", "--out", out)[0] == 0
    np.save("changing.npy", rows[:-20])
    assert "is not what the run" in refused(3, "report", out)
    np.save("changing.npy", rows[:, :4])
    assert "4 columns, but the run" in refused(3, "report", out)
    (here / "changing.npy").unlink()
    assert "no such file" in refused(3, "report", out)


def test_killed_run_ends_with_the_same_bytes(here, command, tmp_path, no_pictures):
    """SIGKILL in step 48, seven steps after a checkpoint, then --resume: warm-up, decay and dynamic binarisation."""
    words = ("fit", "hvae", "z_dims=3,2", "hidden=7,5", "--data", "unit.npy", "--steps", "60", "--batch-size", "13",
             "--samples", "7", "--seed", "3", "--quiet", "--threads", "1")  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", KILLED, *words, "--out", str(killed)], cwd=here, timeout=100)
    assert done.returncode == -signal.SIGKILL
    assert load_state(killed / "checkpoint.npz")["step"] == 40
    assert not (killed / "report.html").exists()
    for out, more in ((whole, ()), (killed, ("--resume",))):
        assert command(*words, *more, "--out", out)[0] == 0
    assert differing(contents(whole), contents(killed)) == []
    temperatures = np.loadtxt(whole / "history.csv", delimiter=",", skiprows=1)[:, 3]
    np.testing.assert_allclose(temperatures, np.minimum(1, np.arange(60) / 30), rtol=1e-6)


def test_batch_statistics_are_measured_anew_before_the_evaluation(fitted):
    """The checkpoint holds those of one pass over the training data, not the running ones of the steps."""
    run = fitted("ladder_vae_bn")
    steps = load_state(run.out / "checkpoint.previous.npz")["modules"][0]
    anew = load_state(run.out / "checkpoint.npz")["modules"][0]
    moved = {name for name in steps if not torch.equal(steps[name], anew[name])}
    assert moved == {name for name in steps if "running" in name or "tracked" in name}
    assert steps["decoder.0.1.0.num_batches_tracked"] == 9 and anew["decoder.0.1.0.num_batches_tracked"] == 3
    assert torch.equal(run.model.state_dict()["decoder.0.1.0.running_mean"], anew["decoder.0.1.0.running_mean"])


@pytest.mark.parametrize("name", ["vae", "ladder_vae_bn"])
def test_resume_of_a_finished_run_changes_nothing(name, fitted, here, command, tmp_path, no_pictures):
    """Not one byte of what does not show a picture."""
    out = tmp_path / "again"
    shutil.copytree(fitted(name).out, out)
    before = contents(out)
    assert command("fit", *RUNS[name], "--quiet", "--resume", "--out", out)[0] == 0
    assert differing(before, contents(out)) in ([], ["report.html"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--seed", "4"), "seed (seed=3)"),
        (("--steps", "10"), "steps (steps=9)"),
        (("--lr", "0.5"), "lr (lr=0.002)"),
        (("--objective", "iwae:3"), "objective (objective=elbo)"),
        (("--batch-size", "12"), "batch_size (batch_size=13)"),
        (("--binarize", "fixed"), "binarize (binarize=dynamic)"),
    ],
)
def test_resume_with_another_configuration_is_refused(change, named, fitted, here, refused):
    out = fitted("vae").out
    before = contents(out)
    assert f"was started with another {named}" in refused(2, "fit", *RUNS["vae"], *change, "--resume", "--out", out)
    assert differing(before, contents(out)) == []


def test_resume_with_other_options_names_them(fitted, here, refused):
    out = fitted("vae").out
    said = refused(2, "fit", "vae", "z_dim=4", "--data", "unit.npy", *UNIT, "--resume", "--out", out)
    assert "another options (options={'z_dim': 3, 'hidden': [7, 5]})" in said


def test_existing_folders_are_left_alone(fitted, here, refused, tmp_path):
    out = fitted("vae").out
    before = contents(out)
    assert "holds a run already; add --resume" in refused(2, "fit", *RUNS["vae"], "--out", out)
    assert differing(before, contents(out)) == []
    (tmp_path / "thesis.tex").write_text("x")
    assert "holds files, but not of a run" in refused(2, "fit", "vae", "--steps", "2", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "it is a file" in refused(6, "fit", "vae", "--steps", "2", "--quiet", "--out", tmp_path / "thesis.tex")


def test_run_that_failed_at_once_can_be_repeated(here, command, tmp_path, no_pictures):
    """A first step that diverges leaves nothing: no checkpoint could continue it."""
    out = tmp_path / "run"
    words = ("fit", "vae_gaussian", "z_dim=2", "hidden=5", "--data", "real.csv", "--samples", 5, "--batch-size", 54,
             "--quiet", "--out", out)  # fmt: skip
    assert command(*words, "--steps", 9, "--lr", "1e30")[0] == 5
    assert not out.exists()
    assert command(*words, "--steps", 3)[0] == 0
    assert read_config(out)["lr"] == 2e-3


RADON = ("fit", "radon", "subsample=100", "--objective", "trace_elbo:2", "--quiet")


def test_a_subsampled_plate_trains_by_pyros_objective(here, command, tmp_path, no_pictures, monkeypatch):
    """Global and local latents, 100 of 919 houses a step: the library's own weights, resumed, and evaluated on all rows."""
    monkeypatch.setattr("pyrarchy.fit_command.GLOBAL_SAMPLES", 50)
    monkeypatch.setattr("pyrarchy.run_report.GLOBAL_DRAWS", 60)
    out, steps = tmp_path / "run", ("--steps", 7)
    assert command(*RADON, *steps, "--out", out)[0] == 0
    data = pyrarchy.load_data("radon")
    model, guide = pyrarchy.get_pair("radon")(data, seed=0, subsample=100)
    record = fit(model, guide, to_tensors(data.train), optimizer=3e-2, steps=7, seed=0,
                 objective=Trace_ELBO(2, vectorize_particles=True, max_plate_nesting=1),
                 schedule=lambda step: 0.5 + 0.5 * math.cos(math.pi * step / 7))  # fmt: skip
    result = json.loads((out / "result.json").read_text())
    assert result["training"]["last_value"] == record.values[-1] and result["training"]["objective"] == "Trace_ELBO"
    saved = load_state(out / "checkpoint.npz")["modules"][1]
    assert all(torch.equal(value, saved[name]) for name, value in guide.state_dict().items())
    whole = pyrarchy.get_pair("radon")(data, seed=0)
    whole[1].load_state_dict(guide.state_dict())
    on_all = evaluate(*whole, to_tensors(data.train), num_samples=500)
    assert result["num_data"] == 1 and result["elbo"] == pytest.approx(on_all.mean_elbo, rel=0.2)
    before = contents(out)
    assert command(*RADON, *steps, "--out", out, "--resume")[0] == 0
    assert command("report", out, "--quick")[0] == 0
    assert differing(before, contents(out)) == []


def test_what_pyros_objective_does_not_take_is_refused(here, refused, tmp_path):
    out = ("--out", tmp_path / "run")
    said = refused(2, "fit", "radon", "subsample=100", "--steps", 2, "--quiet", *out)
    assert "site 'y' lies in the subsampled plate 'house'" in said and "Trace_ELBO" in said
    assert "leave --warm-up away" in refused(2, *RADON, "--warm-up", 0.5, *out)
    assert "leave the estimator 'stl' away" in refused(2, *RADON, "--estimator", "stl", *out)
    assert "between 1 and 919 houses" in refused(2, "fit", "radon", "subsample=920", *out)


def test_command_trains_as_the_library_does(fitted, here):
    """The same pair, data order, decay and seed by hand give the same weights, bit for bit."""
    run = fitted("vae")
    data = pyrarchy.load_data("unit.npy")
    model, guide = pyrarchy.get_pair("vae")(data, seed=3, z_dim=3, hidden=(7, 5))
    batches = Batches(torch.from_numpy(data.train), 13, seed=3, transform=torch.bernoulli)
    record = fit(model, guide, batches, objective=ELBO(), optimizer=2e-3, steps=9, seed=3,
                 schedule=lambda step: 0.55 + 0.45 * math.cos(math.pi * step / 9))  # fmt: skip
    for mine, theirs in ((model, run.model), (guide, run.guide)):
        for (name, found), expected in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.equal(found, expected), name
    assert record.losses == run.curve.losses


def test_warm_up_and_decay_of_the_row_reach_the_loop(fitted, here):
    """hvae: beta rises over half of 8 steps; the value at temperature one is recorded; the rate falls towards a tenth."""
    run = fitted("hvae")
    table = np.loadtxt(run.out / "history.csv", delimiter=",", skiprows=1)
    step, loss, value, beta, _, rate = table.T
    assert step.tolist() == list(range(1, 9))
    np.testing.assert_allclose(beta, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    np.testing.assert_allclose(rate, 2e-3 * (0.55 + 0.45 * np.cos(np.pi * np.arange(8) / 8)), rtol=1e-6)
    np.testing.assert_allclose(loss, run.curve.losses, rtol=1e-8)
    np.testing.assert_allclose(value, run.curve.values, rtol=1e-8)
    assert (-value[:4] > loss[:4]).all()  # below temperature one the KL is not paid in full
    assert np.array_equal(-value[4:], loss[4:])
    assert repr(Temper(steps=4)) in run.curve.objective
    assert "at temperature one" not in json.dumps(read_config(run.out))


def test_warm_up_of_the_row_gives_way_to_importance_weights(here, command, tmp_path, no_pictures):
    """`fit hvae --objective iwae:3` works as it stands: the row's warm-up is for the row's own ELBO."""
    out = tmp_path / "run"
    words = ("fit", "hvae", "z_dims=3,2", "hidden=7,5", "--steps", 4, "--samples", 5, "--quiet", "--out", out)
    assert command(*words, "--objective", "iwae:3")[0] == 0
    assert read_config(out)["warm_up"] == 0.0
    assert (
        json.loads((out / "result.json").read_text())["training"]["objective"] == "ImportanceWeighted(num_particles=3)"
    )


def test_epochs_become_steps(here, command, tmp_path, no_pictures):
    """37 training rows in batches of 10 are 4 steps an epoch."""
    out = tmp_path / "run"
    words = ("fit", "vae", "z_dim=2", "hidden=5", "--data", "unit.npy", "--samples", 5, "--quiet", "--out", out)
    assert command(*words, "--epochs", 3, "--batch-size", 10)[0] == 0
    assert load_state(out / "checkpoint.npz")["step"] == 12
    assert read_config(out)["rows"] == 37


def test_constant_column_of_a_user_s_file(here, command, refused, tmp_path, no_pictures):
    """Refused by its name, unless told to leave it out; then used without it."""
    rows = np.loadtxt("real.csv", delimiter=",", skiprows=1)
    rows[:, 3] = 0.1
    np.savetxt("dose.csv", rows, delimiter=",", header="a,b,c,dose,e", comments="")
    words = ("factor_analysis", "z_dim=2", "--data", "dose.csv", "--samples", "5", "--quiet", "--out", tmp_path / "run")
    assert "dose.csv" not in (said := refused(3, "fit", *words))
    assert "column(s) dose are constant" in said and "drop_constant=true" in said
    assert not (tmp_path / "run").exists()
    assert command("fit", words[0], "drop_constant=true", *words[1:])[0] == 0
    assert read_config(tmp_path / "run")["columns"] == [0, 1, 2, 4]
    assert command("encode", tmp_path / "run", "--data", "dose.csv", "--out", tmp_path / "codes.npy")[0] == 0
    assert np.load(tmp_path / "codes.npy").shape == (60, 2)


@pytest.mark.parametrize(("count", "held_out"), [(12, 1), (7, 0)])
def test_few_rows_are_enough(count, held_out, here, command, tmp_path):
    """One held-out row has no standard error; below ten rows nothing is held out and the figures say so."""
    np.save("few.npy", np.random.default_rng(1).normal(size=(count, 4)))
    out = tmp_path / "run"
    words = ("fit", "vae_gaussian", "z_dim=2", "hidden=5", "--data", "few.npy", "--steps", 3, "--samples", 5)
    assert command(*words, "--quiet", "--out", out)[0] == 0
    found = json.loads((out / "result.json").read_text(), parse_constant=pytest.fail)
    assert found["num_data"] == (held_out or count)
    assert found["evaluated_on"] == ("held-out data" if held_out else "training data")
    assert (found["log_p_error"] is None) == (found["num_data"] == 1)


def test_figures_of_an_exact_model_agree_with_its_density(fitted, here):
    """PPCA: result.json's exact log p(x) is that of the held-out rows, and the sampled one equals it (exact guide)."""
    run = fitted("ppca")
    found = json.loads((run.out / "result.json").read_text())
    rows = to_tensors(pyrarchy.load_data("real.csv").test)
    with torch.no_grad():
        expected = run.model.log_marginal(rows).double().mean().item()
    assert found["exact_log_p"] == pytest.approx(expected, rel=1e-6)
    assert found["log_p"] == pytest.approx(expected, abs=1e-3)  # float32 sums of five columns
    assert found["elbo"] == pytest.approx(expected, abs=1e-3)


def test_quiet_is_quiet_and_bars_need_a_terminal(here, command, tmp_path, no_pictures):
    words = ("fit", "vae", "z_dim=2", "hidden=5", "--data", "unit.npy", "--steps", 3, "--samples", 5)
    assert command(*words, "--quiet", "--out", tmp_path / "quiet") == (0, [], [])
    code, out, err = command("report", tmp_path / "quiet")
    assert (code, err) == (0, []) and any("log p(x) >=" in line for line in out)


def test_mapped_data_train_without_a_warning():
    rows = np.zeros((3, 2), dtype=np.float32)
    rows.flags.writeable = False
    assert to_tensors(rows).shape == (3, 2)
    assert to_tensors((rows, rows))[1].shape == (3, 2)


def test_a_row_may_bring_its_estimator_and_the_command_line_another(tmp_path):
    """Layers of bits have no plain gradient, so their row says which one is followed."""
    from pyrarchy import cli

    for given, used in (([], "vimco"), (["--estimator", "score"], "score")):
        out = tmp_path / used
        command = [
            "fit",
            "sigmoid_belief",
            "z_dims=3,2",
            "--steps",
            "2",
            "--samples",
            "5",
            "--quiet",
            "--out",
            str(out),
        ]
        assert cli.run([*command, *given]) == 0
        assert read_config(out)["estimator"] == used
        assert f"estimator={used}" in pyrarchy.run_folder.read_curve(out).objective
