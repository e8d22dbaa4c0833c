"""Runs that are killed, stopped, out of disk or raced for, in processes of their own: nothing is lost, to the last byte."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pyrarchy.inference import load_state

from .test_fit_command import contents, differing

# A fit that saves every third step, so that a kill at a random moment often meets a file being written.
CODE = """
import sys
from pyrarchy.__main__ import main
from pyrarchy.inference import fit
from pyrarchy import run_report
fit.__kwdefaults__["save_every"] = 3
run_report.pictures = lambda *args: {}
sys.exit(main(sys.argv[1:]))
"""
STEPS = 1200  # so many that training takes most of the time: a step is a replay of half a millisecond
WORDS = ("fit", "hvae", "z_dims=3,2", "hidden=7,5", "--data", "unit.npy", "--steps", str(STEPS), "--batch-size", "13",
         "--samples", "7", "--seed", "3", "--quiet", "--threads", "1")  # fmt: skip


def start(here, *more, **kwargs):
    """A fit in a process of its own."""
    words = [sys.executable, "-c", CODE, *WORDS, *map(str, more)]
    return subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def finish(process, seconds=300):
    _, err = process.communicate(timeout=seconds)
    return process.returncode, err.splitlines()


@pytest.fixture(scope="module")
def whole(workplace):
    """The folder of an undisturbed run, and how long its process took from the first checkpoint on and before it."""
    out = workplace / "survival"
    began = time.perf_counter()
    process = start(workplace, "--out", out)
    while not (out / "checkpoint.npz").exists():
        time.sleep(0.01)
    first = time.perf_counter() - began
    assert finish(process) == (0, [])
    return out, first, time.perf_counter() - began


@pytest.mark.slow
def test_kill_9_at_20_random_moments(whole, here, tmp_path):
    """From the first files of the folder to the report: 20 kills, 20 resumes, 20 times the same bytes."""
    out, first, total = whole
    rng, steps = random.Random(0), []
    for number in range(20):
        run = tmp_path / f"run{number}"
        process = start(here, "--out", run)
        time.sleep(rng.uniform(0.8 * first, total))
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] in (-signal.SIGKILL, 0)
        steps.append(load_state(run / "checkpoint.npz")["step"] if (run / "checkpoint.npz").exists() else 0)
        assert finish(start(here, "--out", run, "--resume")) == (0, [])
        assert differing(contents(out), contents(run)) == [], (number, steps)
        assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
    assert len({*steps}) > 5, steps


@pytest.mark.slow
def test_a_chain_of_five_kills(whole, here, tmp_path):
    out, first, total = whole
    rng, run = random.Random(1), tmp_path / "run"
    for number in range(5):
        process = start(here, "--out", run, *(["--resume"] if number else []))
        time.sleep(first + rng.uniform(0, 0.5 * (total - first)))
        process.send_signal(signal.SIGKILL)
        finish(process)
    assert finish(start(here, "--out", run, "--resume")) == (0, [])
    assert differing(contents(out), contents(run)) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_from_outside(number, whole, here, tmp_path):
    out, run = whole[0], tmp_path / "run"
    process = start(here, "--out", run)
    while not (run / "checkpoint.npz").exists():
        time.sleep(0.01)
    process.send_signal(number)
    code, err = finish(process)
    assert code == 128 + number and len(err) == 1 and err[0].startswith("interrupted")
    assert 0 < load_state(run / "checkpoint.npz")["step"] < STEPS
    assert finish(start(here, "--out", run, "--resume")) == (0, [])
    assert differing(contents(out), contents(run)) == []


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(here, tmp_path):
    """A step that takes a minute: the first signal waits for its end, the second does not."""
    slow = CODE.replace("sys.exit(", "from pyrarchy.inference import loop\nimport time\nold = loop.Loop._step\n"
                        "loop.Loop._step = lambda self, batch: (print('step', flush=True), time.sleep(60), "
                        "old(self, batch))[2]\nsys.exit(")  # fmt: skip
    words = [sys.executable, "-c", slow, *WORDS, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    began = time.perf_counter()
    process.send_signal(signal.SIGINT)
    finish(process)
    assert time.perf_counter() - began < 2
    assert process.returncode == -signal.SIGINT  # which a shell shows as 130


def limited(size):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [False, True])
def test_a_full_disk(resumed, whole, here, tmp_path):
    """No file may be longer than a limit, at five limits: code 6, one line, what was there stays, and --resume ends it."""
    out = whole[0]
    sizes = {path.name: path.stat().st_size for path in out.iterdir()}
    limits = [
        0,
        sizes["example.npz"] - 1,
        sizes["checkpoint.npz"] // 2,
        sizes["checkpoint.npz"] - 1,
        sizes["posterior.nc"] - 1,
    ]
    assert limits[2] > sizes["config.json"] and limits[3] > limits[2], sizes
    for number, limit in enumerate(limits):
        run, more, before = tmp_path / f"run{number}", [], {}
        if resumed:
            process = start(here, "--out", run)
            while not (run / "checkpoint.previous.npz").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            finish(process)
            more, before = ["--resume"], {p.name: p.read_bytes() for p in run.iterdir() if not p.name.startswith(".")}
        code, err = finish(start(here, "--out", run, *more, preexec_fn=limited(limit)))
        assert code == 6 and len(err) == 1 and "cannot be written (File too large)" in err[0], (limit, err)
        if resumed:
            after = {p.name: p.read_bytes() for p in run.iterdir()}
            grown = [n for n in before if before[n] != after[n]]
            state = {n: load_state(run / n)["step"] for n in after if n.startswith("checkpoint")}
            assert all(n.startswith(("checkpoint", "history")) for n in grown), grown
            assert not grown or state["checkpoint.npz"] > load_bytes(tmp_path, before["checkpoint.npz"])
            assert not [n for n in after if n.startswith(".")]
        assert finish(start(here, "--out", run, "--resume")) == (0, [])
        assert differing(contents(out), contents(run)) == [], limit


def load_bytes(folder, content):
    (folder / "before.npz").write_bytes(content)
    return load_state(folder / "before.npz")["step"]


@pytest.mark.slow
def test_three_processes_race_for_one_folder(whole, here, tmp_path):
    out, run = whole[0], tmp_path / "run"
    done = [finish(process) for process in [start(here, "--out", run) for _ in range(3)]]
    assert sorted(code for code, _ in done) == [0, 6, 6], done
    for code, err in done:
        assert (code == 0 and err == []) or (len(err) == 1 and "is in use by process" in err[0])
    assert differing(contents(out), contents(run)) == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_two_processes(whole, here, tmp_path):
    """Draws for ArviZ included: HDF5 keeps no time."""
    out, run = whole[0], tmp_path / "run"
    assert finish(start(here, "--out", run)) == (0, [])
    names = {path.name for path in out.iterdir()}
    assert differing(contents(out, names), contents(run, names)) == [] and {"posterior.nc", "diagnostics.nc"} <= names


@pytest.mark.slow
def test_ctrl_c_ends_a_comparison_with_its_workers(here, tmp_path):
    """Two processes of a whole group that gets the signal, as from a terminal; the same command goes on."""
    words = [sys.executable, "-m", "pyrarchy", "compare", "vae", "hidden=7,5", "vae", "hidden=6,5", "--data", "unit.npy",
             "--steps", "6000", "--batch-size", "13", "--samples", "7", "--processes", "2", "--out", tmp_path]  # fmt: skip
    process = subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    while len(list(tmp_path.glob("*/*/checkpoint.npz"))) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    code, err = finish(process, 20)
    assert (code, err) == (130, ["interrupted"])
    assert subprocess.run(words, cwd=here, capture_output=True, timeout=300).returncode == 0
    assert (tmp_path / "table.md").exists()


MEMORY = """
import resource, sys
from pyrarchy.__main__ import main
code = main(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak(folder, *words):
    """Exit code and peak resident memory (MB) of a command in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEMORY, *map(str, words)], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=1500)  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, megabytes = done.stdout.split()[-2:]
    return int(code), float(megabytes)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["vae_gaussian", "factor_analysis", "ppca"])
def test_200_000_rows_of_50_numbers_fit_in_1600_mb(pair, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200_000, 5)) @ rng.normal(size=(5, 50)) + rng.normal(size=(200_000, 50))
    np.save(tmp_path / "large.npy", rows.astype(np.float32))
    more = ("--steps", 200) if pair == "vae_gaussian" else ()
    code, megabytes = peak(tmp_path, "fit", pair, "z_dim=4", "--data", "large.npy", "--samples", 20, "--quiet", "--out",
                           "run", *more)  # fmt: skip
    print(f"{pair}: {megabytes:.0f} MB")
    assert code == 0 and megabytes < 1600


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(here, tmp_path):
    words = ("fit", "vae", "z_dim=3", "hidden=7,5", "--data", "unit.npy", "--batch-size", 13, "--samples", 7, "--quiet")
    short, long = (peak(here, *words, "--steps", steps, "--out", tmp_path / f"run{steps}")[1] for steps in (100, 3000))
    print(f"{short:.0f} MB after 100 steps, {long:.0f} MB after 3,000")
    assert long - short < 60
