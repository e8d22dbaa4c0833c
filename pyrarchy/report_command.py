"""``pyrarchy report``: a finished run evaluated again, with all diagnostics on its page."""

from pathlib import Path

from .datasets import load_data
from .faults import DataError
from .fit_command import Fit
from .folder_lock import folder_lock
from .run_begin import data_sha256, sweep
from .run_config import pair_of, plain, read_config
from .run_folder import load, read_curve, select_rows


def run_report(folder, **depth):
    """Carry out ``pyrarchy report``: evaluate a finished run again and rewrite its figures and report.

    :param depth: ``quick``, to leave the long diagnostics out as ``fit`` does, and ``seconds`` for each of them.
    """
    folder = Path(folder)
    config = read_config(folder)  # before the lock, which would make the folder
    with folder_lock(folder):
        sweep(folder)
        pair = pair_of(config)
        data = load_data(config["data"], missing=config["missing"])
        select_rows(folder, data)
        fit = Fit(pair, data, config, folder)
        if plain(fit.columns) != config["columns"] or data_sha256(data) != config["data_sha256"]:
            raise DataError(
                f"{config['data']}: is not what the run {folder} was fitted to any more; put that file back"
            )
        with fit.precision():
            return fit.finish(*load(folder), read_curve(folder), **depth)
