"""What a fit is going to do, settled before anything is built and before torch is imported: its data, its training."""

import math
from contextlib import contextmanager
from dataclasses import asdict

from .binarize import check_support
from .datasets import load_data
from .faults import DataError
from .objectives import OF_PYRO, OVER_WEIGHTS, parse_objective

LEAST_SPREAD = 1e-6  # of a column: the floors of scales are of this size


def data_for(pair, name=None, binarize=None, missing="refuse"):
    """The data set that a pair is to be used with, and how its grey values become bits: (data set, binarisation).

    :param str name: data set or file; the pair's own by default. ``missing``: as :func:`~.datasets.load_data` takes it.
    :raises DataError: for data that the pair's likelihood is no density of.
    """
    if pair.likelihood == "own":
        if name is not None and name.replace("-", "_") != pair.data:
            raise ValueError(f"pair {pair.name} brings its own kind of data ({pair.data}); leave --data away")
        if binarize not in (None, "none"):
            raise ValueError(f"pair {pair.name} brings its own likelihood; leave --binarize away")
        if missing != "refuse":
            raise ValueError(f"pair {pair.name} brings its own data, which lack no value; leave --missing away")
        return load_data(pair.data), "none"
    data = load_data(name or pair.data, missing=missing)
    if isinstance(data.train, tuple):
        raise DataError(f"{data.name}: is {len(data.train)} arrays, but the pair {pair.name} takes one table of rows")
    binarize = binarize or ("dynamic" if pair.likelihood == "bernoulli" and data.support == "unit" else "none")
    check_support(data, pair.likelihood, binarize)
    return data, binarize


@contextmanager
def blaming(data):
    """A block that builds or fits a pair: what it refuses because a column of the data has no spread is said of the column.

    :raises DataError: in place of its ValueError.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, DataError) or isinstance(data.train, tuple):
            raise
        if len(data.train) == 1:
            raise DataError(f"{data.name}: holds one row ({error}); give at least two") from error
        spread = data.train.std(0, dtype="float64")
        for flat, what in (
            ((data.train == data.train[0]).all(0), "hold one value each ({}); leave such columns out"),
            (spread < LEAST_SPREAD, "vary by less than 1e-6 ({}); rescale them"),
        ):
            if flat.any():
                columns = ", ".join(map(str, flat.nonzero()[0][:5])) + ", ..." * int(flat.sum() > 5)
                raise DataError(f"{data.name}: column(s) {columns} (counted from 0) {what.format(error)}") from error
        raise


def training_plan(pair, args):
    """The pair's training with what the command line says instead.

    :raises ValueError: for an option that the pair's way of training would ignore.
    """
    plan = asdict(pair.training)
    if pair.training.method != "svi":
        words = ("objective", "estimator", "epochs", "steps", "batch_size", "lr", "warm_up")
        given = ["--" + word.replace("_", "-") for word in words if getattr(args, word) is not None]
        given += ["--device"] if getattr(args, "device", "cpu") != "cpu" else []
        given += ["--no-tape"] if getattr(args, "tape", None) is False else []
        given += ["--profile"] if getattr(args, "profile", False) else []
        if given:
            how = {"em": "exact EM", "cavi": "coordinate ascent"}[pair.training.method]
            raise ValueError(f"pair {pair.name} is fitted by {how}, to convergence; leave {', '.join(given)} away")
        return plan
    for key in ("objective", "estimator", "batch_size", "lr"):
        if (given := getattr(args, key)) is not None:
            plan[key] = given
    if args.epochs is not None or args.steps is not None:
        plan["epochs"], plan["steps"] = args.epochs, args.steps
    name = plan["objective"].split(":")[0]
    over_weights = name in OVER_WEIGHTS or plan["estimator"] not in (None, "plain")
    if args.warm_up is not None:
        if args.warm_up and name in OF_PYRO:
            raise ValueError(f"--warm-up needs one of pyrarchy's ELBOs: {name} is Pyro's and knows no temperature; leave "
                             "--warm-up away, or use elbo")  # fmt: skip
        plan["warm_up"] = args.warm_up
        if args.warm_up and over_weights:
            raise ValueError(f"--warm-up needs an ELBO: {plan['objective']} under a temperature would bound another "
                             "quantity than log p(x); leave --warm-up away")  # fmt: skip
    elif over_weights or name in OF_PYRO:  # the row's warm-up is for the row's own objective
        plan["warm_up"] = 0.0
    if getattr(args, "profile", False) and args.device.partition(":")[0] != "cpu":
        raise ValueError("--profile times what the CPU does, and a device works on behind it; leave --device away")
    parse_objective(plan["objective"])
    return plan


def cosine(share, end):
    """Factor on the learning rate after a share of the steps: half a cosine from 1 down to ``end``."""
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * share))
