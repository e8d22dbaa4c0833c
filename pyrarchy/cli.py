"""The command line. Nothing here imports torch: ``--help``, ``list`` and ``data`` answer at once."""

import argparse
import os
import sys
import warnings

from ._version import __version__
from .objectives import ESTIMATORS, describe_objectives

USAGE, BAD_DATA, DIVERGED, INTERRUPTED = 2, 3, 5, 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others of the command."""

    def error(self, message):
        self.exit(USAGE, f"error: {message}; see `{self.prog} --help`\n")


def build_parser():
    """The argument parser of all commands."""
    parser = _Parser(
        prog="pyrarchy", description="A zoo of hierarchical generative models in Pyro, each with a matching guide."
    )
    parser.add_argument("--version", action="version", version=f"pyrarchy {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, text, **kwargs):
        sub = commands.add_parser(name, help=text, description=text, **kwargs)
        sub.set_defaults(run=run)
        return sub

    sub = command("list", _list, "list the pairs")
    sub.add_argument("pair", nargs="?", help="show one pair in full")
    _add_fit(command)
    _add_compare(command)
    _add_nuts(command)
    sub = command("report", _report, "evaluate a run again and rewrite its report")
    sub.add_argument("run_folder", metavar="RUN")
    sub = command("check", _check, "check a pair: sites, gradients, particles, independence of the data")
    sub.add_argument("pair", metavar="MODULE:FUNCTION", help="a pair of your own, or the name of a row")
    sub.add_argument("--data", help="data set or file to check with; the pair's own by default")
    sub = command("new", _new, "write a model, a guide, a row and a test to fill in")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("--folder", default=".", help="where to write (default: here)")
    what = "data set by name (its held-out rows) or a file (its `test` rows where it has them, else all)"
    for name, text in (
        ("encode", "latents of data by a fitted pair"),
        ("reconstruct", "data as a fitted pair sees them again"),
    ):
        sub = command(name, _apply, text)
        _add_apply(sub)
        sub.add_argument("--data", required=True, metavar="NAME|PATH", help=what)
    sub = command("sample", _apply, "samples from a fitted pair's model")
    _add_apply(sub)
    sub.add_argument("--num", type=_positive, help="how many (default 100); --draws says the same")
    sub.add_argument(
        "--data", metavar="NAME|PATH", help="what a model with covariates is sampled at; the run's own data"
    )
    sub = command("data", _data, "list or fetch data sets")
    sub.add_argument("action", choices=["list", "fetch"])
    sub.add_argument("name", nargs="?", help="the data set to fetch")
    return parser


def _add_fit(command):
    sub = command(
        "fit",
        _fit,
        "fit a pair and write a run folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"objectives:\n{describe_objectives()}\n\n`pyrarchy list PAIR` shows a pair's options and defaults.",
    )
    sub.add_argument("pair", metavar="PAIR", help="a row of `pyrarchy list`, or module:function")
    sub.add_argument("options", nargs="*", metavar="key=value", help="options of the pair, such as z_dim=8")
    sub.add_argument("--data", metavar="NAME|PATH", help="data set by name, or a .npy, .npz or .csv file")
    sub.add_argument("--binarize", choices=["dynamic", "fixed", "none"], help="how grey values become bits")
    sub.add_argument("--objective", help="what to maximise, such as iwae:50 (see below)")
    sub.add_argument("--estimator", choices=ESTIMATORS, help="how the gradient is formed (plain)")
    budget = sub.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=_positive, help="passes over the data")
    budget.add_argument("--steps", type=_positive, help="optimiser steps")
    sub.add_argument("--batch-size", type=_positive, help="rows per step")
    sub.add_argument("--lr", type=_positive_float, help="learning rate of Adam at the start")
    sub.add_argument("--warm-up", type=_share, metavar="SHARE", help="share of the steps over which beta rises to 1")
    sub.add_argument("--samples", type=_positive, default=500, help="importance samples per datum in the evaluation")
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--out", metavar="DIR", help="run folder (default runs/PAIR)")
    sub.add_argument("--resume", action="store_true", help="continue the run in --out")
    sub.add_argument("--threads", type=_positive, help="torch's threads")
    sub.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_compare(command):
    sub = command(
        "compare",
        _compare,
        "train pairs, objectives and estimators side by side on one budget, and tabulate them",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every pair x objective x estimator is one entry; differences are to the first. Options after a pair are its "
        f"own.\nWhat --out holds already is continued.\n\nobjectives:\n{describe_objectives()}",
    )
    sub.add_argument("pairs", nargs="+", metavar="PAIR [key=value ...]", help="rows of `pyrarchy list`")
    sub.add_argument("--data", metavar="NAME|PATH", help="data set by name, or a .npy, .npz or .csv file")
    sub.add_argument("--binarize", choices=["dynamic", "fixed", "none"], help="how grey values become bits")
    sub.add_argument("--objective", action="append", help="what to maximise; may be given several times")
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
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for the runs and the table")
    sub.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_nuts(command):
    sub = command("nuts", _nuts, "sample the posterior of a pair's model by NUTS, as the reference for its guides")
    sub.add_argument("pair", metavar="PAIR", help="a row of `pyrarchy list` with global latents, or module:function")
    sub.add_argument("options", nargs="*", metavar="key=value", help="options of the pair")
    sub.add_argument("--data", metavar="NAME|PATH", help="data set by name, or a file")
    sub.add_argument("--samples", type=_positive, default=1000, help="draws per chain")
    sub.add_argument("--warmup", type=_positive, default=500, help="steps before them, per chain")
    sub.add_argument("--chains", type=_positive, default=4)
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--against", metavar="RUN", help="a fitted run whose guide is drawn against NUTS")
    sub.add_argument("--out", metavar="DIR", help="run folder (default runs/nuts_PAIR)")
    sub.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_apply(sub):
    sub.add_argument("run_folder", metavar="RUN")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--mean", action="store_true", help="means (the default)")
    how.add_argument("--draws", type=_positive, metavar="S", help="S draws in place of means")
    sub.add_argument("--seed", type=_seed, default=0)
    sub.add_argument("--out", required=True, metavar="FILE", help=".npz (all sites) or .npy (one site)")


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


_positive = _number(int, lambda value: value >= 1, "a whole number of at least 1")
_seed = _number(int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2^32 - 1")


def _seeds(text):
    seeds = [_seed(part) for part in text.split(",")]
    if len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"must be different seeds, not '{text}'")
    return seeds


_positive_float = _number(float, lambda value: 0 < value < float("inf"), "a positive number")
_share = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _list(args):
    from .registry import get_pair, list_pairs

    if not args.pair:
        rows = list_pairs()
        width = max(map(len, rows))
        for name, row in rows.items():
            print(f"{name:<{width}}  {row.model} + {row.guide}: {row.summary}")
        return 0
    row = get_pair(args.pair)
    plan = row.training
    print(f"{row.name}: {row.summary}\n\n  model    {row.model}\n  guide    {row.guide}\n  density  {row.density}")
    print(f"  data     {row.data}\n  source   {row.source.authors} ({row.source.year}), {row.source.link}")
    for word, text in (("differs", row.differs), ("caution", row.caution)):
        if text:
            print(f"  {word}  {text}")
    for key, default in row.options.items():
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        print(f"  option   {key}={shown}")
    shown = {k: v for k, v in vars(plan).items() if v is not None} if plan.method == "svi" else {"method": plan.method}
    print("  training " + ", ".join(f"{k}={v}" for k, v in shown.items()))
    return 0


def _data(args):
    from .datasets import list_data

    if args.action == "list":
        for row in list_data():
            print(f"{row.name}: {row.what}\n    {row.size}; licence: {row.licence}\n    {row.where}")
        return 0
    from .fetch import REMOTES, fetch

    if args.name not in REMOTES:
        raise ValueError(f"give a data set to fetch: {', '.join(REMOTES)}")
    print(fetch(args.name, progress=_download_line))
    return 0


def _download_line(file, done, total):
    share = f"{100 * done / total:3.0f} %" if total else f"{done / 2**20:.1f} MB"
    print(f"\r{file}: {share}", end="\n" if total and done >= total else "", file=sys.stderr, flush=True)


def _fit(args):
    from .fit_command import run_fit

    return run_fit(args)


def _compare(args):
    from .compare_command import run_compare

    return run_compare(args)


def _nuts(args):
    from .nuts_command import run_nuts_command

    return run_nuts_command(args)


def _report(args):
    from .fit_command import run_report

    return run_report(args.run_folder)


def _check(args):
    from .check_command import run_check

    return run_check(args)


def _new(args):
    from .new_command import run_new

    return run_new(args.name, args.folder)


def _apply(args):
    from .apply_command import run_apply

    return run_apply(args)


def _note(message, *_):
    """A warning about the data as one line, without the place in the code that it comes from."""
    print(f"note: {message}", file=sys.stderr)


def run(argv):
    """Parse and carry out; errors of the user become one line on stderr and an exit code."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and getattr(args, "options", None) is not None and all("=" in word and word[0] != "-" for word in rest):
        args.options += rest  # key=value may also stand behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    here = os.getcwd()
    added = args.command not in ("data", "new") and here not in sys.path
    if added:
        sys.path.append(here)  # a user's own module stands where the command is run; it shadows nothing
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `pyrarchy list | head`: nobody reads on, and Python would complain as it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        if args.debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        from .files import DataError

        if isinstance(error, (DataError, OSError)):
            return BAD_DATA
        return DIVERGED if isinstance(error, ArithmeticError) else USAGE
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
