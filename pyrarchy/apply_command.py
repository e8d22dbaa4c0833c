"""``pyrarchy encode | reconstruct | sample``: use a fitted run, with the same numbers as the pair in memory."""

import io
from pathlib import Path

import numpy as np

from .atomic import write_atomically
from .binarize import LIKELIHOODS, binarization, support_of
from .datasets import Dataset, load_data
from .faults import DataError
from .files import read_table
from .placement import default_dtype
from .run_config import pair_of, read_config
from .run_folder import FILES, load, read_example, select_rows


def run_apply(args):
    """Carry out the command and write the arrays; returns 0."""
    out = Path(args.out)
    if out.suffix not in (".npz", ".npy"):
        raise ValueError(f"--out {out}: give a .npz (all sites) or .npy (one site) file")
    if not out.parent.is_dir():
        raise DataError(f"{out}: there is no folder {out.parent}; make it first")
    if out.name in FILES and (out.parent / "config.json").exists():
        raise ValueError(f"--out {out}: is a file of the run in that folder; choose another name")
    if args.data and out.exists() and Path(args.data).exists() and out.samefile(args.data):
        raise ValueError(f"--out {out}: is the data's own file; choose another name")
    if args.command == "sample" and args.num and args.draws:
        raise ValueError("--num and --draws both say how many samples; give one of them")
    model, guide = load(args.run_folder)
    with default_dtype(read_config(args.run_folder)["dtype"]):
        arrays, main = compute(args, model, guide)
    save_arrays(out, arrays, main)
    print("\n".join(f"{name} {array.shape}" for name, array in arrays.items()))
    return 0


def compute(args, model, guide):
    """The arrays that a command is about: site -> array, and which of them a .npy file takes."""
    from .inference import apply
    from .placement import to_tensors

    if args.command == "sample":
        example = rows_of(args.run_folder, args.data) if args.data else read_example(args.run_folder).train
        rows = to_tensors(example if isinstance(example, tuple) else (example,))
        arrays = apply.sample(model, rows, args.draws or args.num or 100, mean=args.mean, seed=args.seed)
        main = list(arrays)[-1]
    else:
        rows = rows_of(args.run_folder, args.data)
        transform = apply.encode if args.command == "encode" else apply.reconstruct
        arrays = transform(model, guide, to_tensors(rows), draws=args.draws, seed=args.seed)
        main = sorted(arrays)[0]
    return arrays, main


def rows_of(run, name):
    """The rows to use: the held-out ones of a named set, those of a user's own file, binarised as in the fit.

    :raises DataError: for data that the run's pair cannot take.
    """
    config = read_config(run)
    binarize, likelihood = config["binarize"], pair_of(config).likelihood
    if Path(name).suffix:
        table = read_table(name)
        parts = [table.train] if table.test is None else [table.train, table.test]
        data = Dataset(Path(name).stem, table.train, table.test, support=support_of(*parts))
    else:
        data = load_data(name)
    data = select_rows(run, data)
    if isinstance(data.train, tuple):
        return data.train
    order = ["binary", "unit", "real"]
    needed = "unit" if binarize != "none" else LIKELIHOODS.get(likelihood, "real")
    if order.index(data.support) > order.index(needed):
        what = "zeros and ones" if needed == "binary" else "values in [0, 1]"
        raise DataError(f"{data.name}: its values are {data.support}, but the run {run} is about {what}; convert them")
    if binarize != "none" and data.support == "unit":
        data = binarization("fixed").prepare(data)  # drawn once: the same command gives the same numbers
    return data.train if data.test is None else data.test


def save_arrays(path, arrays, main):
    """Write arrays in one step: all of them to .npz, the one called ``main`` to .npy."""

    content = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(content, **arrays)
    else:
        np.save(content, arrays[main])
    write_atomically(path, content.getvalue())
