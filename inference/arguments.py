"""What callers hand over: counts and seeds as Python's own numbers, and data that a failure is the fault of."""

import operator
from contextlib import contextmanager

import numpy as np
import torch

from .isolation import root_modules


def whole(name, value, least=1, most=None):
    """A whole number, numpy's included, as an int.

    :raises ValueError: for anything else, by the argument's name.

    >>> whole("steps", np.int64(3))
    3
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        beyond = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be a whole number of at least {least}{beyond}, not {value!r}")
    return number


@contextmanager
def blaming_data(args, model, guide):
    """A block that runs a pair on data: what fails in it because of the data is said of them, not in torch's words.

    :raises ValueError: that names the argument, its fault and what to do. A divergence stays one and says it as well.
    """
    try:
        yield
    except (ValueError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        why = next((w for i, arg in enumerate(args) if (w := _fault(i, arg, error, model, guide))), None)
        if why is None:
            raise
        if isinstance(error, ArithmeticError) and not isinstance(error, ZeroDivisionError):
            raise type(error)(f"{error} {why[0].upper()}{why[1:]}.") from error
        raise ValueError(why) from error


def _fault(number, arg, error, model, guide):
    """What is wrong with one argument, in words, or ``None``."""
    what = f"argument {number} of the model (counted from 0)"
    if isinstance(arg, np.ndarray | list):
        return f"{what} is a {type(arg).__name__}: hand over a tensor, as torch.as_tensor(x, dtype=torch.float32) makes"
    if not isinstance(arg, torch.Tensor):
        return None
    if not arg.numel():
        return f"{what} has shape {tuple(arg.shape)}: there are no data"
    if arg.is_floating_point() and not (finite := arg.isfinite()).all():
        return (
            f"{what} holds NaN or infinity, first at {tuple((~finite).nonzero()[0].tolist())}: drop or fill such rows"
        )
    own = {p.dtype for root in root_modules(model, guide) for p in root.parameters()}
    if own and arg.dtype not in own and any(word in str(error) for word in ("dtype", "not implemented for")):
        names = ", ".join(map(str, own))
        return f"{what} is {arg.dtype} and the pair's parameters are {names}: convert one of them"
    return None
