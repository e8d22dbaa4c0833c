"""The commands and their options. Imports no torch, so that ``--help`` answers at once."""

import argparse
import os

from ._version import __version__
from .faults import USAGE
from .objectives import ESTIMATORS, describe_objectives

MISSING = ("refuse", "drop-rows")  # as in files, which needs numpy
_PAIR = "the run's pair, where it is code of your own: opening a run imports none by itself"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others of the command."""

    def error(self, message):
        self.exit(USAGE, f"error: {' '.join(message.split())}; see `{self.prog} --help`\n")


def build_parser(handlers=None):
    """The argument parser of all commands.

    :param handlers: command -> what carries it out; by default those of :mod:`pyrarchy.cli`.
    """
    if handlers is None:
        from .cli import HANDLERS as handlers
    parser = _Parser(
        prog="pyrarchy", description="A zoo of hierarchical generative models in Pyro, each with a matching guide."
    )
    parser.add_argument("--version", action="version", version=f"pyrarchy {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, text, **kwargs):
        sub = commands.add_parser(name, help=text, description=text, **kwargs)
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return sub

    sub = command("list", handlers["list"], "list the pairs")
    sub.add_argument("pair", nargs="?", help="show one pair in full; with --matrix, the reasons for one model class")
    sub.add_argument("--matrix", action="store_true", help="try every guide family on every model (about a minute)")
    _add_fit(command, handlers)
    _add_compare(command, handlers)
    _add_nuts(command, handlers)
    sub = command("report", handlers["report"], "diagnose a run and rewrite its report, all diagnostics on one page")
    sub.add_argument("run_folder", metavar="RUN")
    sub.add_argument("--quick", action="store_true", help="leave the long diagnostics out, as `fit` does")
    what = "how long one diagnostic may take before it is left out (default %(default)g)"
    sub.add_argument("--seconds", type=_positive_float, default=120.0, metavar="S", help=what)
    sub.add_argument("--pair", type=_name, metavar="MODULE:FUNCTION", help=_PAIR)
    sub = command("check", handlers["check"], "check a pair: sites, gradients, particles, independence of the data")
    sub.add_argument("pair", metavar="MODULE:FUNCTION", help="a pair of your own, or the name of a row")
    sub.add_argument("--data", type=_name, help="data set or file to check with; the pair's own by default")
    sub = command("new", handlers["new"], "write a model, a guide, a row and a test to fill in")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("--folder", type=_name, default=".", help="where to write (default: here)")
    what = "data set by name (its held-out rows) or a file (its `test` rows where it has them, else all)"
    for name, text in (
        ("encode", "latents of data by a fitted pair"),
        ("reconstruct", "data as a fitted pair sees them again"),
    ):
        sub = command(name, handlers["apply"], text)
        _add_apply(sub)
        sub.add_argument("--data", type=_name, required=True, metavar="NAME|PATH", help=what)
    sub = command("sample", handlers["apply"], "samples from a fitted pair's model")
    _add_apply(sub)
    sub.add_argument("--num", type=_positive, help="how many (default 100); --draws says the same")
    sub.add_argument(
        "--data", type=_name, metavar="NAME|PATH", help="what a model with covariates is sampled at; the run's own data"
    )
    sub = command("data", handlers["data"], "list or fetch data sets")
    sub.add_argument("action", choices=["list", "fetch"])
    sub.add_argument("name", nargs="?", help="the data set to fetch")
    return parser


def _add_fit(command, handlers):
    sub = command(
        "fit",
        handlers["fit"],
        "fit a pair and write a run folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"objectives:\n{describe_objectives()}\n\n`pyrarchy list PAIR` shows a pair's options and defaults.",
    )
    sub.add_argument("pair", metavar="PAIR", help="a row of `pyrarchy list`, or module:function")
    sub.add_argument("options", nargs="*", metavar="key=value", help="options of the pair, such as z_dim=8")
    sub.add_argument("--data", type=_name, metavar="NAME|PATH", help="data set by name, or a .npy, .npz or .csv file")
    sub.add_argument(
        "--missing", choices=MISSING, default="refuse", help="rows of a file that lack values: leave them out?"
    )
    sub.add_argument("--binarize", choices=["dynamic", "fixed", "none"], help="how grey values become bits")
    sub.add_argument("--objective", type=_name, help="what to maximise, such as iwae:50 (see below)")
    sub.add_argument("--estimator", choices=ESTIMATORS, help="how the gradient is formed (plain)")
    budget = sub.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=_positive, help="passes over the data")
    budget.add_argument("--steps", type=_positive, help="optimiser steps")
    sub.add_argument("--batch-size", type=_positive, help="rows per step, of each process under torchrun")
    sub.add_argument("--lr", type=_positive_float, help="learning rate of Adam at the start")
    sub.add_argument("--warm-up", type=_share, metavar="SHARE", help="share of the steps over which beta rises to 1")
    sub.add_argument("--samples", type=_positive, default=500, help="importance samples per datum in the evaluation")
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--out", type=_name, metavar="DIR", help="run folder (default runs/PAIR)")
    existing = sub.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the run in --out")
    existing.add_argument("--overwrite", action="store_true", help="begin anew in --out, in place of the run there")
    sub.add_argument(
        "--threads", type=_threads, metavar="auto|N",
        help="torch's threads; auto (the default) times a few steps of a training that is not short, and takes one or all",
    )  # fmt: skip
    sub.add_argument(
        "--no-tape", dest="tape", action="store_const", const=False,
        help="run every step under Pyro, instead of recording one and replaying it: slower, the same numbers",
    )  # fmt: skip
    sub.add_argument(
        "--profile", action="store_true", help="print where a training step's time goes; changes no number"
    )
    what = "leave weights and figures; `pyrarchy report` makes draws, pictures and page when they are wanted"
    sub.add_argument("--no-report", dest="report", action="store_false", help=what)
    sub.add_argument(
        "--device", type=_name, default="cpu", help="where to train: cpu, cuda, cuda:1, mps (default %(default)s)"
    )
    sub.add_argument(
        "--dtype", choices=["float32", "float64"], default="float32", help="precision (default %(default)s)"
    )
    sub.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_compare(command, handlers):
    sub = command(
        "compare",
        handlers["compare"],
        "train pairs, objectives and estimators side by side on one budget, and tabulate them",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every pair x objective x estimator is one entry; differences are to the first. Options after a pair are its "
        f"own.\nWhat --out holds already is continued.\n\nobjectives:\n{describe_objectives()}",
    )
    sub.add_argument("pairs", nargs="+", metavar="PAIR [key=value ...]", help="rows of `pyrarchy list`")
    sub.add_argument("--data", type=_name, metavar="NAME|PATH", help="data set by name, or a .npy, .npz or .csv file")
    sub.add_argument("--binarize", choices=["dynamic", "fixed", "none"], help="how grey values become bits")
    sub.add_argument("--objective", type=_name, action="append", help="what to maximise; may be given several times")
    sub.add_argument("--estimator", action="append", help="how its gradient is formed; may be given several times")
    budget = sub.add_mutually_exclusive_group(required=True)
    budget.add_argument("--epochs", type=_positive, help="passes over the data, for every entry")
    budget.add_argument("--steps", type=_positive, help="optimiser steps, for every entry")
    sub.add_argument("--batch-size", type=_positive, help="rows per step, for every entry (default: the first pair's)")
    sub.add_argument("--lr", type=_positive_float, help="learning rate at the start (default: each pair's own)")
    sub.add_argument("--warm-up", type=_share, metavar="SHARE", help="share of the steps over which beta rises to 1")
    sub.add_argument("--seeds", type=_seeds, default=[0], metavar="S,S,...", help="seeds of building and training")
    sub.add_argument("--samples", type=_positive, default=500, help="importance samples per datum of log p")
    sub.add_argument("--processes", type=_positive, default=1, help="runs at a time, one thread each when several")
    sub.add_argument("--out", type=_name, required=True, metavar="DIR", help="folder for the runs and the table")
    sub.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_nuts(command, handlers):
    sub = command("nuts", handlers["nuts"], "sample a posterior by NUTS, as the reference for guides")
    sub.add_argument("pair", metavar="PAIR", help="a row of `pyrarchy list` with global latents, or module:function")
    sub.add_argument("options", nargs="*", metavar="key=value", help="options of the pair")
    sub.add_argument("--data", type=_name, metavar="NAME|PATH", help="data set by name, or a file")
    sub.add_argument("--samples", type=_draws, default=1000, help="draws per chain")
    sub.add_argument("--warmup", type=_positive, default=500, help="steps before them, per chain")
    sub.add_argument("--chains", type=_positive, default=4)
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--against", type=_name, metavar="RUN", help="a fitted run whose guide is drawn against NUTS")
    sub.add_argument("--out", type=_name, metavar="DIR", help="run folder (default runs/nuts_PAIR)")
    sub.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_apply(sub):
    sub.add_argument("run_folder", metavar="RUN")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--mean", action="store_true", help="means (the default)")
    how.add_argument("--draws", type=_positive, metavar="S", help="S draws in place of means")
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--pair", type=_name, metavar="MODULE:FUNCTION", help=_PAIR)
    sub.add_argument("--out", type=_name, required=True, metavar="FILE", help=".npz (all sites) or .npy (one site)")


def _number(kind, fits, needed):
    """A type for argparse: a number of a kind that fits, or an error that says what is needed."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"must be {needed}, not '{text}'")
        return value

    return convert


MOST = 10**9  # of anything that is counted: what is beyond overflows somewhere, late and in other words
MOST_THREADS = max(256, os.cpu_count() or 1)  # as in inference.threads, which needs torch

_positive = _number(int, lambda value: 1 <= value <= MOST, "a whole number from 1 to 10^9")
_draws = _number(int, lambda value: 4 <= value <= MOST, "a whole number from 4 to 10^9")
_some_threads = _number(
    int, lambda value: 1 <= value <= MOST_THREADS, f"auto or a whole number from 1 to {MOST_THREADS}"
)
_seed = _number(int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2^32 - 1")


def _threads(text):
    return text if text == "auto" else _some_threads(text)


def _name(text):
    """A name or a path: an empty one is a shell variable that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _seeds(text):
    seeds = [_seed(part) for part in text.split(",")]
    if len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"must be different seeds, not '{text}'")
    return seeds


_positive_float = _number(float, lambda value: 0 < value < float("inf"), "a positive number")
_share = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
