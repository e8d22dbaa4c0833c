"""Gallery pictures of the pairs that paint from coarse to fine: the image after each stage, and what each rung moves."""

import pyrarchy
from pyrarchy import plots
from pyrarchy.apply_command import rows_of
from pyrarchy.placement import to_tensors
from pyrarchy.run_folder import read_config

COLUMNS = 10


def stages(pair, run):
    """Held-out data, the image after each stage, and the same of samples from the prior."""
    from pyrarchy.inference import reconstruct, sample

    data = pyrarchy.load_data(read_config(run)["data"])
    model, guide = pyrarchy.load(run)
    rows = to_tensors(rows_of(run, data.name))[:COLUMNS]
    shown = {"data": rows.numpy()}
    for name, image in reconstruct(model, guide, rows).items():
        shown[f"data, {_stage(name)}"] = image
    prior = sample(model, (rows,), COLUMNS, mean=True, seed=1)
    shown |= {f"prior, {_stage(name)}": image for name, image in prior.items() if name.startswith("x")}
    caption = (
        "Held-out data, their image after each stage, and samples from the prior after each (means of the pixels)."
    )
    return plots.png(plots.image_grid(shown, data.image_shape)), caption


def _stage(name):
    return f"stage {name.removeprefix('x_stage')}" if name != "x" else "last"


def rungs(pair, run):
    """Held-out data, reconstructions, and for each rung images in which it alone is drawn from the prior."""
    import torch

    from pyrarchy.inference import decode, reconstruct, sample

    data = pyrarchy.load_data(read_config(run)["data"])
    model, guide = pyrarchy.load(run)
    rows = to_tensors(rows_of(run, data.name))[:COLUMNS]
    shown = {"data": rows.numpy(), "reconstruction": reconstruct(model, guide, rows)["x"]}
    prior = sample(model, (rows,), COLUMNS, mean=True, seed=1)
    shown["prior sample"] = prior["x"]
    drawn = {n: torch.from_numpy(prior[n]) for n in sorted(prior, reverse=True) if n != "x"}
    for name in drawn:
        # the others at those of the first sample, so that each line starts with the same image
        values = {n: z if n == name else z[:1].expand_as(z) for n, z in drawn.items()}
        shown[f"{name} drawn"] = decode(model, (rows,), values)["x"]
    caption = (
        "Held-out data, reconstructions, samples from the prior, and the first of these with one rung alone drawn anew "
        "(means of the pixels)."
    )
    return plots.png(plots.image_grid(shown, data.image_shape)), caption


DRAW = {"VLAE": rungs, "SequentialVAE": stages, "SharedSequentialVAE": stages, "MultiStageVAE": stages}
