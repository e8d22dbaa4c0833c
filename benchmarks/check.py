"""Measure a part of the comparisons anew, and fail where a ratio has become worse: ``python -m benchmarks.check``.

The figures to hold are those of docs/benchmarks.json. A ratio that is more than 15 % worse is measured a second time, and
counts where it is so again. Seconds and megabytes belong to a machine and are not compared.
"""

import argparse
import json
import sys
from pathlib import Path

from .goals import GOALS
from .record import DATA
from .run import NAMES, ROUNDS, measure_all

QUICK = ("vae_20", "iwae5_20", "hvae2_20", "ladder5_20", "layer", "fa_64")


def committed(path):
    """Goal's key -> figure, of those that were measured.

    :raises ValueError: where there is no record.
    """
    if not Path(path).exists():
        raise ValueError(f"{path} does not exist: make bench writes it")
    return {v["key"]: v["measured"] for v in json.loads(Path(path).read_text())["goals"] if v["measured"] is not None}


def compare(results, before):
    """``(goal, measured, figure before)`` of every ratio of the results that has a figure before."""
    found = {result["name"]: result for result in results}
    for goal in GOALS:
        if goal.unit or goal.comparison not in found or goal.key not in before:
            continue
        measured = goal.measure(found[goal.comparison])
        if measured is not None:
            yield goal, measured, before[goal.key]


def check(names, rounds, before, measure=measure_all):
    """Lines to print, and whether every ratio holds."""
    rows = {goal.key: row for row in compare(measure(names, rounds), before) for goal in row[:1]}
    again = {goal.comparison for goal, now, was in rows.values() if goal.worse(now, was)}
    for goal, now, was in compare(measure([n for n in names if n in again], rounds), before):
        better = min if goal.at_most else max
        rows[goal.key] = goal, better(now, rows[goal.key][1]), was
    lines = [
        f"{'WORSE' if goal.worse(now, was) else 'holds'}  {goal.title}: {now:.3g}, committed {was:.3g}"
        for goal, now, was in rows.values()
    ]
    return lines, not any(goal.worse(now, was) for goal, now, was in rows.values())


def main(arguments=None):
    """The command line; returns the exit code: 1 where a ratio is worse."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=NAMES, action="append", help="a comparison; may be given more than once")
    parser.add_argument("--all", action="store_true", help=f"all comparisons, not only {', '.join(QUICK)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"slices of each variant (default {ROUNDS})")
    parser.add_argument("--against", type=Path, default=DATA, help="the record (default docs/benchmarks.json)")
    args = parser.parse_args(arguments)
    try:
        before = committed(args.against)
    except ValueError as error:
        parser.error(str(error))
    lines, holds = check(args.only or (NAMES if args.all else QUICK), args.rounds, before)
    print("\n".join(lines))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
