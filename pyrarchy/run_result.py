"""``result.json``: the final figures of a run as plain numbers."""

from pathlib import Path

from ._version import __version__
from .run_config import write_json


def write_result(fit, evaluation, exact, curve, held_out, remarks, **further):
    """Write the figures of a :class:`~.fit_command.Fit` into its folder.

    :param evaluation: what importance sampling found, or ``None`` where nothing was sampled.
    :param exact: mean and standard error of the exact log p(x), or ``None``. ``further``: entries to add.
    """
    if hasattr(curve, "bounds"):
        last = {"objective": "CAVI", "steps": len(curve.bounds) - 1, "bound": curve.bounds[-1]}
    elif isinstance(curve, list):
        last = {"objective": "EM", "train_log_p": curve[-1]}
    else:
        last = {
            "objective": curve.objective,
            "is_lower_bound": curve.is_lower_bound,
            "steps": curve.step,
            "last_loss": curve.losses[-1],
            "last_value": curve.values[-1],
        }
    figures = {
        "pair": fit.pair.name,
        "evaluated_on": evaluated_on(fit.data, held_out),
        **({} if evaluation is None else evaluation.figures()),
        **({"exact_log_p": exact["log_p"], "exact_log_p_error": exact["log_p_error"]} if exact else {}),
        "training": last,
        "remarks": remarks,
        "pyrarchy": __version__,
    }
    write_json(Path(fit.out) / "result.json", figures | further)


def evaluated_on(data, held_out):
    """Which rows the figures are of; a density that takes none is evaluated by itself."""
    if not data.num_train:
        return "the density itself, without data"
    return "held-out data" if held_out else "training data"
