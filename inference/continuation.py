"""Whether a checkpoint is one from which this training can go on to the same numbers."""

from ..checkpoint import CheckpointError
from .parallel import ranks

NEEDED = {"modules", "params", "parameters", "setting", "optimizer", "record", "step", "place", "rng", "epoch_rng"}


def check_continues(state, path, parameters, setting):
    """See that a checkpoint's state was left by the same training.

    :param path: the file that it was read from, for the message.
    :param parameters: names of what is trained. :param dict setting: what the training was asked for, in words.
    :raises CheckpointError: for the state of something else.
    :raises ValueError: for another pair, other data, another setting or another number of processes.
    """
    if not isinstance(state, dict) or not state.keys() >= NEEDED:
        raise CheckpointError(f"{path}: holds no place in a training that could be continued; begin anew")
    if state["parameters"] != parameters:
        raise ValueError(f"{path}: the checkpoint is of another pair (its parameters are {state['parameters']})")
    # of several processes each has noise of its own, and its generators' state in the checkpoint
    if (before := len(state.get("ranks", (0,)))) != (now := ranks()):
        how = f"under torchrun --nproc-per-node {before}" if before > 1 else "without torchrun"
        raise ValueError(f"{path}: the run was started by {before} process(es), not {now}: resume it {how}")
    for what, now in setting.items():
        if (before := state["setting"].get(what)) != now:
            raise ValueError(f"{path}: the run was started with {what} {before}, not {now}")
