"""How close a lattice comes to the Boltzmann distribution, drawn coarse to fine or learnt from exact samples.

``python -m benchmarks.ising_levels > docs/ising.md`` fits the rows ``ising`` and ``ising_factorised`` at 4 x 4 and 8 x 8,
and ``hvae`` and ``vlae`` to exact samples of the 4 x 4 lattice, all with their rows' defaults. For those two p(x) of all
65,536 lattices is estimated by importance samples from the guide, and normalised over them.
"""

import math
import sys

import torch

import pyrarchy
from pyrarchy.fit_plan import cosine
from pyrarchy.inference import evaluate, fit
from pyrarchy.inference.batches import Batches
from pyrarchy.ising_levels import level_kls
from pyrarchy.objectives import make_objective
from pyrarchy.placement import to_tensors
from pyrarchy.run_folder import warm_up
from pyrarchy.zoo import Ising
from pyrarchy.zoo.ising_exact import all_spins, log_levels

HEAD = """# Ising lattices, coarse to fine

At the critical temperature of the infinite lattice, rows' defaults, seed 0. KL in nats, given the levels above; the finest
level is `s1`. Of 4 x 4 all is exact, over 65,536 lattices; of 8 x 8 the expectation is over 10,000 draws of q, with its
standard error, and p is exact. Made by `python -m benchmarks.ising_levels`.
"""


def train(pair, data, **options):
    """A row fitted to a data set with the row's defaults; returns ``(model, guide)``."""
    model, guide = pair(data, **options)
    plan, rows = pair.training, to_tensors(data.train)
    batches = Batches(rows, plan.batch_size, seed=0)
    total = plan.steps or plan.epochs * len(batches)
    config = {"steps": total, "warm_up": plan.warm_up}
    fit(
        model,
        guide,
        batches,
        objective=make_objective(plan.objective, plan.estimator),
        optimizer=plan.lr,
        steps=total,
        schedule=lambda step: cosine(step / total, plan.decay),
        temper=warm_up(config),
    )
    return model, guide


def coarse_to_fine(size):
    """A table of KL per level of both guides."""
    rows = {name: level_kls(*train(pyrarchy.get_pair(name), pyrarchy.load_data("no_data"), size=size)) for name in
            ("ising", "ising_factorised")}  # fmt: skip
    levels = list(rows["ising"])
    lines = [f"## {size} x {size}", "", "| KL(q to p) | " + " | ".join(levels) + " |", "|---|" + "---|" * len(levels)]
    for name, found in rows.items():
        cells = [f"{round(kl, 4) + 0.0:.4f}" + (f" ± {error:.4f}" if error else "") for kl, error in found.values()]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def learnt(name, num_samples=100):
    """KL of an image model fitted to exact samples, both ways, and the share of its own normalisation that it misses."""
    model, guide = train(pyrarchy.get_pair(name), pyrarchy.load_data("ising4"))
    lattice = Ising(4)
    spins = all_spins(16)
    images = lattice.assemble(spins)
    log_p = log_levels(lattice, images)["s1"]
    found = evaluate(
        model, guide, ((images + 1) / 2).flatten(1).float(), num_samples=num_samples, rows_per_pass=100_000
    )
    back, forward, total = both_ways(torch.from_numpy(found.log_p), log_p)
    return f"| `{name}` | {back:.4f} | {forward:.4f} | {total:.4f} |"


def both_ways(log_m, log_p):
    """KL(m to p), KL(p to m) in nats, and the sum of m that was divided out; over all states."""
    total = log_m.logsumexp(0)
    log_m = log_m - total
    back, forward = (log_m.exp() * (log_m - log_p)).sum(), (log_p.exp() * (log_p - log_m)).sum()
    return back.item(), forward.item(), math.exp(total.item())


def main():
    """Print the page."""
    print(HEAD)
    for size in (4, 8):
        print(coarse_to_fine(size))
        sys.stdout.flush()
    print("## The other way round: learnt from 4,000 exact samples of 4 x 4\n")
    print(
        "m is the fitted model, its ln m(x) from 100 importance samples a lattice; their sum over all lattices says how good"
    )
    print("they are, and is divided out.\n")
    print("| fitted | KL(m to p) | KL(p to m) | sum of m |\n|---|---|---|---|")
    for name in ("hvae", "vlae"):
        print(learnt(name), flush=True)


if __name__ == "__main__":
    main()
