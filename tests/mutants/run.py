"""Break the numerical core on purpose, one change at a time, and see that the tests notice: ``make mutants``.

``plausible.toml`` lists mistakes that people make, as texts to be replaced; ``mechanical.py`` draws others by a seed. Each
is made in a copy of the tree and graded by the tests that ``targets.toml`` maps to the file, until one fails. A change that
no test notices is either one that changes nothing (``equivalent.toml`` says why) or a missing test.

Modules that take seconds to import are imported once: each mutant runs in a fork.
"""

import argparse
import compileall
import gc
import json
import os
import py_compile
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from mechanical import sample

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PARTS = ("pyrarchy", "zoo", "guides", "inference", "tests", "setup.cfg", "pyproject.toml")
LEAST = 0.95
GRACE = 15.0  # seconds of processor time, beside three times what the tests take unbroken
PATIENCE = 10  # wall time may be so many times longer: the machine may be busy


@dataclass(frozen=True)
class Task:
    """A change to grade: the file's new text (``None`` for the unbroken tree) and the tests that grade it."""

    name: str
    file: str
    text: str | None
    tests: tuple


@dataclass
class Result:
    """``killed`` by a failed test, by its name, or by the time; else the change survived."""

    task: Task
    killed: str | None
    seconds: float


def load(name):
    return tomllib.loads((HERE / name).read_text())


def plausible(root=ROOT):
    """The hand-written mutants as tasks. A ValueError names one whose text is not in its file exactly once."""
    targets, tasks = load("targets.toml"), []
    for entry in load("plausible.toml")["mutant"]:
        source = (root / entry["file"]).read_text()
        old, new = entry["old"].strip("\n"), entry["new"].strip("\n")
        if (count := source.count(old)) != 1:
            raise ValueError(f"{entry['file']}: the text of '{entry['why']}' occurs {count} times, not once: {old!r}")
        tests = tuple(entry.get("tests", ())) or tuple(targets[entry["file"]])
        tasks.append(Task(f"{entry['file']}: {entry['why']}", entry["file"], source.replace(old, new), tests))
    return tasks


def drawn(number, seed, root=ROOT):
    """A seeded sample of mechanical mutants, so many from each file, as tasks."""
    tasks = []
    for file, tests in load("targets.toml").items():
        source = (root / file).read_text()
        for mutant in sample(file, source, number, seed):
            text = mutant.apply(source)
            compile(text, file, "exec")
            tasks.append(Task(mutant.name, file, text, tuple(tests)))
    return tasks


class Watch:
    """A pytest plugin: processor time of each test, and the first that failed."""

    def __init__(self):
        self.times, self.failed, self._began = {}, None, 0.0

    def pytest_runtest_logstart(self, nodeid):
        self._began = time.process_time()

    def pytest_runtest_logfinish(self, nodeid):
        self.times[nodeid] = time.process_time() - self._began

    def pytest_runtest_logreport(self, report):
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and self.failed is None:
            self.failed = f"import of {report.nodeid}"


class Slot:
    """A copy of the tree, and the child that is at work in it."""

    def __init__(self, folder):
        self.folder, self.out = folder / "tree", folder / "out.txt"
        self.folder.mkdir(parents=True)
        ignored = shutil.ignore_patterns("__pycache__", "_build", "_generated")
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, self.folder / part, **({"ignore": ignored} if copy is shutil.copytree else {}))
        for part in ("pyrarchy", "zoo", "guides", "inference"):  # checked by content: times are too coarse for mutants
            compileall.compile_dir(
                self.folder / part, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
            )
        self.task = self.pid = None

    def start(self, task, limit, extra=("-x",)):
        """Make the change and fork a child that runs the tests."""
        self.task, self.limit, self.began, self.before = task, limit, time.monotonic(), None
        if task.text is not None:
            path = self.folder / task.file
            self.before = path.read_text()
            path.write_text(task.text)
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._child(extra)
            finally:
                os._exit(0)

    def _child(self, extra):
        """Run the tests here; nothing of this process's own state matters any more."""
        import pytest

        os.setsid()
        out = os.open(self.out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(self.limit), int(self.limit) + 2))
        os.chdir(self.folder)
        sys.path[0] = str(self.folder)
        sys.dont_write_bytecode = (
            self.task.text is not None
        )  # the unbroken tree leaves the compiled tests for the others
        watch = Watch()
        quiet = ("-q", "--tb=short", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist")
        code = pytest.main([*extra, *quiet, *self.task.tests], plugins=[watch])
        files = [Path(m.__file__) for n, m in sys.modules.items() if n.split(".")[0] == "pyrarchy" and m.__file__]
        if all(file.is_relative_to(self.folder) for file in files):
            report = {"code": int(code), "failed": watch.failed, "times": watch.times}
            (self.folder / "report.json").write_text(json.dumps(report))

    def done(self):
        """The child's report once it has ended (``None`` before): a dictionary, and how long it took on the processor."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        late = time.monotonic() - self.began > PATIENCE * self.limit
        if not pid and not late:
            return None
        if not pid:
            os.killpg(self.pid, signal.SIGKILL)
            _, status, usage = os.wait4(self.pid, 0)
        if self.before is not None:
            (self.folder / self.task.file).write_text(self.before)
        path, self.pid = self.folder / "report.json", None
        if path.exists():
            report = json.loads(path.read_text())
            path.unlink()
        else:
            signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            over = late or signalled in (signal.SIGXCPU, signal.SIGKILL)
            report = {
                "code": 1 if signalled else 3,
                "failed": "the time" if over else f"signal {signalled}",
                "times": {},
            }
        return report, usage.ru_utime + usage.ru_stime


def work(slots, tasks, limit, extra=("-x",)):
    """Grade tasks in the slots, as they become free; yields (task, report, seconds)."""
    tasks = list(tasks)[::-1]
    while tasks or any(slot.pid for slot in slots):
        for slot in slots:
            if slot.pid and (found := slot.done()):
                report, seconds = found
                if report["code"] not in (0, 1, 2):
                    raise RuntimeError(f"{slot.task.name}: pytest could not run:\n{slot.out.read_text()[-3000:]}")
                yield slot.task, report, seconds
            if not slot.pid and tasks:
                slot.start(task := tasks.pop(), limit(task), extra)
        time.sleep(0.02)


def unbroken(slots, tasks):
    """Run all tests on the unbroken tree, which must pass; returns a function from tests to the seconds they take."""
    names = sorted({test for task in tasks for test in task.tests})
    times = {}
    whole = [Task(name, "", None, (name,)) for name in names]
    for task, report, _ in work(slots, whole, lambda task: 600.0, ()):
        if report["code"]:
            raise RuntimeError(f"{report['failed']} fails on the unbroken tree: nothing can be learnt from mutants")
        times[task.name] = sum(report["times"].values())
    return lambda task: GRACE + 3 * sum(times[test] for test in task.tests)


def warm():
    """Import what takes seconds, so that children need not. None of the library: that is what is mutated."""
    import arviz  # noqa: F401
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.testing.assert_close(
        torch.ones(1), torch.func.vmap(torch.clone)(torch.ones(1))
    )  # both import at their first use
    assert not any(name.split(".")[0] == "pyrarchy" for name in sys.modules)
    gc.freeze()  # what is here stays: children need not look through it


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="children at a time")
    parser.add_argument("--number", type=int, default=3, help="mechanical mutants drawn from each file")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="", help="mutants whose name holds this text")
    parser.add_argument("--kind", choices=("all", "plausible", "mechanical"), default="all")
    parser.add_argument("--show", action="store_true", help="list the mutants and run none")
    options = parser.parse_args(argv)
    tasks = plausible() if options.kind != "mechanical" else []
    tasks += drawn(options.number, options.seed) if options.kind != "plausible" else []
    tasks = [task for task in tasks if options.only in task.name]
    if not tasks:
        parser.error(f"no mutant's name holds '{options.only}'")
    if options.show:
        return print("\n".join(task.name for task in tasks))
    began, results = time.monotonic(), []
    warm()
    reasons = load("equivalent.toml")
    with tempfile.TemporaryDirectory() as folder:
        slots = [Slot(Path(folder) / str(i)) for i in range(options.jobs)]
        limit = unbroken(slots, tasks)
        start = time.monotonic() - began
        for task, report, seconds in work(slots, tasks, limit):
            killed = report["failed"] if report["code"] else None
            results.append(Result(task, killed, seconds))
            print(
                f"{'killed' if killed else 'SURVIVED':<9}{seconds:6.1f} s  {task.name}  [{killed or '-'}]", flush=True
            )
    return summary(results, reasons, start, time.monotonic() - began)


def summary(results, reasons, start, seconds):
    """Print the score and the survivors with their reasons; 0 where enough were killed."""
    left = [r.task.name for r in results if not r.killed]
    print(f"\n{len(results) - len(left)} of {len(results)} killed ({1 - len(left) / len(results):.1%}), "
          f"{seconds:.0f} s ({start:.0f} s of them the unbroken tree)")  # fmt: skip
    for name in left:
        print(f"survived: {name}\n    {reasons.get(name, 'no reason is known: write a test')}")
    return int(len(left) > (1 - LEAST) * len(results) or any(name not in reasons for name in left))


if __name__ == "__main__":
    sys.exit(main())
