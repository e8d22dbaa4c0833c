"""``pyrarchy new``: what it writes passes its own test, checks, fits, and can be used from where it stands."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from pyrarchy import new_command
from pyrarchy.atomic import WriteError


def test_new_pair_works_as_it_stands(tmp_path, monkeypatch, command):
    """Its own tests in a process of their own, then check, fit, encode and report from its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    code, out, err = command("new", "my_pair")
    assert (code, err) == (0, [])
    written = {"my_pair/__init__.py", "my_pair/model.py", "my_pair/guide.py", "my_pair/row.py", "test_my_pair.py"}
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py")} == written
    assert {line for line in out if line.endswith(".py")} == written
    assert not [path for path in tmp_path.rglob("*.py") if "$" in path.read_text(encoding="utf-8")]
    tested = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_pair.py"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert command("check", "my_pair.row:my_pair")[1][-1] == "my_pair.row:my_pair: ok"
    words = ("z_dim=2", "--data", "gaussian_tree", "--steps", 20, "--samples", 5, "--quiet")
    assert command("fit", "my_pair.row:my_pair", *words)[0] == 0
    out = "runs/my_pair.row.my_pair"
    assert command("encode", out, "--data", "gaussian_tree", "--out", "z.npy")[0] == 0
    assert np.load("z.npy").shape == (100, 2)
    # what follows a fit names no module: the run's own must be found from the folder where it stands
    for words in (("report", out), ("sample", out, "--out", "x.npy")):
        assert command(*words)[0] == 0
    report = tested.communicate(timeout=100)[0]
    assert tested.returncode == 0 and "3 passed" in report, report


def test_run_of_a_user_s_module_is_used_from_a_process(fitted, here):
    """The installed command does not have the folder on its path by itself, as ``python -m`` has.

    Opening a run executes no code that only its configuration names: the user says whose it is.
    """
    code = (
        "import sys; sys.path = [p for p in sys.path if p]\n"
        "from pyrarchy.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["sample", str(fitted("plain").out), "--num", "3", "--out", "x.npy"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=here, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "give --pair plain_pair:plain" in done.stderr
    words += ["--pair", "plain_pair:plain"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=here, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert np.load(here / "x.npy").shape == (3, 5)


@pytest.mark.parametrize("name", ["MyPair", "my-pair", "2d", "class", "", "a b", "../up", "_", "__"])
def test_bad_names_are_refused(name, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert "give a Python identifier in lower case" in refused(2, "new", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["torch", "pyro", "random", "pyrarchy"])
def test_names_of_modules_are_refused(name, tmp_path, monkeypatch, refused):
    """A folder torch/ beside the user's work would hide torch itself."""
    monkeypatch.chdir(tmp_path)
    assert "is the name of an installed module" in refused(2, "new", name)
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_left_alone(tmp_path, monkeypatch, refused, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "test_yours.py").write_text("x = 1\n")
    assert "mine is there already" in refused(2, "new", "mine")
    assert "test_yours.py is there already" in refused(2, "new", "yours")
    assert list((tmp_path / "mine").iterdir()) == [] and not (tmp_path / "yours").exists()
    assert command("new", "theirs", "--folder", "far/away")[0] == 0
    assert (tmp_path / "far" / "away" / "theirs" / "row.py").exists()


@pytest.mark.parametrize("name", ["fit", "pair", "build", "f", "guide", "training"])
def test_names_that_the_templates_use_themselves(name, tmp_path, monkeypatch, command):
    """A pair called as something that its own files import still passes its first test."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    assert command("new", name, "--folder", tmp_path)[0] == 0
    scope = {}
    exec((tmp_path / f"test_{name}.py").read_text(encoding="utf-8"), scope)
    scope["test_contract"]()


def test_half_a_package_is_taken_away(tmp_path, refused, command, monkeypatch):
    """A disk that is full at the third file; then there is room."""
    number = iter(range(9))

    def write(path, content):
        if next(number) == 2:
            raise WriteError(errno.ENOSPC, f"{path}: cannot be written (No space left on device); make room")
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(new_command, "write_atomically", write)
        assert "guide.py: cannot be written (No space left on device)" in refused(
            6, "new", "mine", "--folder", tmp_path
        )
    assert not list(tmp_path.iterdir())
    assert command("new", "mine", "--folder", tmp_path)[0] == 0
    (tmp_path / "file").touch()
    assert "cannot be made (Not a directory)" in refused(6, "new", "yours", "--folder", tmp_path / "file")
