"""Gallery pictures of spins and bits: a lattice with its neighbours level by level, and where one bit lies in z."""

import numpy as np

import pyrarchy
from pyrarchy import plots
from pyrarchy.ising_levels import level_kls
from pyrarchy.plot_style import COLOURS, single, styled

NEIGHBOURS, DRAWN = 8, 16


def lattices(pair, run):
    """A lattice drawn by the guide, what each level knows of it, and its neighbours when finer levels are drawn anew."""
    import torch

    model, guide = pyrarchy.load(run)
    names = list(model.levels)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        several = guide.resample(torch.ones(DRAWN, model.size, model.size), names[0])
        lattice = several[several.sum((-1, -2)).abs().argmin()]
        rows = {"lattice": None}  # the first line
        for name in names[::-1][:-1]:
            rows[f"{name} anew"] = guide.resample(lattice.expand(NEIGHBOURS, -1, -1), name)
    spins, known = model.disassemble(lattice), 0
    sublattices = []
    for places in model.levels.values():
        known += len(places)
        sublattices.append(model.assemble(torch.cat([spins[:known], torch.zeros(len(spins) - known)])))
    rows["lattice"] = torch.stack(sublattices[::-1])
    images = {label: ((row + 1) / 2).flatten(1).numpy() for label, row in rows.items()}
    kl = level_kls(model, guide)
    levels = ", ".join(f"{name} {kl[name][0]:.3f}" for name in names[1:])
    picture = plots.png(plots.image_grid(images, (model.size, model.size), columns=NEIGHBOURS))
    return picture, (
        f"First line: a lattice of the guide (of {DRAWN}, the most evenly divided) and its sublattices, level by level. "
        "Below: its neighbours, the named level and all finer ones drawn anew. KL to the exact distribution "
        f"{kl['all'][0]:.3f} nats; by level, given those above: {levels}."
    )


def one_bit(pair, run):
    """Where the guide puts the two data in the top latent, against the prior."""
    import torch

    from pyrarchy.inference.apply import encode

    model, guide = pyrarchy.load(run)
    options = pair.options
    x = torch.from_numpy(np.ascontiguousarray(pyrarchy.load_data(pair.data).train[:, : options["bits"]]))
    top = encode(model, guide, x, draws=20_000)[f"z{model.layers}"][..., 0]
    what = {
        1: "Draws of z1 for the two data against the prior (line): two Gaussians cannot share its halves.",
        2: "Draws of z2 for the two data against the prior (line): through z1, each may take half of it.",
    }
    return plots.png(halves(top, f"z{model.layers}")), what[model.layers]


@styled
def halves(draws, label):
    """Histograms of draws (S, 2) of two data and the standard normal over both."""
    figure, axes = single(2.8)
    grid = np.linspace(-3.5, 3.5, 141)
    for row, colour, name in zip(draws.T, COLOURS, ("all zeros", "all ones"), strict=False):
        heights, _ = np.histogram(row, grid)
        axes.stairs(heights / len(row) / 2 / np.diff(grid), grid, fill=True, color=colour, alpha=0.6, label=name)
    axes.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color="#444444", linewidth=1.2, label="prior")
    axes.set_xlabel(label)
    axes.set_ylabel("density, half of each datum")
    axes.legend()
    return figure


DRAW = {"Ising": lattices, "OneBit": one_bit}
