"""What Python holds that a model's numbers may depend on: attributes, closures, globals, containers.

A recorded step does not run the model's Python. So before each replay the values that the pair's code can reach are
compared with those at the time of recording, and a pair whose own pass changes one of them (it counts its calls, say) is
not recorded at all. Tensors are compared by identity: their *values* are read anew by every replay.
"""

import enum
import functools
import random
import types
from collections.abc import Iterator

import numpy as np
import torch
from pyro.infer.elbo import ELBO
from pyro.poutine.messenger import Messenger
from torch import nn

_LIBRARIES = ("torch", "pyro", "pyrarchy", "numpy", "functools", "collections", "abc", "builtins", "weakref", "zuko")
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.device, torch.Size)
_UNREAD = ("_parameters", "_buffers", "_modules", "_pyro_context")  # read otherwise
# hooks; and what a flow keeps of its last pair: it is written, then read
_BOOKKEEPING = ("_forward_", "_backward_", "_state_dict", "_load", "_cached_")
_MOST = 20_000
_ABSENT = object()


class PythonState:
    """The values reachable from ``roots`` (modules, functions, plain objects), as they are now."""

    def __init__(self, *roots):
        self.entries, self.seen, self.opaque = [], set(), None
        self.seen_classes = set()
        for root in roots:
            self._visit(root, type(root).__name__)
        self.numbers = _generators()

    def changed(self):
        """What is no longer as it was, in words; ``None`` if all is."""
        for read, key, value, where in self.entries:
            now = read(key, _ABSENT)
            if now is not value and not (isinstance(value, _SIMPLE) and type(now) is type(value) and now == value):
                return f"{where}{key}" if isinstance(key, str) else f"{where}[{key!r}]"
        return None

    def drew_numbers(self):
        """Whether numpy's or Python's global generator has moved since."""
        return self.numbers != _generators()

    def _watch(self, read, key, value, where):
        if len(self.entries) < _MOST:
            self.entries.append((read, key, value, where))
        else:
            self.opaque = f"more than {_MOST} values"

    def _visit(self, value, where):
        if (
            isinstance(value, (*_SIMPLE, torch.Tensor, np.ndarray, np.generic, types.ModuleType))
            or id(value) in self.seen
        ):
            return
        self.seen.add(id(value))
        if isinstance(value, Iterator):
            self.opaque = f"{where} is an iterator ({type(value).__name__})"
        elif isinstance(value, nn.Module):
            self._module(value, where)
        elif isinstance(value, functools.partial):
            self._visit((value.func, value.args, value.keywords), where)
        elif isinstance(value, types.MethodType):
            self._visit(value.__self__, where)
            self._visit(value.__func__, where)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, (dict, types.MappingProxyType)):
            self._watch(_size_of(value), "length", len(value), f"{where}.")
            self._contents(value.get, list(value.items()), where)
        elif isinstance(value, (list, tuple, set, frozenset)):
            self._watch(_size_of(value), "length", len(value), f"{where}.")
            if isinstance(value, (list, tuple)):
                self._contents(_item_of(value), list(enumerate(value)), where)
        elif isinstance(value, type):
            self._class(value)
        elif hasattr(value, "__dict__") and (not _of_library(type(value)) or _decides(value)):
            self._contents(vars(value).get, list(vars(value).items()), f"{where}.")
            self._class(type(value))

    def _contents(self, read, items, where):
        for key, value in items:
            if isinstance(value, (*_SIMPLE, torch.Tensor, np.ndarray, np.generic, types.FunctionType, type)):
                self._watch(read, key, value, where)
            self._visit(value, f"{where}{key}" if isinstance(key, str) else f"{where}[{key!r}]")

    def _module(self, module, where):
        for held in (module._parameters, module._buffers, module._modules):
            for name, value in list(held.items()):
                self._watch(held.get, name, value, f"{where}.")
                self._visit(value, f"{where}.{name}")
        attributes = vars(module)
        plain = [(k, v) for k, v in attributes.items() if k not in _UNREAD and not k.startswith(_BOOKKEEPING)]
        self._contents(attributes.get, plain, f"{where}.")
        self._class(type(module))

    def _function(self, function):
        if _of_library(function):
            return
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._contents(functools.partial(_cell, cell), [(name, _cell(cell, name, None))], "")
        self._contents(function.__globals__.get, _named_globals(function.__code__, function.__globals__), "")
        self._visit((function.__defaults__, function.__kwdefaults__), function.__name__)

    def _class(self, kind):
        if kind in self.seen_classes:
            return
        self.seen_classes.add(kind)
        for base in kind.__mro__:
            if not _of_library(base):
                self._contents(
                    vars(base).get, [(k, v) for k, v in vars(base).items() if k[:2] != "__"], f"{base.__name__}."
                )


def _of_library(kind):
    module = getattr(kind, "__module__", None) or ""
    return module.split(".")[0] in _LIBRARIES


def _decides(value):
    """Whether an object of a library holds settings that a pass reads: handlers, objectives, estimators."""
    return isinstance(value, (Messenger, ELBO)) or type(value).__module__.split(".")[0] == "pyrarchy"


def _named_globals(code, space):
    """The globals that a function's code and the code nested in it name."""
    names, codes = set(), [code]
    while codes:
        one = codes.pop()
        names.update(one.co_names)
        codes += [c for c in one.co_consts if isinstance(c, types.CodeType)]
    return [(name, space[name]) for name in sorted(names) if name in space]


def _cell(cell, name, absent):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return absent


def _size_of(container):
    return lambda key, absent: len(container)


def _item_of(sequence):
    return lambda key, absent: sequence[key] if key < len(sequence) else absent


def _generators():
    state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), state[1].tobytes(), state[2]
