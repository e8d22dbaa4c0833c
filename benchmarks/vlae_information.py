"""What each rung of a VLAE holds of MNIST's labels and stroke widths, in nats, over the seeds that have been trained.

Reads the runs that ``benchmarks.mnist_hierarchies`` left, finished ones alone::

    python -m benchmarks.vlae_information --runs runs/hierarchies --table runs/vlae_information.md

One draw of every rung for each test image, from one frozen binarisation; both figures are lower bounds on a mutual
information, by a classifier graded on images that it did not see, and may fall below zero where a rung says nothing.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from benchmarks.mnist_hierarchies import METHODS, make
from pyrarchy import load_data
from pyrarchy.checkpoint import load_latest
from pyrarchy.inference import label_information, number_information
from pyrarchy.inference.apply import encode
from pyrarchy.inference.compare_runs import run_folder
from pyrarchy.inference.continuation import load_modules
from pyrarchy.stroke_width import stroke_width

METHOD = "VLAE, 3 rungs"
BINS = 10  # of the stroke width, with as many images in each


def finished(runs):
    """Seed -> folder of the runs that were trained to their end (their outcome is written after it)."""
    folders = run_folder(runs, METHOD, 0).parent.glob("seed*")
    return {int(f.name.removeprefix("seed")): f for f in sorted(folders) if (f / "outcome.npz").exists()}


def informations(codes, labels, widths):
    """Rung, and all of them together -> (label's, stroke width's) :class:`~pyrarchy.inference.Information`."""
    codes = {**codes, "all rungs": np.concatenate(list(codes.values()), 1)}
    return {name: (label_information(z, labels), number_information(z, widths, bins=BINS)) for name, z in codes.items()}


def codes_of(data, rows, seed, folder):
    """Site -> (N, units), one draw per image, bottom rung first."""
    model, guide = make(METHODS[METHOD].row, METHODS[METHOD].options, data, seed)
    load_modules(model, guide, load_latest(folder / "checkpoint.npz")[0])
    drawn = encode(model, guide, rows, draws=1)
    return {name: drawn[name][0] for name in sorted(drawn)}


def table(found):
    """Means over seeds as Markdown, with standard errors over seeds where there are several, else over images."""
    first = next(iter(found.values()))
    many = len(found) > 1

    def cell(name, which):
        each = [seed[name][which] for seed in found.values()]
        nats = np.array([one.nats for one in each])
        error = nats.std(ddof=1) / math.sqrt(len(nats)) if many else each[0].error
        return f"{nats.mean():.2f} ± {error:.2f}"

    lines = [
        f"| of {first['all rungs'][0].entropy:.2f} nats of label, {math.log(BINS):.2f} of width; "
        f"{len(found)} seed{'s' * many}, ± over {'seeds' if many else 'images'} | label | stroke width |",
        "|---|---:|---:|",
        *[f"| {name} | {cell(name, 0)} | {cell(name, 1)} |" for name in first],
    ]
    return "\n".join(lines) + "\n"


def main():
    """Grade the finished seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("mnist")
    grey = np.asarray(data.test[: args.images])
    rows = torch.from_numpy((np.random.default_rng(0).random(grey.shape) < grey).astype(np.float32))
    labels, widths = np.asarray(data.test_labels[: args.images]), stroke_width(grey, data.image_shape)
    folders = finished(args.runs)
    if not folders:
        raise SystemExit(
            f"{args.runs}: no finished run of '{METHOD}'; python -m benchmarks.mnist_hierarchies makes them"
        )
    found = {seed: informations(codes_of(data, rows, seed, f), labels, widths) for seed, f in folders.items()}
    text = table(found)
    print(text)
    if args.table:
        args.table.write_text(text)


if __name__ == "__main__":
    main()
