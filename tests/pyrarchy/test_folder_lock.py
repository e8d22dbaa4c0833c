"""One folder, one run: the lock, who loses it, and what is left of it."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from pyrarchy.faults import FolderBusyError, FolderError
from pyrarchy.folder_lock import LOCK, folder_lock

HOLD = """
import sys, time
from pyrarchy.folder_lock import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "run"."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_loser_names_the_holder_and_a_dead_holder_holds_nothing(holder, tmp_path, refused, here):
    run = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert before.keys() == {LOCK}
    words = ("fit", "vae", "z_dim=2", "hidden=3", "--data", "unit.npy", "--steps", 1, "--out", run)
    for more in ((), ("--resume",), ("--overwrite",)):
        said = refused(6, *words, *more)
        assert re.search(rf"run: is in use by process {holder.pid} on \S+, since \d{{4}}-.*; wait", said)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / LOCK).exists()  # the file is still there, but nobody holds it
    with folder_lock(run):
        assert f"process {os.getpid()} " in (run / LOCK).read_text()
        with pytest.raises(FolderBusyError, match=f"process {os.getpid()} "), folder_lock(run):
            pass
    assert list(run.iterdir()) == []


def test_a_folder_that_stays_empty_goes_again(tmp_path):
    with pytest.raises(ValueError, match="refused"), folder_lock(tmp_path / "a" / "b"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    with folder_lock(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()  # it was the user's


def test_what_cannot_be_a_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            FolderError, match=r"run|file: cannot be made or written to \(it is a file\); choose another"
        ):
            with folder_lock(path):
                pass
    with pytest.raises(FolderError, match="name too long"), folder_lock(tmp_path / ("x" * 300)):
        pass


def test_a_file_system_without_locks_gives_a_note(tmp_path, monkeypatch):
    import errno
    import fcntl

    def flock(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="has no locks; see to it"), folder_lock(tmp_path / "run"):
        pass


def _add_one(folder, counter, number):
    """Count up without any care, which loses counts unless the lock keeps the others out."""
    for _ in range(number):
        while True:
            try:
                with folder_lock(folder):
                    value = int(counter.read_text())
                    time.sleep(0.0005)
                    counter.write_text(str(value + 1))
                break
            except FolderBusyError:
                pass


def test_the_lock_excludes_while_its_file_comes_and_goes(tmp_path):
    """Each holder takes the file away as it leaves; nobody may hold a file that has no name any more."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_one, args=(tmp_path / "run", counter, 25)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert counter.read_text() == "100" and not list((tmp_path / "run").glob("*"))
