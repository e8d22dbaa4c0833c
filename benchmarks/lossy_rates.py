"""How much goes through z when the decoder also reads pixels: rate against the reach r of its window (Chen et al. 2017).

The lossy VAE is fitted to the 8 x 8 digits for each reach and seed; each result is a file of its own, so that the same
command goes on where it was stopped::

    python -m benchmarks.lossy_rates --out runs/lossy

prints a table of what is finished, and ``--table FILE`` writes it.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from pyrarchy import get_pair, load_data
from pyrarchy.atomic import write_atomically
from pyrarchy.inference import Batches, evaluate, fit

REACHES = (0, 1, 2, 3, 7)  # 0 is the ordinary VAE; 7 sees every pixel before on 8 x 8
EPOCHS, BATCH = 80, 50


def measure(data, images, reach, seed, epochs=EPOCHS, samples=200):
    """Fit one model and grade it on held-out images: nats per datum, active units, seconds."""
    model, guide = get_pair("lossy_vae")(data, seed=seed, field=reach)
    batches = Batches(torch.from_numpy(data.train), BATCH, seed=seed, transform=torch.bernoulli)
    started, steps = time.perf_counter(), epochs * len(batches)
    fit(model, guide, batches, optimizer=2e-3, steps=steps, schedule=lambda t: 0.1 + 0.45 * (1 + np.cos(np.pi * t / steps)),
        seed=seed)  # fmt: skip
    seconds = time.perf_counter() - started
    found = evaluate(model, guide, images, num_samples=samples)
    return {
        "reach": reach,
        "seed": seed,
        "epochs": epochs,
        "rate": found.rates["z1"],
        "distortion": -found.mean_elbo - found.rates["z1"],
        "elbo": found.mean_elbo,
        "log_p": found.mean_log_p,
        "log_p_error": found.error_log_p,
        "active": found.active_units()["z1"],
        "seconds": seconds,
    }


def held_out(data):
    """One frozen binarisation of the test images."""
    rng = np.random.default_rng(0)
    return torch.from_numpy((rng.random(data.test.shape) < data.test).astype(np.float32))


def table(results):
    """Markdown: a row for each reach, a figure for each seed."""
    lines = [
        "| reach r | rate, KL | -log p(x given z, window) | ELBO | log p | active units |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for reach in sorted({r["reach"] for r in results}):
        rows = sorted((r for r in results if r["reach"] == reach), key=lambda r: r["seed"])

        def cell(key, rows=rows):
            return ", ".join(f"{r[key]:.2f}" for r in rows)

        active = ", ".join(f"{r['active'][0]} of {r['active'][1]}" for r in rows)
        lines.append(
            f"| {reach} | {cell('rate')} | {cell('distortion')} | {cell('elbo')} | {cell('log_p')} | {active} |"
        )
    return "\n".join(lines) + "\n"


def main():
    """Fit and grade what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reaches", type=int, nargs="+", default=list(REACHES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    data = load_data("digits")
    images = held_out(data)
    for seed in args.seeds:
        for reach in args.reaches:
            path = args.out / f"r{reach}_seed{seed}_{args.epochs}.json"
            if not path.exists():
                found = measure(data, images, reach, seed, args.epochs)
                write_atomically(path, json.dumps(found).encode())
                print(f"reach {reach}, seed {seed}: rate {found['rate']:.2f}, {found['seconds']:.0f} s", flush=True)
    text = table([json.loads(path.read_text()) for path in sorted(args.out.glob(f"r*_{args.epochs}.json"))])
    print(text)
    if args.table:
        args.table.write_text(text)


if __name__ == "__main__":
    main()
