"""MNIST: which bound and which gradient estimator, at equal budgets of importance samples (Rainforth et al. 2018, table 1).

Each method trains the one-layer model of Burda et al. (2015) with M K = 64 samples per datum; the fit and its evaluation
are in a run folder of their own, so that the whole is resumed by the same command::

    python -m benchmarks.mnist_importance --out runs/mnist --stages 3 --methods IWAE VAE DReG

prints what is finished, and ``--table FILE`` writes it. Stage i has 3^i epochs at learning rate
1e-3 * 10^(-i/7); three stages are 13 epochs, five 121, eight the paper's 3,280.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pyrarchy import load_data
from pyrarchy.atomic import write_atomically
from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import CIWAE, ELBO, MIWAE, PIWAE, Batches, ImportanceWeighted, evaluate, fit
from pyrarchy.zoo import VAE

METHODS = {
    "VAE": partial(ELBO, 64),
    "IWAE": partial(ImportanceWeighted, 64),
    "MIWAE(8,8)": partial(MIWAE, 8, 8),
    "PIWAE(8,8)": partial(PIWAE, 8, 8),
    "CIWAE(.5)": partial(CIWAE, 0.5, 64),
    "DReG": partial(ImportanceWeighted, 64, estimator="dreg"),
    "RWS-DReG": partial(ImportanceWeighted, 64, estimator="rws-dreg"),
}
# log p by L_5000 and L_64 - log p of the paper's table, 3,280 epochs of the same architecture
PAPER = {
    "IWAE": (-86.11, -84.52, -1.59),
    "PIWAE(8,8)": (-85.74, -84.46, -1.28),
    "MIWAE(8,8)": (-85.69, -84.97, -0.72),
    "CIWAE(.5)": (-86.08, -85.24, -0.84),
    "VAE": (-86.69, -86.21, -0.47),
}
BATCH = 20


def build(data, seed):
    """784-[200,200] tanh -> z50 -> [200,200] tanh -> 784, output bias at the logit of the mean, inputs centred."""
    torch.manual_seed(seed)
    model = VAE(784, 50, (200, 200), data.mean)
    return model, Amortized(model, Encoder(784, (50,), ((200, 200),), data.mean, nn.Tanh))


def learning_rate(step, steps_per_epoch):
    """Burda's schedule as a factor: 10^(-i/7) in stage i of 3^i epochs."""
    epoch, stage = step // steps_per_epoch, 0
    while epoch >= 3**stage:
        epoch -= 3**stage
        stage += 1
    return 10 ** (-stage / 7)


def train(name, data, stages, seed, folder):
    """Fit one method, or continue; returns the pair and the seconds of this process."""
    model, guide = build(data, seed)
    batches = Batches(torch.from_numpy(data.train), BATCH, seed=seed, transform=torch.bernoulli)
    started = time.perf_counter()
    fit(
        model,
        guide,
        batches,
        objective=METHODS[name](),
        optimizer=partial(torch.optim.Adam, lr=1e-3, eps=1e-4, fused=True),
        schedule=partial(learning_rate, steps_per_epoch=len(batches)),
        steps=len(batches) * sum(3**i for i in range(stages)),
        clip_norm=None,
        seed=seed,
        out=folder,
        resume=True,
    )
    return model, guide, time.perf_counter() - started


def grade(model, guide, images, folder):
    """L_64, log p by L_5000, KL and effective samples, per image; kept in the folder."""
    tight = evaluate(model, guide, images, num_samples=5000)
    few = [evaluate(model, guide, images, num_samples=64, seed=s) for s in range(1, 9)]
    bound, ess = np.mean([e.log_p for e in few], 0), np.mean([e.ess for e in few], 0)
    np.savez(folder / "grades.npz", log_p=tight.log_p, l_64=bound, elbo=tight.elbo, ess=ess)
    active = tight.active_units()["z1"][0]
    write_atomically(folder / "grades.json", json.dumps({"active": active}).encode())


def table(out, budget):
    """The finished methods as a Markdown table; differences to IWAE are paired over the images."""
    found = {n: dict(np.load(out / slug(n) / "grades.npz")) for n in METHODS if (out / slug(n) / "grades.npz").exists()}
    lines = [
        f"{budget}\n",
        "| | L_64 | log p (L_5000) | log p - IWAE's | L_64 - log p | ELBO - log p | ESS of 64 | active "
        "| paper: L_64, log p, L_64 - log p |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, g in found.items():

        def cell(values):
            return f"{values.mean():.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"

        difference = cell(g["log_p"] - found["IWAE"]["log_p"]) if name != "IWAE" and "IWAE" in found else ""
        active = json.loads((out / slug(name) / "grades.json").read_text())["active"]
        paper = ", ".join(f"{v:.2f}" for v in PAPER[name]) if name in PAPER else ""
        lines.append(
            f"| {name} | {cell(g['l_64'])} | {cell(g['log_p'])} | {difference} | {cell(g['l_64'] - g['log_p'])} | "
            f"{cell(g['elbo'] - g['log_p'])} | {np.median(g['ess']):.1f} | {active} | {paper} |"
        )
    return "\n".join(lines) + "\n"


def slug(name):
    """A method's folder."""
    return "".join(c if c.isalnum() else "_" for c in name)


def main():
    """Train and grade the methods named, then print the table of all that is finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000, help="held-out images to grade on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("mnist")
    rng = np.random.default_rng(0)  # one frozen binarisation for all methods
    images = torch.from_numpy((rng.random((args.images, 784)) < data.test[: args.images]).astype(np.float32))
    for name in args.methods:
        folder = args.out / slug(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "grades.json").exists():
            model, guide, seconds = train(name, data, args.stages, args.seed, folder)
            print(f"{name}: trained, {seconds:.0f} s in this process", flush=True)
            grade(model, guide, images, folder)
    epochs = sum(3**i for i in range(args.stages))
    text = table(args.out, f"{epochs} epochs, batch {BATCH}, seed {args.seed}, {args.images} test images.")
    print(text)
    if args.table:
        args.table.write_text(text)


if __name__ == "__main__":
    main()
