"""``torchrun -m pyrarchy fit``: two processes, one run folder; what is killed or stopped goes on to the same bytes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import pyrarchy
from pyrarchy import launch
from pyrarchy.faults import LaunchError
from pyrarchy.inference import load_state
from pyrarchy.run_config import read_config
from pyrarchy.run_folder import warm_up

from .test_fit_command import contents, differing

ROOT = Path(pyrarchy.__file__).parents[1]
# A fit that saves every 20 steps. Process 1 dies, or torchrun is told to end, as a step begins.
CODE = """
import os, signal, sys
from pyrarchy import run_report
from pyrarchy.__main__ import main
from pyrarchy.inference import fit, loop

fit.__kwdefaults__["save_every"] = 20
run_report.pictures = lambda *args: {}
step = loop.Loop._step
last = int(os.environ.get("LAST", -1))

def end(self, batch):
    if self.record.step == last and os.environ["RANK"] == "1":
        os.kill(*{"dies": (os.getpid(), signal.SIGKILL), "is told": (os.getppid(), signal.SIGTERM)}[os.environ["HOW"]])
    return step(self, batch)

loop.Loop._step = end
sys.exit(main(sys.argv[1:]))
"""
WORDS = ("hvae", "z_dims=3,2", "hidden=7,5", "--data", "unit.npy", "--epochs", "40", "--batch-size", "5", "--samples", "7",
         "--seed", "3")  # fmt: skip


def torchrun(here, *words, **env):
    """Two processes; (exit code of torchrun, lines of stdout, all of stderr)."""
    code = here / "launched.py"
    code.write_text(CODE)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(code)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run([*start, *map(str, words)], cwd=here, env=env, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout.splitlines(), done.stderr


def two_alone(here, *words, **env):
    """Two processes without torchrun, which would end the one when the other dies: (exit code, all of stderr) of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
           "MASTER_PORT": str(port), **env}  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, *map(str, words)],
            cwd=here,
            env={**env, "RANK": number, "LOCAL_RANK": number},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in ("0", "1")
    ]
    errs = [process.communicate(timeout=100)[1] for process in started]
    return [(process.returncode, err) for process, err in zip(started, errs, strict=True)]


def own_lines(err):
    """What pyrarchy says among all that torchrun does."""
    return [line for line in err.splitlines() if line.startswith(("error: ", "interrupted", "note: "))]


@pytest.fixture(scope="module")
def whole(workplace):
    """The folder of an undisturbed run of two processes, and what it printed."""
    out = workplace / "launched"
    code, said, err = torchrun(workplace, "fit", *WORDS, "--out", out)
    assert code == 0 and own_lines(err) == [], err
    return out, said


def test_one_of_them_speaks_and_writes(whole):
    out, said = whole
    assert sum(line.startswith("log p(x) >=") for line in said) == 1 and sum("160 steps" in line for line in said) == 1
    assert load_state(out / "checkpoint.npz")["step"] == 160  # 33 rows in steps of ten, 40 times
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    config = read_config(out)
    assert config["ranks"] == 2 and warm_up(config).steps == round(160 * config["warm_up"])
    assert "batch 5 on each of 2 processes" in (out / "report.html").read_text()


def test_killed_then_stopped_then_the_same_bytes(whole, here, tmp_path):
    out = tmp_path / "run"
    (code, err), (dead, nothing) = two_alone(here, "fit", *WORDS, "--out", out, LAST="47", HOW="dies")
    assert (code, dead, nothing) == (7, -signal.SIGKILL, "")
    assert len(err.splitlines()) == 1 and err.startswith("error: another of the 2 processes has ended"), err
    assert load_state(out / "checkpoint.npz")["step"] == 40

    code, _, err = torchrun(here, "fit", *WORDS, "--out", out, "--resume", LAST="70", HOW="is told")
    assert code != 0 and [line.split(";")[0] for line in own_lines(err)] == ["interrupted"]
    assert 70 < load_state(out / "checkpoint.npz")["step"] < 160

    assert torchrun(here, "fit", *WORDS, "--out", out, "--resume")[0] == 0
    assert differing(contents(whole[0]), contents(out)) == []


def test_a_report_by_one_process_draws_the_same(whole, here, command, no_pictures):
    out = whole[0]
    before = contents(out)
    assert command("report", out, "--quick")[0] == 0
    assert differing(before, contents(out)) == []


def test_another_number_of_processes_is_refused(whole, here, refused):
    text = refused(2, "fit", *WORDS, "--out", whole[0], "--resume")
    assert "was started by 2 process(es), not 1; resume it under torchrun --nproc-per-node 2" in text


@pytest.fixture
def launched(monkeypatch):
    """The environment of the second of two processes."""
    given = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)


def test_who_is_who(launched, monkeypatch):
    assert (launch.processes(), launch.number(), launch.is_first()) == (2, 1, False)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(LaunchError, match="WORLD_SIZE=two"):
        launch.processes()
    monkeypatch.delenv("MASTER_ADDR")  # as a scheduler may set the others
    assert (launch.processes(), launch.number(), launch.is_first()) == (1, 0, True)


def test_other_commands_are_one_process_s_work(launched, here, command):
    code, _, err = command("compare", "vae", "vae_iaf", "--steps", 1, "--out", "compared")
    assert code == 2 and err == ["error: process 1: compare is one process's work; of pyrarchy's commands torchrun starts "
                                 "fit alone"]  # fmt: skip
