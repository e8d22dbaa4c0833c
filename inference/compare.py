"""Train pairs, objectives or estimators side by side on one budget and one data set, and tabulate their figures.

Every (entry, seed) is a run folder with :func:`~pyrarchy.inference.fit`'s own checkpoint, so a comparison that was killed
continues where it stood, to the same numbers, and a finished run is not trained again.
"""

import hashlib
from pathlib import Path

import torch

from ..atomic import write_atomically
from .arguments import whole
from .batches import Batches
from .compare_runs import Entry, Work, in_parallel, read_json, run_folder, serially, slug, to_json
from .comparison import Comparison
from .elbo import ELBO
from .loop import describe


def compare(
    entries,
    train,
    test=None,
    *,
    out,
    seeds=(0,),
    steps=None,
    epochs=None,
    batch_size=None,
    transform=None,
    num_samples=500,
    bound_samples=64,
    plates=1,
    resume=True,
    processes=1,
    save_every=500,
    done=None,
):
    """Train every entry from every seed on the same budget, evaluate all on the same data, and tabulate.

    :param dict entries: name -> :class:`Entry` (or a bare ``make``). Differences are taken to the first.
    :param train: a tensor, or a tuple of aligned tensors (the model's arguments). ``test``: the same, held out;
        ``None`` evaluates on ``train``.
    :param out: folder for ``ENTRY/seedS/`` (the runs), ``table.md`` and ``table.json``.
    :param seeds: seeds of building and training.
    :param int steps: optimiser steps of every run; or ``epochs``: passes over the data. Exactly one of them.
    :param int batch_size: rows per step; ``None`` for all of them. ``transform``: applied to each batch of ``train``.
    :param int num_samples: K, importance samples per datum of log p. ``bound_samples``: M of the bound L_M.
    :param int plates: nested plates of the models.
    :param bool resume: continue what ``out`` holds: finished runs are read, begun ones go on. ``False`` refuses to.
    :param int processes: runs at a time; above one, in processes of one thread each.
    :param int save_every: steps between checkpoints.
    :param done: function of (name, seed, :class:`Outcome`), called as each run ends.
    :returns: :class:`Comparison`.
    :raises ValueError: for a folder that was begun with another budget or other data, or entries that cannot be told
        apart; an error of a run names entry and seed, and is raised when the other runs have ended.
    """
    if (steps is None) == (epochs is None):
        raise ValueError(f"give exactly one of steps and epochs, not steps={steps} and epochs={epochs}")
    entries = {name: e if isinstance(e, Entry) else Entry(e) for name, e in dict(entries).items()}
    seeds = list(seeds)
    if not entries or not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"needed are at least one entry and different seeds, not {list(entries)} and {seeds}")
    if len({slug(name) for name in entries}) != len(entries):
        raise ValueError(f"the names {list(entries)} give the same folder twice: rename one")
    processes = whole("processes", processes)
    train, out = train if isinstance(train, tuple) else (train,), Path(out)
    held = train if test is None else test if isinstance(test, tuple) else (test,)
    total = steps if steps is not None else epochs * len(Batches(train, batch_size))
    work = Work(
        entries, train, held, total, batch_size, transform, num_samples, bound_samples, plates, out, save_every,
        (_digest(train), _digest(held)),
    )  # fmt: skip
    jobs = [(name, seed) for seed in seeds for name in entries]
    for name, seed in jobs:
        _begin(work, name, seed, resume)
    found = {}
    for name, seed, outcome in serially(work, jobs) if processes == 1 else in_parallel(work, jobs, processes):
        found[name, seed] = outcome
        if done is not None:
            done(name, seed, outcome)
    rows = "whole" if batch_size is None else batch_size
    budget = f"{f'{epochs} epochs' if epochs is not None else f'{steps} steps'}, batch {rows}"
    outcomes = {name: {seed: found[name, seed] for seed in seeds} for name in entries}
    comparison = Comparison(outcomes, num_samples, bound_samples, budget, held_out=test is not None)
    write_atomically(out / "table.md", comparison.table().encode())
    write_atomically(out / "table.json", to_json(comparison.figures()))
    return comparison


def _digest(tensors):
    """Sixteen hexadecimal digits that tell one data set from another."""
    digest = hashlib.sha256()
    for tensor in tensors:
        array = torch.as_tensor(tensor).detach().cpu().contiguous().numpy()
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _setting(work, name, seed):
    entry = work.entries[name]
    rate = entry.optimizer if isinstance(entry.optimizer, int | float) else None
    return {
        "entry": name,
        "seed": seed,
        "objective": describe(entry.objective or ELBO(), entry.temper),
        "steps": work.steps,
        "batch size": work.batch_size,
        "learning rate": rate,
        "training data": work.digests[0],
    }


def _begin(work, name, seed, resume):
    """Make a run's folder, or see that the one there was begun in the same way."""
    folder = run_folder(work.out, name, seed)
    path, now = folder / "setting.json", _setting(work, name, seed)
    if path.exists():
        if not resume:
            raise ValueError(f"{folder}: holds a run already; pass resume=True to continue it, or another folder")
        before = read_json(path)
        if differ := [f"{key} {before.get(key)}, not {now[key]}" for key in now if before.get(key) != now[key]]:
            raise ValueError(f"{folder}: was begun with {'; '.join(differ)}. Give the same, or another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_json(now))
