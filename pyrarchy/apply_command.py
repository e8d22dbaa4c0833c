"""``pyrarchy encode | reconstruct | sample``: use a fitted run, with the same numbers as the pair in memory."""

import io
from pathlib import Path

import numpy as np

from .binarize import binarization, support_of
from .datasets import Dataset, load_data
from .files import DataError, read_table
from .run_folder import load, read_config, read_example, select_rows


def run_apply(args):
    """Carry out the command and write the arrays; returns 0."""
    from .fit_command import to_tensors
    from .inference import apply

    out = Path(args.out)
    if out.suffix not in (".npz", ".npy"):
        raise ValueError(f"--out {out}: give a .npz (all sites) or .npy (one site) file")
    model, guide = load(args.run_folder)
    if args.command == "sample":
        example = read_example(args.run_folder).train
        rows = to_tensors(example if isinstance(example, tuple) else (example,))
        arrays = apply.sample(model, rows, args.draws or args.num, mean=args.mean, seed=args.seed)
        main = list(arrays)[-1]
    else:
        rows = rows_of(args.run_folder, args.data)
        compute = apply.encode if args.command == "encode" else apply.reconstruct
        arrays = compute(model, guide, to_tensors(rows), draws=args.draws, seed=args.seed)
        main = sorted(arrays)[0]
    save_arrays(out, arrays, main)
    print("\n".join(f"{name} {array.shape}" for name, array in arrays.items()))
    return 0


def rows_of(run, name):
    """The rows to use: the held-out ones of a named set, all rows of a user's own file, binarised as in the fit."""
    binarize = read_config(run)["binarize"]
    if Path(name).suffix:
        table = read_table(name)
        data = Dataset(Path(name).stem, table.train, support=support_of(table.train))
    else:
        data = load_data(name)
    data = select_rows(run, data)
    if isinstance(data.train, tuple):
        return data.train
    if binarize != "none" and data.support == "unit":
        data = binarization("fixed").prepare(data)  # drawn once: the same command gives the same numbers
    return data.train if data.test is None else data.test


def save_arrays(path, arrays, main):
    """Write arrays in one step: all of them to .npz, the one called ``main`` to .npy."""
    from .inference.checkpoint import write_atomically

    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}; make it first")
    content = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(content, **arrays)
    else:
        np.save(content, arrays[main])
    write_atomically(path, content.getvalue())
