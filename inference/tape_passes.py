"""Make a recording shorter without changing a bit of its results: constants, repetitions, dead code.

Only rewrites that leave every number as it was: what follows from no input and no outside tensor is kept as a value; an
operation that was done before on the same values is not done again; one that does nothing (a power of one, a sum over a
single element) is an alias. Random draws and writes are never touched, so that the random stream is the eager one.
"""

import copy

import torch

from .recording import Operation, Slot, aten, swap

# What they make depends on the shape of the argument alone.
_SHAPE_ONLY = {
    getattr(aten, name).default
    for name in ("ones_like", "zeros_like", "full_like", "new_zeros", "new_ones", "new_full")
}  # fmt: skip
EMPTY = {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default}
_REDUCTIONS = {aten.sum.dim_IntList, aten.mean.dim}
_UNIT = {aten.pow.Tensor_Scalar, aten.div.Scalar, aten.mul.Scalar, aten.div.Tensor, aten.mul.Tensor}


class Program:
    """A recording under simplification. ``storage`` tells slots that share memory; ``constants`` are kept as values."""

    def __init__(self, recording, outputs):
        self.tensors, self.inputs, self.outside = recording.tensors, recording.inputs, recording.outside
        self.operations, self.outputs = recording.operations, list(outputs)
        self.constants = set()
        self._storage = [t.untyped_storage().data_ptr() or -1 - i for i, t in enumerate(self.tensors)]
        self._same = {}
        self.written = {self.storage(slot) for op in self.operations for slot in op.writes}

    def part(self, operations, outputs, inputs):
        """A program of some of the operations, over the same slots."""
        part = copy.copy(self)
        part.operations, part.outputs, part.inputs = operations, list(outputs), inputs
        part._drop_dead()
        return part

    def storage(self, slot):
        """A number that is the same for all slots in one memory."""
        place = self._storage[slot]
        while place in self._same:
            place = self._same[place]
        return place

    def simplify(self):
        """All passes; returns self. Of results that are not kept as values only the shapes are known afterwards."""
        self._fold()
        self._merge()
        self._drop_dead()
        kept = {*self.inputs, *self.outside, *self.constants}
        self.tensors = [t if slot in kept else _shape_of(t) for slot, t in enumerate(self.tensors)]
        return self

    def _fold(self):
        kept = []
        for op in self.operations:
            pure = not op.random and not op.writes and op.func not in EMPTY
            known = op.func in _SHAPE_ONLY or all(slot in self.constants for slot in op.slots())
            if pure and known and not any(self._is_written(out) for out in op.outs if out is not None):
                self.constants.update(out for out in op.outs if out is not None)
            else:
                kept.append(op)
        self.operations = kept

    def _is_written(self, slot):
        return self.storage(slot) in self.written

    def _merge(self):
        """Replace repetitions and operations that change nothing by what stands there already."""
        stands, done, kept = {}, {}, []
        for op in self.operations:
            args, kwargs = swap((op.args, op.kwargs), Slot, lambda s: stands.get(s, s))
            op = Operation(op.func, args, kwargs, op.outs, op.writes)
            touched = [s for s in [*op.slots(), *op.outs] if s is not None]
            if op.random or op.writes or op.func in EMPTY or any(self._is_written(s) for s in touched):
                kept.append(op)
                continue
            same = self._does_nothing(op)
            if same is not None:
                self._identify(op.outs[0], same, stands)
                continue
            op = self._as_view(op)
            key = _key(op)
            if key in done:
                for out, before in zip(op.outs, done[key].outs, strict=True):
                    if out is not None:
                        self._identify(out, before, stands)
                continue
            if key is not None:
                done[key] = op
            kept.append(op)
        self.operations = kept
        self.outputs = [stands.get(s, s) for s in self.outputs]

    def _identify(self, slot, with_slot, stands):
        if slot == with_slot:
            return
        stands[slot] = with_slot
        self._join(slot, with_slot)

    def _join(self, slot, with_slot):
        one, other = self.storage(slot), self.storage(with_slot)
        if one != other:
            self._same[one] = other

    def _does_nothing(self, op):
        """The argument that an operation returns unchanged (a power of one, a product with one), or ``None``."""
        if op.func not in _UNIT or len(op.args) != 2 or op.kwargs or not isinstance(op.args[0], Slot):
            return None
        one = op.args[1]
        if isinstance(one, (Slot, bool)) or one != 1:
            return None
        before, after = self.tensors[op.args[0]], self.tensors[op.outs[0]]
        alike = (before.dtype, before.size(), before.stride()) == (after.dtype, after.size(), after.stride())
        return op.args[0] if alike else None

    def _as_view(self, op):
        """A sum or mean over single elements as a view of them."""
        if op.func not in _REDUCTIONS or not op.args[1] or op.kwargs:
            return op
        before, after = self.tensors[op.args[0]], self.tensors[op.outs[0]]
        if any(before.shape[d] != 1 for d in op.args[1]) or not before.is_contiguous() or before.dtype != after.dtype:
            return op
        self._join(op.outs[0], op.args[0])
        return Operation(aten.view.default, (op.args[0], list(after.shape)), {}, op.outs)

    def _drop_dead(self):
        needed, kept = set(self.outputs), []
        for op in reversed(self.operations):
            if op.random or op.writes or any(out in needed for out in op.outs):
                kept.append(op)
                needed.update(op.slots())
        self.operations = kept[::-1]


def _shape_of(tensor):
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _key(op):
    try:
        key = (op.func, _frozen(op.args), _frozen(op.kwargs))
        hash(key)
        return key
    except TypeError:  # a generator among the arguments, say
        return None


def _frozen(value):
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in sorted(value.items()))
    return (type(value), value)  # 1, 1.0 and True are told apart, and a slot from a number


def is_view(op, program):
    """Whether the operation only looks at the memory of its first argument."""
    if op.writes or op.random or not op.slots() or any(out is None for out in op.outs):
        return False
    place = program.storage(op.slots()[0])
    return all(program.storage(out) == place for out in op.outs)


def dense(tensor):
    """Whether a tensor's elements lie in memory without gaps or repetition, in some order of its dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.size(), strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return tensor.numel() > 0
