"""How long ``pyrarchy --help`` takes from start to exit, and whether it loads torch: the wall time of a process."""

import subprocess
import sys
import time
from pathlib import Path

from .interleave import summarise

ROOT = Path(__file__).resolve().parent.parent
HELP = "pyrarchy --help"
TIMES = 10


def run_help(*options):
    """What ``pyrarchy --help`` wrote to the two streams."""
    command = [sys.executable, *options, "-m", "pyrarchy", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def loads(package):
    """Whether it imports a package."""
    lines = run_help("-X", "importtime")[1].splitlines()
    return any(line.split("|")[-1].strip().split(".")[0] == package for line in lines)


def measure(name, rounds):
    """Wall time of ``TIMES`` runs, however many rounds the others take, after one that is not timed."""
    run_help()
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        run_help()
        seconds.append(time.perf_counter() - began)
    return {
        "title": f"`{HELP}`, wall time",
        "timings": [summarise(HELP, seconds, seconds).as_dict()],
        "loads_torch": loads("torch"),
        "rounds": TIMES,
    }
