"""The runs of a comparison: train and evaluate one, in this process or several at a time in others."""

import copy
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..atomic import write_atomically
from ..checkpoint import CheckpointError, load_state, save_state
from .batch_statistics import reestimate_statistics
from .batches import Batches
from .comparison import Outcome
from .evaluate import evaluate
from .fit import fit
from .isolation import root_modules
from .loop import DivergedError
from .preflight import FirstLossError
from .threads import set_threads, threads_kept


@dataclass(frozen=True)
class Entry:
    """One thing to compare: how to make a pair from a seed, and how to train it.

    With more than one process all of it must be picklable: functions of a module, ``functools.partial``, no lambda.

    :ivar make: function of a seed that returns a new ``(model, guide)``.
    :ivar objective: a :class:`Bound`, estimator included; the ELBO by default.
    :ivar optimizer, schedule, temper: as :func:`~pyrarchy.inference.fit` takes them.
    """

    make: Callable
    objective: object = None
    optimizer: object = 1e-3
    schedule: Callable | None = None
    temper: object = None


@dataclass(frozen=True)
class Work:
    """What all runs of a comparison share."""

    entries: dict
    train: tuple
    test: tuple
    steps: int
    batch_size: int | None
    transform: Callable | None
    num_samples: int
    bound_samples: int
    plates: int
    out: Path
    save_every: int
    digests: tuple


def run_folder(out, name, seed):
    """The folder of one run of a comparison."""
    return Path(out) / slug(name) / f"seed{seed}"


def slug(name):
    """An entry's name as the name of a folder."""
    return re.sub(r"[^\w.=,+-]+", "_", name).strip("._") or "entry"


def to_json(value):
    """JSON as bytes; what is not finite becomes null."""

    def finite(v):
        if isinstance(v, dict):
            return {str(k): finite(x) for k, x in v.items()}
        if isinstance(v, list | tuple):
            return [finite(x) for x in v]
        return None if isinstance(v, float) and v - v != 0 else v  # JSON has no NaN

    return (json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path, kind=object):
    """A JSON object, its values of one kind, from a comparison's folder.

    :raises CheckpointError: for a file that holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(value, kind) for value in content.values()):
            raise ValueError("not what a comparison wrote")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); delete the folder it is in: that run then begins anew"
        ) from None
    return content


_trained = weakref.WeakSet()  # modules that this process has trained and that are still there


def _see_that_it_is_new(name, model, guide):
    """Refuse a pair that another run has trained: its runs would go on from each other."""
    for module in root_modules(model, guide):
        if module in _trained:
            raise ValueError(
                f"entry '{name}' makes one pair for all seeds: its function must build a new one at every call"
            )
        _trained.add(module)


@threads_kept()
def finish(work, name, seed):
    """Train (or go on with) and evaluate one run, unless that was done: its :class:`Outcome`."""
    folder, entry = run_folder(work.out, name, seed), work.entries[name]
    graded = {"K": work.num_samples, "M": work.bound_samples, "data": work.digests[1]}
    try:
        state = load_state(folder / "outcome.npz")
        if state.pop("graded") == graded:
            return Outcome(**state)
    except CheckpointError:  # not there yet, or cut off
        pass
    objective, temper = copy.deepcopy((entry.objective, entry.temper))  # a temperature has a state
    model, guide = entry.make(seed)
    _see_that_it_is_new(name, model, guide)
    clock = _Clock(folder / "clock.json", work.save_every)
    batches = Batches(work.train, work.batch_size, seed=seed, transform=work.transform)
    record = fit(
        model, guide, batches, objective=objective, optimizer=entry.optimizer, steps=work.steps,
        schedule=entry.schedule, temper=temper, seed=seed, callbacks=(clock,), out=folder, resume=True,
        save_every=work.save_every, threads="auto",
    )  # fmt: skip
    seconds = clock.stop(record.step)
    set_threads(record.threads)  # of the grading, too
    reestimate_statistics(model, guide, batches, seed=seed)
    grades = evaluate(model, guide, work.test, num_samples=work.num_samples, plates=work.plates)
    bound = evaluate(model, guide, work.test, num_samples=work.bound_samples, plates=work.plates, seed=1)
    outcome = Outcome(
        grades.elbo, bound.log_p, grades.log_p, grades.k_hat, grades.ess,
        {site: list(pair) for site, pair in grades.active_units().items()}, grades.rates, record.objective,
        bool(record.is_lower_bound), record.step, seconds,
    )  # fmt: skip
    save_state(folder / "outcome.npz", {**asdict(outcome), "graded": graded})
    return outcome


class _Clock:
    """Training time over all the processes of a run: a callback that notes it just before each checkpoint."""

    def __init__(self, path, every):
        self.path, self.every, self.before = path, every, None
        self.noted = read_json(path, (int, float)) if path.exists() else {}
        self.started = time.perf_counter()

    def __call__(self, step):
        if self.before is None:  # what the steps up to the checkpoint took, however long a killed process went on
            self.before = self.noted.get(str(step.step - 1), 0.0)
        if self.every and step.step % self.every == 0:
            self._note(step.step)

    def _note(self, step):
        self.noted[str(step)] = self.before + time.perf_counter() - self.started
        write_atomically(self.path, json.dumps(self.noted).encode())

    def stop(self, step):
        """Seconds of all steps; NaN where a kill in the very last moment lost them."""
        if self.before is not None:
            self._note(step)
        return self.noted.get(str(step), float("nan"))


def serially(work, jobs):
    """Run jobs (name, seed) one after the other; yields (name, seed, outcome), and raises what failed at the end."""
    failed = []
    for name, seed in jobs:
        try:
            outcome = finish(work, name, seed)
        except (ValueError, TypeError, ArithmeticError, OSError) as error:
            failed.append((name, seed, error))
            continue
        yield name, seed, outcome
    _raise(failed)


def in_parallel(work, jobs, processes):
    """The same in several processes of one thread each, in the order in which they end."""
    failed, context = [], multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(processes, len(jobs)), context, initializer=_start, initargs=(work,))
    try:
        running = {executor.submit(_in_worker, name, seed): (name, seed) for name, seed in jobs}
        for future in as_completed(running):
            try:
                outcome = future.result()
            except (ValueError, TypeError, ArithmeticError, OSError) as error:
                failed.append((*running[future], error))
                continue
            yield *running[future], outcome
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():  # each has its checkpoint, from which the same command goes on
            worker.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
    _raise(failed)


class EntryError(ValueError):
    """What ended a run of a comparison, after its others: the text names it, and ``kinds`` are the classes of its error."""

    def __init__(self, text, error):
        super().__init__(text)
        self.kinds = [kind.__name__ for kind in type(error).__mro__]
        self.errno = getattr(error, "errno", None)


class EntryDivergedError(EntryError, ArithmeticError):
    """The same, of a training that diverged."""


def _raise(failed):
    if failed:
        name, seed, error = failed[0]
        more = f" ({len(failed) - 1} more run(s) failed)" if len(failed) > 1 else ""
        raised = EntryDivergedError if isinstance(error, DivergedError | FirstLossError) else EntryError
        raise raised(f"entry '{name}', seed {seed}: {error}{more}", error) from error


_work = None  # in a worker process alone: what it was started with


def _start(work):
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what to do
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A killed parent must not leave workers behind that write to the folders of the next comparison."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _in_worker(name, seed):
    return finish(_work, name, seed)
