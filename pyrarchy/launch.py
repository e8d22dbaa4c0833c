"""``torchrun -m pyrarchy fit ...``: which of several processes this is, and the group in which they train together.

torchrun says it in environment variables, so nothing here imports torch until there is a group to make. Training,
evaluation and factor analysis's statistics are shared; whatever is said or written is process 0's.
"""

import os
from contextlib import contextmanager, nullcontext
from datetime import timedelta

from .faults import LaunchError

_GIVEN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# How long a process may keep the others waiting; one that has ended is noticed at once.
PATIENCE = timedelta(minutes=10)


def _given(name, default):
    if not all(word in os.environ for word in _GIVEN):
        return default
    try:
        return int(os.environ[name])
    except ValueError:
        raise LaunchError(f"{name}={os.environ[name]} in the environment is no number: start with torchrun") from None


def processes():
    """How many processes torchrun has started; one without it."""
    return _given("WORLD_SIZE", 1)


def number():
    """The number of this one, from 0."""
    return _given("RANK", 0)


def check():
    """See that what torchrun said can be: a number for each, and this process one of them.

    :raises LaunchError: where it cannot.
    """
    if not 0 <= number() < processes():
        raise LaunchError(f"RANK={number()} of WORLD_SIZE={processes()} in the environment: start with torchrun")


def is_first():
    """Whether this is the one that speaks and writes."""
    return number() == 0


def own_device(device):
    """Where this process trains: of several graphics cards that were not told apart, its own."""
    if processes() == 1 or device.type != "cuda" or device.index is not None:
        return device
    import torch

    own = torch.device("cuda", _given("LOCAL_RANK", 0))
    if own.index >= torch.cuda.device_count():
        raise ValueError(
            f"--device cuda: more processes than the {torch.cuda.device_count()} here; give torchrun fewer --nproc-per-node"
        )
    torch.cuda.set_device(own)
    return own


@contextmanager
def group(device):
    """Be one of the processes until :func:`part`; nothing where there is only one.

    :param str device: as on the command line; graphics cards exchange their gradients by nccl, all else by gloo.
    :raises LaunchError: when the others cannot be met.
    """
    if processes() == 1:
        yield
        return
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise LaunchError(f"the {processes()} processes do not meet ({error}): start them with torchrun") from error
    try:
        yield
    finally:
        part()  # after an error, too: gloo's threads would abort the process as it exits, in place of its exit code


def part():
    """End the group: each process is alone from here on. All of them must call it."""
    if processes() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def agreed():
    """A block that all processes come through, or none (:func:`~pyrarchy.inference.parallel.agreed`)."""
    if processes() == 1:
        return nullcontext()
    from .inference import parallel

    return parallel.agreed()


def any_number(value):
    """The first of the processes' values that is not ``None``."""
    if processes() == 1:
        return value
    from .inference import parallel

    return next((each for each in parallel.gather(value) if each is not None), None)
