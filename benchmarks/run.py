"""Run the comparisons, each in a process of its own, and write the page: ``python -m benchmarks.run``."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
NAMES = ("vae_20", "vae_128", "iwae_20", "l_2000", "fa_64", "fa_784", "fa_100")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}


def installed(package):
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def measure(name, rounds):
    """One comparison in this process; a dictionary as :func:`benchmarks.table.page` takes it.

    :param str name: one of ``NAMES``.
    :param int rounds: slices of each variant; factor analysis, whose fits take seconds, runs a tenth (at least 3).
    """
    from .interleave import interleave

    if name.startswith("fa_"):
        from .factor_analysis import SETTINGS, FactorAnalysisRun

        run = FactorAnalysisRun(SETTINGS[name])
        rounds = max(3, rounds // 10) if rounds >= 3 else rounds
        timings = interleave(run.variants(), rounds, slice_seconds=0.0, warm_up=0, clock=time.process_time)
        result = {"title": run.setting.title, "log_likelihoods": run.log_likelihoods()}
    elif name == "l_2000":
        import torch

        from .evaluation import SETTING, variants

        torch.set_num_threads(1)
        timings = interleave(variants(), rounds, clock=time.process_time)
        result = {"title": SETTING.title}
    else:
        import torch

        from .svi_steps import NUMPYRO, SETTINGS, variants

        torch.set_num_threads(1)
        timings = interleave(variants(name, numpyro=installed("numpyro")), rounds, clock=time.process_time)
        result = {"title": SETTINGS[name].title}
        if not installed("numpyro"):
            result["missing"] = f"{NUMPYRO} (numpyro is not installed)"
    return {**result, "name": name, "rounds": rounds, "timings": [t.as_dict() for t in timings]}


def measure_apart(name, rounds):
    """The same in a new process with one thread, pinned to one core where the system can."""
    command = [sys.executable, "-m", "benchmarks.run", "--child", name, "--rounds", str(rounds)]
    env = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the comparison {name} failed (exit code {done.returncode}); its message is above")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", choices=NAMES, action="append", help="a comparison; may be given more than once")
    parser.add_argument("--rounds", type=int, default=40, help="slices of each variant (default 40)")
    parser.add_argument("--out", type=Path, default=None, help="the page to write (default docs/benchmarks.md)")
    parser.add_argument("--date", default=None, help="a date to put on the page")
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(json.dumps(measure(args.child, args.rounds)))
        return 0
    from .table import page, short_table

    results = []
    for name in args.only or NAMES:
        results.append(measure_apart(name, args.rounds))
        print(short_table(results[-1:]).splitlines()[-1], flush=True)
    only = "".join(f" --only {name}" for name in args.only or ())
    text = page(results, command=f"python -m benchmarks.run --rounds {args.rounds}{only}", date=args.date)
    if args.only and args.out is None:  # a part does not overwrite the whole page
        print(text)
        return 0
    out = args.out or PAGE
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(f"written: {out}\n\n{short_table(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
