"""Record a computation as a flat list of tensor operations, autograd's backward pass included.

A dispatch mode sees every operation that reaches a kernel, below autograd. A tensor is known again by its memory (storage,
offset, sizes, strides, type), not by its Python object: autograd hands out other objects for the same memory. So
operations that change nothing (``detach``, an ``expand`` to the same size) leave no trace, and what is neither an input
nor made on the way (parameters, buffers, a temperature) is held by reference: a later change of its values is seen.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class Slot(int):
    """The number of a tensor in a recording."""


@dataclass(eq=False)
class Operation:
    """One call: ``outs`` are slots (``None`` for what is no tensor), arguments hold slots in place of tensors."""

    func: object
    args: tuple
    kwargs: dict
    outs: list
    writes: tuple = ()

    def slots(self):
        """The slots among the arguments, in order."""
        found = []
        swap((self.args, self.kwargs), Slot, found.append)
        return found

    @property
    def random(self):
        """Whether it draws from a generator, so that it must neither be dropped nor moved."""
        return torch.Tag.nondeterministic_seeded in self.func.tags


@dataclass
class Recording:
    """Operations in order, and the tensor of every slot as it was when recorded (all are kept alive)."""

    operations: list = field(default_factory=list)
    tensors: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)  # slot -> number of the input
    outside: set = field(default_factory=set)  # slots held by reference


def swap(value, kind, change):
    """A nested argument with every instance of ``kind`` replaced by ``change(instance)``."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(swap(v, kind, change) for v in value)
    if isinstance(value, dict):
        return {k: swap(v, kind, change) for k, v in value.items()}
    return value


# These read a tensor's values below every dispatch.
_READS = {"numpy", "tolist", "__array__", "__dlpack__", "__format__", "__repr__"}
# Running statistics are written to without the schema's saying so.
_WRITES = {aten.native_batch_norm.default: (3, 4), aten.cudnn_batch_norm.default: (3, 4)}


class Recorder(TorchDispatchMode):
    """Record what runs inside, beginning from ``inputs``. What runs is never disturbed.

    :ivar recording: the result. :ivar failure: why there is none, in words: a value that Python reads (``.item()``, a
        branch on a tensor) or a tensor without strided memory.
    """

    def __init__(self, inputs):
        super().__init__()
        self.recording, self.failure = Recording(), None
        self._slots, self._kept = {}, []
        self._reads = _Reads(self)
        self._fixed = set()  # slots whose values follow from no input, so that Python may read them
        for number, tensor in enumerate(inputs):
            self.recording.inputs[self._new(tensor)] = number

    def __enter__(self):
        self._reads.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._reads.__exit__(*error)

    @classmethod
    def _should_skip_dynamo(cls):
        """No: to be skipped, torch would import its compiler first, a second and 70 MB."""
        return False

    def slot(self, tensor):
        """The slot of a tensor; one that was never seen is held by reference."""
        if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_neg():
            raise _Unrecordable(f"there is a tensor of layout {tensor.layout} and type {tensor.dtype}")
        known = self._slots.get(_memory(tensor))
        if known is None:
            known = self._new(tensor)
            self.recording.outside.add(known)
        return known

    def read(self, tensor):
        """Take note that Python reads the values of a tensor, which a replay would not."""
        if self.failure is None and self._slots.get(_memory(tensor)) not in self._fixed:
            self.failure = f"Python reads a value of a tensor{_place()}"

    def forget(self):
        """Let go of what was held to tell memory apart, and of the tensors of the recording."""
        self._slots, self._kept, self.recording = {}, [], None

    def _new(self, tensor):
        slot = self._slots[_memory(tensor)] = Slot(len(self.recording.tensors))
        self.recording.tensors.append(tensor.detach())
        return slot

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.failure is not None:
            return func(*args, **kwargs)
        try:
            known = swap((args, kwargs), torch.Tensor, self.slot)
            out = func(*args, **kwargs)
        except _Unrecordable as reason:
            self.failure = str(reason)
            return func(*args, **kwargs)
        try:
            self._add(Operation(func, *known, []), out if isinstance(out, (list, tuple)) else [out])
        except (_Unrecordable, AttributeError) as reason:  # the latter where torch has renamed what is not public
            self.failure = str(reason)
        return out

    def _add(self, operation, values):
        if torch.Tag.inplace_view in operation.func.tags:
            operation.func = _out_of_place(operation.func)
        sources = operation.slots()
        operation.writes = _written(operation.func, operation.args, operation.kwargs)
        fixed = not (operation.random or operation.writes) and all(s in self._fixed for s in sources)
        for value in values:
            if isinstance(value, torch.Tensor):
                self._kept.append(value)  # its memory must not be used again while slots are told apart by it
                fresh = _memory(value) not in self._slots
                slot = self._new(value) if fresh else self.slot(value)
                if fresh and fixed:
                    self._fixed.add(slot)
                operation.outs.append(slot)
            elif value is None or fixed:
                operation.outs.append(None)
            else:
                raise _Unrecordable(f"Python reads a value of a tensor{_place()}")
        self._fixed.difference_update(operation.writes)
        if operation.writes or not all(out in sources for out in operation.outs):
            self.recording.operations.append(operation)


class _Reads(TorchFunctionMode):
    """Tells a recorder of what it cannot see: arrays and lists made of a tensor."""

    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in _READS and args and isinstance(args[0], torch.Tensor):
            self.recorder.read(args[0])
        return func(*args, **(kwargs or {}))


class _Unrecordable(Exception):
    pass


def _out_of_place(func):
    """What returns the view that ``squeeze_`` and its like turn a tensor into: in a replay, memory stays as it is."""
    packet = getattr(aten, func._schema.name.removeprefix("aten::").removesuffix("_"), None)
    for name in packet.overloads() if packet is not None else ():
        found = getattr(packet, name)
        if [str(a.type) for a in found._schema.arguments] == [str(a.type) for a in func._schema.arguments]:
            return found
    raise _Unrecordable(f"an operation changes the shape of a tensor in place ({func})")


def _place():
    """Where the pair's own code stands, in words, by the innermost frame outside of the libraries."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.split(".")[0] not in ("torch", "pyro") and not name.startswith(__package__):
            return f" in {frame.f_code.co_name}, line {frame.f_lineno} of {Path(frame.f_code.co_filename).name}"
        frame = frame.f_back
    return ""


def _memory(tensor):
    place = tensor.untyped_storage()
    place = getattr(place, "_cdata", None) or place.data_ptr()
    return place, tensor.storage_offset(), tensor.size(), tensor.stride(), tensor.dtype


def _written(func, args, kwargs):
    """Slots that the operation writes to, by its schema."""
    found = []
    for position, argument in enumerate(func._schema.arguments):
        alias = argument.alias_info
        if (alias is not None and alias.is_write) or position in _WRITES.get(func, ()):
            place = args[position : position + 1]
            swap([kwargs.get(argument.name)] if argument.kwarg_only else list(place), Slot, found.append)
    return tuple(found)
