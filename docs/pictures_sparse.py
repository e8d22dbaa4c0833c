"""Gallery pictures of the sparse linear rows: the dictionary as images, longest atom first."""

import numpy as np

import pyrarchy
from pyrarchy import plots
from pyrarchy.apply_command import rows_of
from pyrarchy.placement import to_tensors
from pyrarchy.run_folder import read_config

COLUMNS, LINES = 18, 5


def atoms(pair, run):
    """Held-out patches and the longest atoms, each in its own grey scale, with the share of edges among all in use."""
    from pyrarchy.inference import edge_scores, encode

    data = pyrarchy.load_data(read_config(run)["data"])
    model, guide = pyrarchy.load(run)
    rows = to_tensors(rows_of(run, data.name))
    used = encode(model, guide, rows)["z1"].var(0) > 0.01
    found = model.atoms.detach().numpy().T[used]
    found = found[np.argsort(-(found**2).sum(1))]
    edges = int(edge_scores(found, data.image_shape).is_edge.sum())
    shown = {
        "held-out patches": grey(rows.numpy()[:: len(rows) // COLUMNS][:COLUMNS]),
        "atoms (grey is zero)": grey(found[: COLUMNS * LINES]),
    }
    drawn = min(len(found), COLUMNS * LINES)
    caption = (
        f"Held-out patches and the {drawn} longest of the {len(found)} atoms in use, each in its own scale; {edges} of "
        "those in use are edges: oriented and localised."
    )
    return plots.png(plots.image_grid(shown, data.image_shape, columns=COLUMNS)), caption


def grey(images):
    """Values in [0, 1] with zero at one half, each image in its own scale."""
    return 0.5 + 0.5 * images / np.abs(images).max(1, keepdims=True)


DRAW = {"SparseLinear": atoms, "GaussianLinear": atoms}
