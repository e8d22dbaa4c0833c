"""Going on from a checkpoint: whether it is one from which this training continues to the same numbers, and taking it up."""

from ..checkpoint import CheckpointError
from .isolation import root_modules, set_rng_state
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


def take_state(loop, state, path):
    """Put a checkpoint's state into a :class:`~.loop.Loop`, generators and all.

    :raises CheckpointError: for a state that somebody else has written, or that holds a number that is not finite.
    """
    try:
        load_modules(loop.model, loop.guide, state)
        for name, value in state["params"].items():
            loop.parameters[name].data.copy_(value)
        loop.optimizer.load_state_dict(state["optimizer"])
        for curve, values in state["record"].items():
            setattr(loop.record, curve, values.tolist())
        loop.record.step, loop.record.threads = state["step"], state.get("threads")
        loop.epoch, loop.consumed = state["place"]["epoch"], state["place"]["consumed"]
        loop.epoch_rng = state["epoch_rng"]
        set_rng_state(state["rng"])
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        why = str(error).splitlines()[0]  # torch's has a line for every tensor
        raise CheckpointError(f"{path}: its state does not fit this training ({why}); begin anew") from None
    if bad := loop.watch.first_bad(loop.parameters, loop.optimizer):
        raise CheckpointError(f"{path}: {bad} is not finite; begin anew")


def load_modules(model, guide, state):
    """Put the weights and buffers of a checkpoint's state into a pair."""
    for module, weights in zip(root_modules(model, guide), state["modules"], strict=True):
        module.load_state_dict(weights)
