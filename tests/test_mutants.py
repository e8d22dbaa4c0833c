"""The list of mistakes stays true: each text is in its file exactly once, and what replaces it is still a program."""

import importlib.util
import sys
from pathlib import Path

import pytest

MUTANTS = Path(__file__).parent / "mutants"


@pytest.fixture
def run(monkeypatch):
    """The script ``mutants/run.py`` as a module."""
    monkeypatch.syspath_prepend(MUTANTS)
    spec = importlib.util.spec_from_file_location("mutants_run", MUTANTS / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("mechanical", None)


def test_every_listed_mistake_can_be_made(run):
    tasks = run.plausible()
    assert len(tasks) >= 40 and len({task.name for task in tasks}) == len(tasks)
    for task in tasks:
        compile(task.text, task.file, "exec")
    root = MUTANTS.parent.parent
    missing = {test for tests in run.load("targets.toml").values() for test in tests if not (root / test).exists()}
    assert not missing
