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


@pytest.mark.parametrize(
    "words", ["fit vae --data", "fit vae --out", "check vae --data", "nuts eight_schools --against"]
)
@pytest.mark.parametrize("empty", ["", " "])
def test_an_unset_variable_is_no_name(words, empty, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "must not be empty" in refused(faults.USAGE, *words.split(), empty)
    assert not list(tmp_path.iterdir())


def test_what_no_terminal_could_show_is_one_line(refused, tmp_path, monkeypatch):
    """Line breaks in an argument, and bytes that are no text."""
    monkeypatch.chdir(tmp_path)
    assert "unrecognized arguments: --foo bar" in refused(faults.USAGE, "fit", "vae", "--foo\nbar")
    assert "not '3 x'" in refused(faults.USAGE, "fit", "vae", "--steps", "3\nx")
    assert r"b\udcff.npy is not UTF-8; rename it" in refused(faults.USAGE, "fit", "vae", "--data", "b\udcff.npy")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_one_line_or_no_matter(tmp_path):
    gone = "import os, sys\nfrom pyrarchy.__main__ import main\nos.mkdir('d'); os.chdir('d'); os.rmdir('../d')\n"
    gone += "sys.exit(main())"
    done = python("-c", gone, "list", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = python("-c", gone, "fit", "mine:pair", cwd=tmp_path)
    assert done.returncode == faults.USAGE and done.stderr == "error: the working folder is gone; change to another\n"


EVIL = "open({mark!r}, 'w').close()"


@pytest.mark.parametrize(
    "how", [("-m", "pyrarchy"), ("-c", "from pyrarchy.__main__ import main; raise SystemExit(main())")]
)
def test_nothing_is_imported_from_the_folder_in_which_one_stands(how, tmp_path):
    """Neither what others would import where they find it, nor pairs that its metadata announce."""
    mark = tmp_path / "executed"
    for name in ("evil", "dill", "numba", "dask", "torch", "numpy", "sitecustomize"):
        if how[0] == "-m" or name not in ("torch", "numpy"):  # `python -c` itself searches here first
            (tmp_path / f"{name}.py").write_text(EVIL.format(mark=str(mark)))
    folder = tmp_path / "evil-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[pyrarchy.pairs]\nevil = evil:pair\n")
    if how[0] == "-c":
        how = ("-c", "import sys; sys.path.remove(''); " + how[1])
    done = python(*how, "list", cwd=tmp_path)
    assert done.returncode == 0 and "evil" not in done.stdout, done.stderr
    done = python(*how, "sample", "nothing", "--out", "x.npz", cwd=tmp_path)
    assert done.returncode == faults.USAGE and not mark.exists()
    done = python(*how, "list", "evil:pair", cwd=tmp_path)  # asked for by name
    assert done.returncode == faults.USAGE and "has no attribute 'pair'" in done.stderr and mark.exists()


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("word", ["list", "--help"])
def test_reader_that_stops_early_is_no_error(word):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        words = [sys.executable, "-m", "pyrarchy", word]
        done = subprocess.run(words, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


SMALL = ("fit", "ppca", "z_dim=2", "--no-report", "--out")


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("out", ["a pipe that nobody reads", "closed"])
def test_a_fit_is_done_whoever_reads_what_it_says(out, tmp_path):
    words = [
        sys.executable,
        "-m",
        "pyrarchy",
        *SMALL,
        tmp_path / "run",
    ]
    shell = {"a pipe that nobody reads": '"$@" | true; exit ${PIPESTATUS[0]}', "closed": '"$@" >&-'}[out]
    done = subprocess.run(["bash", "-c", shell, "bash", *words], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_standard_output_on_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "pyrarchy", "list"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == faults.FOLDER
    assert done.stderr.startswith("error: standard output: No space left on device") and done.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize(("words", "code"), [(("fit", "nope"), faults.USAGE), (("list",), faults.OK)])
def test_standard_error_on_a_full_disk_changes_no_exit_code(words, code):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pyrarchy", *words], stdout=subprocess.PIPE, stderr=full, timeout=60
        )
    assert done.returncode == code


def test_an_old_encoding_shows_what_it_can(tmp_path):
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = python("-m", "pyrarchy", *SMALL, "é", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "") and r"run folder: \xe9" in done.stdout


HOMELESS = """
from pyrarchy import plots
from pyrarchy.inference.groups import installed_arviz
import os
assert installed_arviz().InferenceData and plots.png and "XDG_CACHE_HOME" not in os.environ
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder in which nobody can make another")
def test_what_draws_needs_no_home(tmp_path):
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    }
    done = python("-c", HOMELESS, cwd=tmp_path, env={**env, "HOME": "/proc"})
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_without_a_standard_error_have_their_code():
    done = subprocess.run(["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-m", "pyrarchy", "list", "nope"],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout) == (faults.USAGE, "")


@pytest.mark.parametrize("given", [{"RANK": "x"}, {"WORLD_SIZE": "x"}, {"RANK": "5"}, {"RANK": "-1"}])
@pytest.mark.parametrize("word", ["fit", "list"])
def test_what_torchrun_never_says_is_one_line(given, word, refused, monkeypatch, tmp_path):
    words = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1", **given}
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    more = ("vae", "--steps", 1, "--out", tmp_path / "run") if word == "fit" else ()
    assert "in the environment" in refused(faults.LOST, word, *more) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("nope", "choose from"),
        ("fit", "required: PAIR"),
        ("fit vae --steps 3 --epochs 2", "not allowed with"),
        ("fit vae --steps 0", "must be a whole number from 1 to 10^9, not '0'"),
        ("fit vae --steps 2.5", "must be a whole number from 1 to 10^9, not '2.5'"),
        ("fit vae --steps 1000000001", "must be a whole number from 1 to 10^9"),
        (f"fit vae --samples {'9' * 30}", "must be a whole number from 1 to 10^9"),
        (f"fit vae --epochs {'9' * 5000}", "must be a whole number from 1 to 10^9"),
        ("fit vae --threads 100000", "auto or a whole number from 1 to 256"),
        (f"fit vae --objective iwae:{'9' * 30}", "K must be at most 1000000"),
        ("fit vae --objective freebits:inf", "nats must be a number, not 'inf'"),
        ("fit vae --objective renyi:1e308:5", "alpha must be from -1e6 to 1e6"),
        (f"fit vae z_dim={'9' * 30}", "z_dim=999999999999999999999999999999: give a value like 16"),
        ("nuts eight_schools --samples 3", "must be a whole number from 4 to 10^9, not '3'"),
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
