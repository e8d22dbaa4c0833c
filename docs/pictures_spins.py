"""Gallery pictures of spins and bits: a lattice with its neighbours level by level, and where one bit lies in z."""

import pyrarchy
from pyrarchy import plots
from pyrarchy.ising_levels import level_kls

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


DRAW = {"Ising": lattices}
