"""MNIST: one layer, five layers, warm-up, the ladder, flows and the coarse-to-fine variations at one budget.

Every method trains by Adam on binarised images (anew at each use) for the same number of epochs, with every likelihood a
Bernoulli one, and is graded on one frozen binarisation of the first test images. Each (method, seed) is a run folder, so
that the same command continues what was interrupted::

    python -m benchmarks.mnist_hierarchies --out runs/hierarchies --table docs/mnist_hierarchies_table.md

The widths are those that two cores train in minutes: latents 32-16-8-4-2 under hidden layers 200-100-50-25-12, where
Sonderby et al. (2016) have twice the latents, 512-256-128-64-32, and 2,000 epochs.
"""

import argparse
import json
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from pyrarchy import get_pair, load_data
from pyrarchy.atomic import write_atomically
from pyrarchy.checkpoint import load_latest
from pyrarchy.inference import AuxiliaryWeight, Batches, Temper, evaluate, fit
from pyrarchy.inference.compare import compare
from pyrarchy.inference.compare_runs import Entry, run_folder
from pyrarchy.inference.continuation import load_modules

BATCH, WARM_UP, REFIT = 256, 20, 5
DEEP = {"z_dims": (32, 16, 8, 4, 2), "hidden": (200, 100, 50, 25, 12)}


@dataclass(frozen=True)
class Method:
    """A row of the registry with its options, and for how many epochs the temperature rises from 0 to 1."""

    row: str
    options: dict = field(default_factory=dict)
    warm_up: int = 0
    stages: bool = False  # whether x is seen at several stages: the guide then follows auxiliary terms, too


METHODS = {
    "VAE": Method("vae", {"z_dim": 32, "hidden": (200, 200)}),
    "HVAE, 5 layers": Method("hvae", DEEP),
    "HVAE + warm-up": Method("hvae", DEEP, WARM_UP),
    "ladder + warm-up": Method("ladder_vae", DEEP, WARM_UP),
    "ladder + warm-up + BN": Method("ladder_vae_bn", DEEP, WARM_UP),
    "IAF-VAE, 2 layers": Method("ladder_iaf", {"z_dims": (24, 8), "width": 200, "steps": 2, "hidden": (64,)}, WARM_UP),
    "VLAE, 3 rungs": Method("vlae", {"z_dims": (16, 8, 8), "hidden": (200, 100, 50)}, WARM_UP),
    "SVAE, 3 steps": Method(
        "sequential_vae", {"z_dim": 12, "steps": 3, "hidden": (200,), "encoder": (200, 200)}, WARM_UP, stages=True
    ),
    "MSVAE, 2 stages": Method("multi_stage_vae", {"z_dim": 32, "hidden": (200, 200), "refiner": (100,)}, stages=True),
}


def make(row, options, data, seed):
    """A pair of the registry."""
    return get_pair(row)(data, seed=seed, **options)


def decay(step, total):
    """Factor on the learning rate: one, and over the last half linearly down to a tenth."""
    return min(1.0, 1.0 - 0.9 * (2 * step / total - 1))


def refit(method, seed, data, test, folder, samples):
    """Held-out figures once the guide alone is trained on the bound of x for a few epochs, the model held as it is.

    Auxiliary likelihoods narrow a guide, and importance samples from a narrow guide understate log p(x).
    """
    done = folder / "refitted.json"
    if not done.exists():
        model, guide = make(method.row, method.options, data, seed)
        load_modules(model, guide, load_latest(folder / "checkpoint.npz")[0])
        model.requires_grad_(False)
        batches = Batches(torch.from_numpy(data.train), BATCH, seed=seed, transform=torch.bernoulli)
        with AuxiliaryWeight(0):
            total = REFIT * len(batches)
            fit(model, guide, batches, steps=total, optimizer=1e-3, schedule=partial(decay, total=total), seed=seed)
        found = evaluate(model, guide, test, num_samples=samples)
        figures = {"log_p": found.log_p.mean(), "elbo": found.elbo.mean(), "k_hat": np.median(found.k_hat)}
        write_atomically(done, json.dumps({k: float(v) for k, v in figures.items()}).encode())
    return json.loads(done.read_text())


def rates(comparison):
    """Rates per layer, mean over seeds, from the bottom up: lines of a Markdown table."""
    lines = ["| | rate of z1, z2, ... in nats | active units |", "|---|---|---:|"]
    for name, row in comparison.figures()["entries"].items():
        shown = ", ".join(
            f"{rate:.2f}" for _, rate in sorted(row["rates"].items(), key=lambda item: (len(item[0]), item))
        )
        active = "{:.1f} of {}".format(*row["active_units"]) if row["active_units"] else ""
        lines.append(f"| {name} | {shown} | {active} |")
    return "\n".join(lines)


def main():
    """Train and grade the methods, then print the tables of all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1000, help="held-out images to grade on")
    parser.add_argument("--samples", type=int, default=500, help="importance samples of log p")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("mnist")
    train = torch.from_numpy(data.train)
    rng = np.random.default_rng(0)  # one frozen binarisation for all methods
    test = torch.from_numpy((rng.random((args.images, data.dim)) < data.test[: args.images]).astype(np.float32))
    epoch = len(Batches(train, BATCH))
    entries = {}
    for name in args.methods:
        method = METHODS[name]
        entries[name] = Entry(
            partial(make, method.row, method.options, data),
            optimizer=args.lr,
            schedule=partial(decay, total=epoch * args.epochs),
            temper=Temper(steps=epoch * method.warm_up) if method.warm_up else None,
        )
    found = compare(
        entries,
        train,
        test,
        out=args.out,
        seeds=args.seeds,
        epochs=args.epochs,
        batch_size=BATCH,
        transform=torch.bernoulli,
        num_samples=args.samples,
        done=lambda name, seed, o: print(f"{name} {seed}: {o.log_p.mean():.2f}, {o.seconds:.0f} s", flush=True),
    )
    lines = ["| guide refitted | seed | log p | ELBO | k-hat, median |", "|---|---:|---:|---:|---:|"]
    for name, seed in product((n for n in args.methods if METHODS[n].stages), args.seeds):
        f = refit(METHODS[name], seed, data, test, run_folder(args.out, name, seed), args.samples)
        lines.append(f"| {name} | {seed} | {f['log_p']:.2f} | {f['elbo']:.2f} | {f['k_hat']:.2f} |")
    text = "\n\n".join([found.table(), rates(found), *["\n".join(lines)] * (len(lines) > 2)]) + "\n"
    print(text)
    if args.table:
        args.table.write_text(text)


if __name__ == "__main__":
    main()
