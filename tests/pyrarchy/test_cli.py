"""The command line from outside: what is light stays light, and errors of the user are one line with the right code."""

import os
import subprocess
import sys

import pytest

import pyrarchy
from pyrarchy import cli, faults

LIGHT = """
import sys
from pyrarchy.__main__ import main
for words in (["--help"], ["fit", "--help"], ["list"], ["list", "vae"], ["data", "list"]):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert not code, words
heavy = {"torch", "pyro", "matplotlib", "arviz", "xarray"} & set(sys.modules)
assert not heavy, heavy
"""


def python(*words, **kwargs):
    """Run Python in a process of its own."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, **kwargs)


def test_light_commands_import_nothing_heavy():
    done = python("-W", "error", "-c", LIGHT)
    assert done.returncode == 0, done.stderr
    assert "ladder_vae" in done.stdout and "iwae:K" in done.stdout and "digits" in done.stdout


def test_error_in_a_process_is_one_line_and_a_code(tmp_path):
    done = python("-m", "pyrarchy", "fit", "lader_vae", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no pair is called 'lader_vae'. Did you mean ladder_vae?")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_reader_that_stops_early_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        words = [sys.executable, "-m", "pyrarchy", "list"]
        done = subprocess.run(words, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("nope", "choose from"),
        ("fit", "required: PAIR"),
        ("fit vae --steps 3 --epochs 2", "not allowed with"),
        ("fit vae --steps 0", "must be a whole number of at least 1, not '0'"),
        ("fit vae --steps 2.5", "must be a whole number of at least 1, not '2.5'"),
        ("fit vae --lr nan", "must be a positive number, not 'nan'"),
        ("fit vae --lr fast", "must be a positive number, not 'fast'"),
        ("fit vae --warm-up 1.5", "must be a number from 0 to 1"),
        ("fit vae --seed -1", "must be a whole number from 0"),
        ("fit vae --binarize twice", "dynamic"),
        ("fit vae z_dim", "not of the form key=value"),
        ("fit vae zdim=3", "no option 'zdim'; it has: z_dim, hidden"),
        ("fit vae --objective iwea:3", "objectives are: elbo[:particles]"),
        ("fit ppca --steps 3 --lr 1", "fitted by exact EM, to convergence; leave --steps, --lr away"),
        ("fit vae --warm-up .5 --objective iwae:3", "leave --warm-up away"),
        ("fit vae --objective freebits:-1", "nats >= 0"),
        ("fit eight_schools --data digits", "leave --data away"),
        ("fit eight_schools --binarize fixed", "leave --binarize away"),
        ("fit nothing.here:pair", "cannot load the pair"),
        ("list nope", "vae_gaussian"),
        ("check nope", "vae_gaussian"),
        ("check eight_schools --data digits", "leave --data away"),
        ("data fetch nope", "mnist, fashion_mnist"),
        ("data fetch", "mnist, fashion_mnist"),
        ("report nope", "not a run folder"),
        ("encode nope --data digits --out a.npz", "not a run folder"),
        ("encode nope --data digits --out a.txt", "give a .npz"),
        ("encode nope --data digits --out a.npz --mean --draws 3", "not allowed with"),
        ("encode nope --out a.npz", "required: --data"),
        ("sample nope --num 3 --draws 4 --out a.npz", "give one of them"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(words, said, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(faults.USAGE, *words.split())
    assert list(tmp_path.iterdir()) == []  # what is refused leaves nothing behind


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit vae --data nope", "give one of digits, mnist"),
        ("fit vae --data nope.csv", "no such file"),
        ("fit vae --data real.csv", "--binarize dynamic"),
        ("fit vae --data unit.npy --binarize none", "pass --binarize dynamic or --binarize fixed"),
        ("fit vae_gaussian --data unit.npy --binarize fixed", "pass --binarize none"),
        ("fit vae --data eight_schools", "takes one table of rows"),
        ("fit vae_gaussian --data eight_schools", "takes one table of rows"),
        ("fit factor_analysis drop_constant=true --data eight_schools", "takes one table of rows"),
        ("check vae --data real.csv", "--binarize dynamic"),
        ("encode runs/none --data digits --out missing/a.npz", "there is no folder missing"),
    ],
)
def test_wrong_data_is_one_line_and_code_3(words, said, refused, here):
    before = sorted(here.iterdir())
    assert said in refused(faults.BAD_DATA, *words.split())
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("words", ["--debug fit nope", "fit nope --debug"])
def test_debug_shows_the_traceback_above_the_line(words, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*words.split())
    assert code == faults.USAGE and err[0].startswith("Traceback") and err[-1].startswith("error: no pair is called")


def test_list_names_every_pair_and_data_every_set(command):
    code, out, err = command("list")
    assert (code, err) == (0, [])
    assert [line.split()[0] for line in out] == list(pyrarchy.list_pairs())
    code, out, _ = command("data", "list")
    assert code == 0 and {"digits", "eight_schools"} <= {line.partition(":")[0] for line in out}


@pytest.mark.parametrize("name", pyrarchy.list_pairs())
def test_list_shows_a_pair_in_full(name, command):
    code, out, _ = command("list", name)
    text = "\n".join(out)
    row = pyrarchy.get_pair(name)
    assert code == 0 and row.density in text and row.source.link in text
    assert all(f"{option}=" in text for option in row.options)


def test_check_reports_sites(command, here):
    code, out, _ = command("check", "vae", "--data", "unit.npy")
    assert code == 0 and out[-1] == "vae: ok" and any(line.split()[:1] == ["z1"] for line in out)
    assert command("check", "eight_schools")[0] == 0


def test_interrupt_has_its_own_code(monkeypatch, command):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.HANDLERS, "check", stop)
    assert command("check", "vae") == (130, [], ["interrupted"])


def test_divergence_has_its_own_code(command, here, tmp_path):
    code, _, err = command("fit", "vae_gaussian", "--data", "real.csv", "--lr", "1e30", "--steps", "9", "--quiet",
                           "--out", tmp_path / "run")  # fmt: skip
    assert code == faults.DIVERGED and len(err) == 1 and "Lower the learning rate" in err[0]
