"""Run the comparisons, each in a process of its own, and write the page: ``python -m benchmarks.run``."""

import argparse
import datetime
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from .goals import judge
from .machine import ONE_THREAD, pin
from .record import DATA, PAGE, README, write
from .table import goal_table, page, short_table

ROOT = Path(__file__).resolve().parent.parent
# comparison -> the module of this folder that measures it
WHERE = {
    "vae_20": "svi_steps",
    "vae_128": "svi_steps",
    "iwae5_20": "svi_steps",
    "iwae50_20": "svi_steps",
    "hvae2_20": "hierarchies",
    "ladder5_20": "hierarchies",
    "ladder5_128": "hierarchies",
    "layer": "hierarchies",
    "epoch_20": "epochs",
    "epoch": "epochs",
    "l_5000": "evaluation",
    "fa_64": "factor_analysis",
    "fa_784": "factor_analysis",
    "fa_100": "factor_analysis",
    "em_real": "em_real",
    "help": "start",
}
NAMES = tuple(WHERE)
ROUNDS = 25


def measure(name, rounds):
    """One comparison in this process; a dictionary as :func:`benchmarks.table.page` takes it.

    :param str name: one of ``NAMES``.
    :param int rounds: slices of each variant; what takes seconds runs fewer, as its module says.
    """
    result = importlib.import_module(f".{WHERE[name]}", __package__).measure(name, rounds)
    return {"name": name, "rounds": len(result["timings"][0]["seconds"]), **result}


def measure_apart(name, rounds):
    """The same in a new process with one thread, pinned to one core where the system can."""
    command = [sys.executable, "-m", "benchmarks.run", "--child", name, "--rounds", str(rounds)]
    env = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the comparison {name} failed (exit code {done.returncode}); its message is above")
    return json.loads(done.stdout.splitlines()[-1])


def measure_all(names, rounds):
    """Results of some comparisons, one line each on stdout as they come."""
    results = []
    for name in names:
        results.append(measure_apart(name, rounds))
        print(short_table(results[-1:]).splitlines()[-1], flush=True)
    return results


def main(arguments=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", choices=NAMES, action="append", help="a comparison; may be given more than once")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"slices of each variant (default {ROUNDS})")
    parser.add_argument(
        "--out", type=Path, help="folder to write to (default: docs/benchmarks.* and the README's block)"
    )
    parser.add_argument(
        "--date", default=datetime.date.today().isoformat(), help="the date on the page (default today)"
    )
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        pin()
        print(json.dumps(measure(args.child, args.rounds)))
        return 0
    results = measure_all(args.only or NAMES, args.rounds)
    only = "".join(f" --only {name}" for name in args.only or ())
    command = f"python -m benchmarks.run --rounds {args.rounds}{only}"
    if args.only and args.out is None:  # a part does not overwrite the whole page
        print(page(results, command=command, date=args.date))
        return 0
    places = (PAGE, DATA, README) if args.out is None else (args.out / PAGE.name, args.out / DATA.name, None)
    for path in write(results, *places, command=command, date=args.date):
        print(f"written: {path}")
    print(goal_table(judge(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
