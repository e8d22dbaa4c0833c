"""One epoch of a VAE on 60,000 x 784, batch 20 and 128, from a process's start to its exit: imports, compilation and all.

Each variant is a process that reads one file of bits, trains for one epoch and prints the mean loss of its steps. All start
from weights drawn in one way, so that the losses must agree but for the draws. Ours and
Pyro's take all batches; NumPyro's drop the last, smaller one, for which they would compile a second time.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from .interleave import Variant, interleave
from .machine import children_clock, installed

SCRIPTS = {
    "Pyrarchy fit": "epoch_ours",
    "Pyro SVI": "epoch_pyro",
    "NumPyro SVI, jitted": "epoch_numpyro",
    "NumPyro SVI, lax.scan": "epoch_numpyro_scan",
}
OURS, PYRO, NUMPYRO, SCAN = SCRIPTS
ROWS = 60_000
BATCHES = {"epoch_20": 20, "epoch": 128}
ROOT = Path(__file__).resolve().parent.parent


def bits():
    """(60000, 784) zeros and ones as uint8: MNIST's training images, drawn once, or random bits where it is not at hand."""
    rng = np.random.default_rng(0)
    try:
        from pyrarchy import load_data

        rates = np.asarray(load_data("mnist").train[:ROWS], np.float32)
        title = "MNIST"
    except (OSError, ValueError):
        rates = np.broadcast_to(rng.uniform(0.02, 0.62, 784).astype(np.float32), (ROWS, 784))
        title = "random bits"
    return (rng.random(rates.shape, np.float32) < rates).astype(np.uint8), title


def run_script(name, path, batch_size):
    """Run one of ``SCRIPTS`` on a file of bits in a process of its own; the loss that it prints, in nats per datum."""
    command = [sys.executable, "-m", f"benchmarks.{SCRIPTS[name]}", str(path), str(batch_size)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(name, rounds):
    """CPU time of the processes; a tenth of the rounds, at least 3."""
    rounds, batch_size = max(3, rounds // 10) if rounds >= 3 else rounds, BATCHES[name]
    names = [n for n in SCRIPTS if installed("numpyro") or "NumPyro" not in n]
    found = {}

    def variant(n):
        def step():
            found[n] = run_script(n, path, batch_size)

        return Variant(n, step)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bits.npy"
        data, title = bits()
        np.save(path, data)
        order = [NUMPYRO, *(n for n in names if n != NUMPYRO)] if NUMPYRO in names else names
        timings = interleave([variant(n) for n in order], rounds, slice_seconds=0.0, warm_up=1, clock=children_clock)
    missing = {} if NUMPYRO in names else {"missing": "NumPyro (not installed)"}
    return {
        "title": f"One epoch of 60,000 x 784 ({title}), batch {batch_size}, from process start to exit",
        "timings": [t.as_dict() for t in timings],
        "losses": found,
        **missing,
    }
