"""The folder that a fit leaves, and how to open it again.

``config.json`` (what was asked), ``example.npz`` (a few rows, to build the pair anew), ``checkpoint.npz``,
``history.csv``, ``result.json`` (final figures), ``posterior.nc`` (ArviZ), ``report.html`` and its PNGs.
"""

import io
import warnings
from pathlib import Path

import numpy as np

from .atomic import write_atomically
from .checkpoint import load_latest
from .datasets import Dataset
from .faults import DamagedRunError, DataError
from .placement import default_dtype, in_default_dtype
from .registry import select_columns
from .run_config import pair_of, read_config, write_json

EXAMPLE_ROWS = 16
# What a file that was meant for another pair, or changed by hand, makes of the code that reads it.
UNFIT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
PICTURES = ("curves", "rates", "images", "traversals", "interpolations", "latent", "forest")
# What a run may leave, in the order in which it comes to be.
FILES = (
    "config.json",
    "example.npz",
    "history.csv",
    "result.json",
    "posterior.nc",
    "diagnostics.nc",
    "report.html",
    *(f"{name}.png" for name in PICTURES),
    "checkpoint.previous.npz",
    "checkpoint.npz",
)


def prepare(pair, data, options):
    """The data set as a pair sees it, its columns chosen; returns (data set, kept columns or ``None``)."""
    keep = pair.columns(data, options)
    return (data if keep is None else select_columns(data, keep)), keep


def write_config(folder, config, data):
    """Start a run folder: its configuration and the rows from which the pair can be rebuilt.

    Models with several arguments (eight schools) are rebuilt from all rows, the others from a few and the mean.
    """

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_example(folder, data)
    write_json(folder / "config.json", config)


def write_example(folder, data):
    """The rows from which a run's pair can be built again: :func:`write_config` says how many."""
    several = isinstance(data.train, tuple)
    arrays = {f"train{i}": part for i, part in enumerate(data.train)} if several else {"mean": data.mean}
    if not several:
        arrays["train0"] = data.train[:EXAMPLE_ROWS]
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(folder / "example.npz", content.getvalue())


class _Example(Dataset):
    """The rows kept in a run folder, with the mean of the data that they come from."""

    @property
    def mean(self):
        return self.__dict__["_mean"] if "_mean" in self.__dict__ else super().mean


def read_example(run):
    """The rows kept with a run, as a data set from which its pair can be built."""
    path = Path(run) / "example.npz"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:  # np.load alone may leave it open
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # a damaged archive raises a dozen different types
        raise DamagedRunError(f"{path}: cannot be read ({type(error).__name__}: {error}); fit again") from None
    config = read_config(run)
    try:
        parts = tuple(arrays[f"train{i}"] for i in range(len(arrays) - ("mean" in arrays)))
        if not all(part.size for part in parts):
            raise ValueError("it holds no rows")
        if "mean" not in arrays:
            return Dataset(config["data"], parts)
        columns = config["columns"]
        if columns is not None and (
            len(columns) != parts[0].shape[1] or not all(0 <= c < config["x_dim"] for c in columns)
        ):
            raise ValueError(f"columns {columns} of {config['x_dim']}")
        shape = tuple(config["image_shape"]) if config["image_shape"] and columns is None else None
        example = _Example(config["data"], parts[0], image_shape=shape, support=config["support"])
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise DamagedRunError(f"{path}: does not fit the configuration beside it ({error}); fit again") from None
    example.__dict__["_mean"] = arrays["mean"]
    return example


def build(config, example):
    """Model and guide of a run, with the weights that they start from."""
    pair = pair_of(config)
    try:
        with default_dtype(config["dtype"]):
            return in_default_dtype(*pair(example, seed=config["seed"], **_options(config)))
    except UNFIT as error:
        raise DamagedRunError(
            f"{config.path}: {pair.name} cannot be built from it ({error}); has its code changed?"
        ) from None


def load(run):
    """The fitted pair of a run folder.

    :param run: the folder, as given to ``pyrarchy fit --out``.
    :returns: ``(model, guide)`` in evaluation mode, with the weights of the newest readable checkpoint.
    :raises RunError, CheckpointError: when the folder is not a run or its checkpoint cannot be read.

    A damaged checkpoint gives a warning, and the one before it is used. The code of a pair of your own is not run from the
    folder: import its module first.
    """
    from .inference.continuation import load_modules
    from .inference.isolation import root_modules

    config, example = read_config(run), read_example(run)
    model, guide = build(config, example)
    state, path, remark = load_latest(Path(run) / "checkpoint.npz")
    if remark:
        warnings.warn(remark, stacklevel=2)
    try:
        load_modules(model, guide, state)
        if state["params"]:
            _fill_store(model, guide, example, state["params"])
    except UNFIT:  # torch's message has a line for every tensor
        raise DamagedRunError(
            f"{path}: its weights do not fit the pair {config['pair']}; has its code changed?"
        ) from None
    for root in root_modules(model, guide):
        root.eval()
        if bad := [name for name, weight in root.named_parameters() if not weight.isfinite().all()]:
            raise DamagedRunError(f"{path}: its weights {', '.join(bad)} are not finite; fit again")
    return model, guide


def _fill_store(model, guide, example, params):
    """Put the free ``pyro.param`` of a model or guide that is a plain function back; they live in Pyro's store."""
    import pyro

    from .inference import isolated, trace_pair
    from .placement import to_tensors

    rows = to_tensors(example.train)
    with isolated(model, guide):  # one pass registers them, with their constraints
        trace_pair(model, guide, rows if isinstance(rows, tuple) else (rows,))
    store = pyro.get_param_store().get_state()["params"]
    for name, value in params.items():
        store[name.removeprefix("param.")].data.copy_(value)


def _options(config):
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config["options"].items()}


def select_rows(run, data):
    """New data as a run's pair takes them: its columns, and the number of them checked.

    :raises DataError: when the data have other columns than the run's.
    """
    config = read_config(run)
    if isinstance(data.train, tuple) != (config["x_dim"] is None):
        raise DataError(
            f"{data.name}: is another kind of data than {config['data']}, to which the run {run} was fitted"
        )
    if isinstance(data.train, tuple):
        kept = read_example(run).train
        if len(kept) != len(data.train):
            raise DataError(f"{data.name}: is {len(data.train)} arrays, but the run {run} was fitted to {len(kept)}")
        return data
    if data.dim != config["x_dim"]:
        raise DataError(f"{data.name}: {data.dim} columns, but the run {run} was fitted to {config['x_dim']}")
    return data if config["columns"] is None else select_columns(data, np.asarray(config["columns"]))


def warm_up(config):
    """The warm-up of a run's training, a :class:`~pyrarchy.inference.Temper`, or ``None``."""
    from .inference import Temper

    total = config["steps"]
    if total is None:
        rows, size = config["rows"], config["batch_size"]
        total = config["epochs"] * (1 if size is None else -(-rows // (size * config.get("ranks", 1))))
    rise = round(config["warm_up"] * total)
    return Temper(steps=rise) if rise else None


def read_curve(run):
    """The training curve of a run: a :class:`~pyrarchy.inference.Record`, the log-likelihoods of EM as a list, or the
    bounds of coordinate ascent as a :class:`~pyrarchy.fit_conjugate.BoundCurve`."""
    from .fit_conjugate import BoundCurve
    from .inference.loop import describe
    from .inference.record import Record
    from .objectives import make_objective

    config, path = read_config(run), Path(run) / "history.csv"
    if config["method"] != "svi":
        try:
            lines = path.read_text().splitlines()[1:]
            values = [float(line.split(",")[1]) for line in lines]
        except (OSError, ValueError, LookupError) as error:
            raise DamagedRunError(f"{path}: cannot be read ({error}); fit again") from None
        if not values or not np.isfinite(values).all():
            raise DamagedRunError(f"{path}: holds no curve of finite numbers; fit again")
        return values if config["method"] == "em" else BoundCurve(values, config["rows"])
    state, path, remark = load_latest(Path(run) / "checkpoint.npz")
    try:
        objective = make_objective(config["objective"], config.get("estimator"))
        words = describe(objective, warm_up(config))
        lower = getattr(objective, "is_lower_bound", True)
        said = state.get("said", {"is_lower_bound": lower, "remarks": []})  # older ones do not say
        record = Record(words, said["is_lower_bound"], step=state["step"])
        record.threads = state.get("threads")
        record.remarks = [*said["remarks"], *([remark] if remark else [])]
        for curve, values in state["record"].items():
            setattr(record, curve, values.tolist())
    except UNFIT as error:
        raise DamagedRunError(f"{path}: does not fit the configuration beside it ({error}); fit again") from None
    return record
