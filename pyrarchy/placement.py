"""``--device``, ``--dtype`` and ``--threads``: where a pair is trained, by torch's own names, and in which precision.

Training alone runs on the device; evaluation, figures and the files of a run are made on the CPU, so that a run opens
on a machine without the device. The same seed gives other numbers on another device.
"""

import os
import warnings
from contextlib import contextmanager, nullcontext

DTYPES = ("float32", "float64")


def find_device(name):
    """The ``torch.device`` of a name.

    :raises ValueError: for a name that torch does not know, or a device that this machine lacks.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: torch knows no such device; give cpu, cuda, cuda:1 or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(
        device.type
    )
    if count is None or (device.index or 0) >= count:
        found = f"this machine has {count} of them" if count else "this machine, or this build of torch, has none"
        raise ValueError(f"--device {name}: {found}; give --device cpu")
    return device


@contextmanager
def default_dtype(name):
    """Build and compute in a precision; afterwards torch's default is what it was."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def use_threads(asked, method):
    """Give torch the threads asked for; ``"auto"`` is for the training to settle, and one thread where nothing is timed.

    What a run computes after its training has the training's threads.
    """
    from .inference.threads import set_threads

    if asked != "auto":
        set_threads(asked)
    elif method != "svi" and not os.environ.get("OMP_NUM_THREADS"):
        set_threads(1)


@contextmanager
def on_device(device, model, guide):
    """Train there: model and guide are moved to the device and, whatever happens, back again."""
    from .inference.isolation import root_modules

    roots, here = root_modules(model, guide), device.type == "cpu"
    for root in roots:
        root.to(device)
    try:
        with nullcontext() if here else device:
            yield
    finally:
        for root in roots:
            root.to("cpu")


def in_default_dtype(model, guide):
    """Bring what was built to torch's default precision: means of the data and the like came in with theirs."""
    import torch

    from .inference.isolation import root_modules

    for root in root_modules(model, guide):
        root.to(torch.get_default_dtype())
    return model, guide


def to_device(part, device):
    """A tensor, or a tuple of them, on a device."""
    return tuple(to_device(p, device) for p in part) if isinstance(part, tuple) else part.to(device)


def to_tensors(part):
    """A data set's rows as a tensor, or a tuple of them; numbers in torch's default precision."""
    import numpy as np
    import torch

    if isinstance(part, tuple):
        return tuple(to_tensors(p) for p in part)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # a mapped file; nobody writes
        rows = torch.from_numpy(np.ascontiguousarray(part))
    return rows.to(torch.get_default_dtype()) if rows.is_floating_point() else rows
