"""``pyrarchy compare``: pairs, objectives and estimators trained side by side on one budget, in one table."""

import argparse
from functools import partial
from itertools import product
from pathlib import Path

from .binarize import binarization
from .fit_plan import cosine, data_for, training_plan
from .folder_lock import folder_lock
from .objectives import make_objective
from .placement import to_tensors
from .registry import get_pair
from .run_begin import data_sha256
from .run_config import plain
from .run_folder import prepare, warm_up, write_config


def run_compare(args):
    """Carry out ``pyrarchy compare``; prints the table and returns the exit code."""
    configs, data = plan(args)
    with folder_lock(Path(args.out)):
        return train_and_tabulate(args, configs, data)


def train_and_tabulate(args, configs, data):
    """Train what is to be compared in folders below ``--out``, and write and print the table; returns the exit code."""
    from .inference.compare import compare
    from .inference.compare_runs import run_folder

    first, out = next(iter(configs.values())), Path(args.out)
    dynamic = first["binarize"] == "dynamic"
    fixed = binarization("fixed" if dynamic else first["binarize"]).prepare(data)
    entries = {name: entry(config, data) for name, config in configs.items()}
    for name, seed in product(configs, args.seeds):
        folder = run_folder(out, name, seed)
        if not (folder / "config.json").exists():
            write_config(folder, {**configs[name], "seed": seed}, data)
    comparison = compare(
        entries,
        to_tensors((data if dynamic else fixed).train),
        None if fixed.test is None else to_tensors(fixed.test),
        out=out,
        seeds=args.seeds,
        steps=args.steps,
        epochs=args.epochs,
        batch_size=first["batch_size"],
        transform=binarization("dynamic").draw if dynamic else None,
        num_samples=args.samples,
        processes=args.processes,
        done=None if args.quiet else say,
    )
    if not args.quiet:
        print(f"\n{comparison.table()}\ntable: {out / 'table.md'}, {out / 'table.json'}")
    return 0


def say(name, seed, outcome):
    """One line for a run that has ended."""
    print(
        f"{name}, seed {seed}: log p >= {outcome.log_p.mean():.2f} nats per datum, {outcome.seconds:.1f} s", flush=True
    )


def plan(args):
    """What to compare: (name -> a run's configuration, the data set), every pair x objective x estimator given.

    :raises ValueError: for pairs about different data, or two entries that are the same.
    """
    configs, about = {}, {}
    objectives, estimators = args.objective or [None], args.estimator or [None]
    for (text, words), objective, estimator in product(split_pairs(args.pairs), objectives, estimators):
        pair = get_pair(text)
        options = pair.parse_options(words)
        whole, binarize = data_for(pair, args.data, args.binarize)
        data, columns = prepare(pair, whole, options)
        chosen = training_plan(
            pair, argparse.Namespace(**{**vars(args), "objective": objective, "estimator": estimator})
        )
        chosen |= {"epochs": args.epochs, "steps": args.steps}
        if args.batch_size is None and configs:  # one budget for all: the first entry's
            chosen["batch_size"] = next(iter(configs.values()))["batch_size"]
        name = " ".join(
            [text, *words, *([objective] if len(objectives) > 1 else []), *([estimator] if len(estimators) > 1 else [])]
        )
        if name in configs:
            raise ValueError(f"'{name}' is given twice: leave one away, or give it other options")
        about[name] = {
            "data": args.data or pair.data,
            "binarisation": binarize,
            "likelihood": pair.likelihood,
            "columns": plain(columns),
        }
        first = next(iter(about))
        if odd := [key for key in about[name] if about[name][key] != about[first][key]]:
            what = ", ".join(f"{key} {about[name][key]} and {about[first][key]}" for key in odd if key != "columns")
            raise ValueError(f"{name} and {first} are about different things ({what or 'other columns of the data'}), so "
                             "their log p(x) cannot be compared; give --data, or compare them apart")  # fmt: skip
        configs[name] = {
            "pair": text,
            "options": options,
            "data": args.data or pair.data,
            "rows": whole.num_train,
            "data_sha256": data_sha256(whole),
            "missing": "refuse",
            "support": whole.support,
            "binarize": binarize,
            "image_shape": whole.image_shape,
            "x_dim": None if isinstance(whole.train, tuple) else whole.dim,
            "columns": columns,
            **chosen,
            "samples": args.samples,
            "device": "cpu",
            "dtype": "float32",
            "threads": "auto",
            "tape": True,
        }
        used = data
    return configs, used


def split_pairs(words):
    """``["vae", "z_dim=2", "hvae"]`` as ``[("vae", ["z_dim=2"]), ("hvae", [])]``.

    >>> split_pairs(["vae", "z_dim=2", "vae"])
    [('vae', ['z_dim=2']), ('vae', [])]
    """
    pairs = []
    for word in words:
        if "=" not in word:
            pairs.append((word, []))
        elif pairs:
            pairs[-1][1].append(word)
        else:
            raise ValueError(f"option '{word}' stands before any pair: write PAIR {word}")
    return pairs


def entry(config, data):
    """An :class:`~pyrarchy.inference.Entry` that builds and trains a configuration's pair as ``pyrarchy fit`` does."""
    from .inference import Batches
    from .inference.compare_runs import Entry

    total = config["steps"]
    if total is None:
        total = config["epochs"] * len(Batches(to_tensors(data.train), config["batch_size"]))
    return Entry(
        partial(build, config["pair"], config["options"], data),
        objective=make_objective(config["objective"], config["estimator"]),
        optimizer=config["lr"],
        schedule=partial(decayed, total=total, end=config["decay"]),
        temper=warm_up(config),
    )


def build(name, options, data, seed):
    """A pair by name: what a worker process can be sent."""
    return get_pair(name)(data, seed=seed, **options)


def decayed(step, *, total, end):
    """Factor on the learning rate at a step."""
    return cosine(step / total, end)
