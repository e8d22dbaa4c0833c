"""The command line. Nothing here imports torch: ``--help``, ``list`` and ``data`` answer at once."""

import os
import signal
import sys
import traceback
import warnings
from contextlib import contextmanager

from . import launch
from .faults import SIGNALLED, LaunchError, exit_code, one_line
from .parser import build_parser
from .stop_request import StopRequest
from .streams import standard_streams


def _list(args):
    from .registry import get_pair, list_pairs

    if args.matrix:
        return _matrix(args.pair)
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


def _matrix(model):
    from .matrix import matrix, table

    cells = matrix(None if model is None else [model], progress=True)
    print(table(cells))
    for (_, family), reason in cells.items():
        if reason and model is not None:
            print(f"{family}: {reason}")
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
    from .registry import get_pair
    from .report_command import run_report

    if args.pair:
        get_pair(args.pair)  # imports its module
    return run_report(args.run_folder, quick=args.quick, seconds=args.seconds)


def _check(args):
    from .check_command import run_check

    return run_check(args)


def _new(args):
    from .new_command import run_new

    return run_new(args.name, args.folder)


def _apply(args):
    from .apply_command import run_apply
    from .registry import get_pair

    if args.pair:
        get_pair(args.pair)
    return run_apply(args)


HANDLERS = {
    "list": _list,
    "data": _data,
    "fit": _fit,
    "compare": _compare,
    "nuts": _nuts,
    "report": _report,
    "check": _check,
    "new": _new,
    "apply": _apply,
}


def _note(message, *_):
    """A warning about the data as one line, without the place in the code that it comes from."""
    if launch.is_first():
        print(f"note: {message}", file=sys.stderr)


def _complain(error):
    """The one line of an error, in one piece, unless a process before this one says the same."""
    if not getattr(error, "said", False):
        who = "" if isinstance(error, LaunchError) or launch.is_first() else f"process {launch.number()}: "
        sys.stderr.write(f"error: {who}{one_line(error)}\n")


def run(argv):
    """Parse and carry out; errors of the user become one line on stderr and an exit code."""
    with standard_streams():
        return _answered(argv, "--debug" in argv)


def _answered(argv, debug):
    """The exit code of a command, whatever ends it."""
    try:
        with _own_code(args := _parsed(argv)):
            if args.command != "fit" and launch.processes() > 1:
                raise ValueError(
                    f"{args.command} is one process's work; of pyrarchy's commands torchrun starts fit alone"
                )
            launch.check()
            args.stop = StopRequest()
            with args.stop.listening(), warnings.catch_warnings():
                warnings.showwarning = _note
                code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        if launch.is_first():
            print(str(stop) or "interrupted", file=sys.stderr)
        return SIGNALLED + getattr(stop, "number", signal.SIGINT)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _complain(error)
        return exit_code(error)


def _parsed(argv):
    parser = build_parser()
    for word in argv:
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # bytes that are no text, as Python hands them over
            parser.error(f"{word} is not UTF-8; rename it")
    args, rest = parser.parse_known_args(argv)
    if rest and getattr(args, "options", None) is not None and all("=" in word and word[0] != "-" for word in rest):
        args.options += rest  # key=value may also stand behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


@contextmanager
def _own_code(args):
    """Where a pair is named as module:function, the folder in which the command is run is searched for it, last of all.

    At no other time: a run's folder, in which somebody may stand, is no place to import from.
    """
    names = [getattr(args, "pair", None), *getattr(args, "pairs", ())]
    try:
        here = os.getcwd() if any(":" in name for name in names if name) else None
    except FileNotFoundError:
        raise ValueError("the working folder is gone; change to another") from None
    if added := here is not None and here not in sys.path:
        sys.path.append(here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
