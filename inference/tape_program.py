"""Turn a simplified recording into one flat Python function over memory that is laid out once.

Results of the common operations go to fixed memory through ``out=``, views of fixed memory are made once, and memory whose
last reader has passed is given to a later result (to the very operation that reads it last, where that works elementwise).
What has no ``out=`` form is a local variable. The kernels and their order are those that ran when recording.
"""

import math

import torch

from .recording import Slot, aten, swap
from .tape_passes import EMPTY, dense, is_view

# Public functions with the same arguments as the recorded operation, and an ``out``.
_OUT = {
    aten.neg.default: torch.neg,
    aten.abs.default: torch.abs,
    aten.exp.default: torch.exp,
    aten.expm1.default: torch.expm1,
    aten.log.default: torch.log,
    aten.log1p.default: torch.log1p,
    aten.sqrt.default: torch.sqrt,
    aten.rsqrt.default: torch.rsqrt,
    aten.square.default: torch.square,
    aten.reciprocal.default: torch.reciprocal,
    aten.sin.default: torch.sin,
    aten.cos.default: torch.cos,
    aten.tanh.default: torch.tanh,
    aten.sigmoid.default: torch.sigmoid,
    aten.erf.default: torch.erf,
    aten.erfinv.default: torch.erfinv,
    aten.floor.default: torch.floor,
    aten.sign.default: torch.sign,
    aten.lgamma.default: torch.lgamma,
    aten.digamma.default: torch.digamma,
    aten.softplus.default: torch.nn.functional.softplus,
    aten.stack.default: torch.stack,
    aten.addmm.default: torch.addmm,
    aten.mm.default: torch.mm,
    aten.bmm.default: torch.bmm,
    aten.maximum.default: torch.maximum,
    aten.minimum.default: torch.minimum,
    aten.atan2.default: torch.atan2,
    aten.logaddexp.default: torch.logaddexp,
    aten.cumsum.default: torch.cumsum,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.div.Tensor: torch.div,
    aten.mul.Scalar: torch.mul,
    aten.div.Scalar: torch.div,
    aten.add.Scalar: torch.add,
    aten.sub.Scalar: torch.sub,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.pow.Tensor_Tensor: torch.pow,
    aten.sum.dim_IntList: torch.sum,
    aten.mean.dim: torch.mean,
    aten.amax.default: torch.amax,
    aten.index_select.default: torch.index_select,
    aten.gather.default: torch.gather,
}
_BACKWARD = {
    func: func._overloadpacket.grad_input
    for func in (
        aten.tanh_backward.default,
        aten.sigmoid_backward.default,
        aten.softplus_backward.default,
        aten.leaky_relu_backward.default,
        aten.elu_backward.default,
        aten.threshold_backward.default,
    )
    if hasattr(func._overloadpacket, "grad_input")
}
_METHODS = {
    getattr(aten, name).default: getattr(torch.Tensor, name)
    for name in ("normal_", "uniform_", "exponential_", "zero_", "copy_")
}
_METHODS[aten.dot.out] = torch.dot


def compile_program(program):
    """A function of the inputs that returns the outputs, each in memory of its own; ``source`` is its text."""
    return _Writer(program).function()


class _Writer:
    def __init__(self, program):
        self.program = program
        self.fixed = {s: program.tensors[s] for s in [*program.outside, *program.constants]}
        self.names = {slot: f"x{number}" for slot, number in program.inputs.items()}
        self.space, self.lines = {}, []
        self.pool, self.owner = {}, {}  # free memory by kind; storage -> the whole of the memory that is its own
        self.local = set()  # storages that a local variable owns
        self.last = self._last_uses()

    def _last_uses(self):
        program, last = self.program, {}
        for position, op in enumerate(program.operations):
            for slot in [*op.slots(), *op.outs]:
                if slot is not None:
                    last[program.storage(slot)] = position
        last.update({program.storage(slot): math.inf for slot in [*program.outputs, *self.fixed, *program.inputs]})
        return last

    def function(self):
        program = self.program
        for position, op in enumerate(program.operations):
            self._operation(position, op)
            self._free(position, op)
        returned = ", ".join(self._outputs())
        arguments = ", ".join(f"x{n}" for n in sorted(program.inputs.values()))
        source = "\n".join(
            [f"def replay({arguments}):", *(f"    {line}" for line in self.lines), f"    return ({returned},)"]
        )
        exec(compile(source, "<tape>", "exec"), self.space)
        replay = self.space["replay"]
        replay.source = source
        return replay

    def _operation(self, position, op):
        if is_view(op, self.program) and all(s in self.fixed for s in op.slots()):
            out = op.func(*self._tensors(op.args), **self._tensors(op.kwargs))
            self.fixed.update(zip(op.outs, out if isinstance(out, (list, tuple)) else [out], strict=True))
            return
        if op.func in _METHODS and op.writes:
            self.lines.append(self._call(self._constant(_METHODS[op.func]), op))
            return
        (out,) = op.outs if len(op.outs) == 1 else (None,)
        if out is not None and not op.writes and dense(self.program.tensors[out]):
            if op.func in EMPTY:
                self._allocate(out)
                return
            function, keyword = _OUT.get(op.func), "out"
            if function is None and op.func in _BACKWARD:
                function, keyword = _fast(_BACKWARD[op.func]), "grad_input"
            if function is not None and not self._takes_over(position, op, out):
                self._allocate(out)
            if function is not None:
                self.lines.append(self._call(self._constant(function), op, f"{keyword}={self._name(out)}"))
                return
        fresh = [None if s is None or s in self.fixed or s in self.names else s for s in op.outs]
        call = self._call(self._constant(_fast(op.func)), op)
        for slot in fresh:
            if slot is not None:
                self.names[slot] = f"d{slot}"
                if self.program.storage(slot) not in {self.program.storage(s) for s in op.slots()}:
                    self.local.add(self.program.storage(slot))
        if any(slot is not None for slot in fresh):
            targets = ", ".join("_" if slot is None else f"d{slot}" for slot in fresh)
            many = len(op.outs) > 1 or op.func._schema.returns[0].type.kind() == "ListType"
            call = f"{targets}{',' if many and len(fresh) == 1 else ''} = {call}"
        self.lines.append(call)

    def _allocate(self, slot):
        like = self.program.tensors[slot]
        free = self.pool.get(_kind(like), [])
        whole = free.pop() if free else torch.empty(like.numel(), dtype=like.dtype, device="cpu")
        self.owner[self.program.storage(slot)] = whole
        self.fixed[slot] = whole.as_strided(like.size(), like.stride())

    def _takes_over(self, position, op, out):
        """Let an elementwise operation write over an argument that nothing reads afterwards."""
        if torch.Tag.pointwise not in op.func.tags:
            return False
        program, like = self.program, self.program.tensors[out]
        slots = op.slots()
        for slot in slots:
            place, tensor = program.storage(slot), program.tensors[slot]
            if self.last[place] != position or any(s != slot and program.storage(s) == place for s in slots):
                continue
            if (tensor.dtype, tensor.size(), tensor.stride()) != (like.dtype, like.size(), like.stride()):
                continue
            whole = self.owner.get(place)
            if whole is not None and whole.numel() == like.numel():
                self.owner[program.storage(out)] = self.owner.pop(place)
                self.fixed[out] = self.fixed[slot]
                return True
            if place in self.local and slot in self.names:
                self.names[out] = self.names[slot]
                self.local.add(program.storage(out))
                self.local.discard(place)
                return True
        return False

    def _free(self, position, op):
        for slot in {s for s in [*op.slots(), *op.outs] if s is not None}:
            place = self.program.storage(slot)
            if self.last[place] != position:
                continue
            whole = self.owner.pop(place, None)
            if whole is not None:
                self.pool.setdefault(_kind(whole), []).append(whole)
            elif place in self.local:
                self.local.discard(place)
                self.lines.append(f"del {self.names[slot]}")

    def _outputs(self):
        """Names of the outputs; a copy of each that shares memory with anything else, or repeats an element."""
        program, taken = self.program, {program_place for program_place in self._places(self._shared())}
        for slot in program.outputs:
            place = program.storage(slot)
            if place in taken or not dense(program.tensors[slot]):
                yield f"{self._name(slot)}.clone()"
            else:
                yield self._name(slot)
            taken.add(place)

    def _shared(self):
        return [*self.program.outside, *self.program.constants, *self.program.inputs]

    def _places(self, slots):
        return (self.program.storage(slot) for slot in slots)

    def _call(self, function, op, *extra):
        words = [self._value(v) for v in op.args]
        words += [f"{k}={self._value(v)}" for k, v in op.kwargs.items()]
        return f"{function}({', '.join([*words, *extra])})"

    def _name(self, slot):
        return self._constant(self.fixed[slot], f"t{slot}") if slot in self.fixed else self.names[slot]

    def _value(self, value):
        if isinstance(value, Slot):
            return self._name(value)
        if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        if isinstance(value, (list, tuple)):
            found = []
            swap(value, Slot, found.append)
            if not all(slot in self.fixed for slot in found):
                return f"[{', '.join(self._value(v) for v in value)}]"
            value = list(self._tensors(value))
        return self._constant(value)

    def _constant(self, value, name=None):
        name = name or f"{getattr(value, '__name__', 'c').strip('<>').replace('.', '_')}_{id(value) % 100_000}"
        while self.space.setdefault(name, value) is not value:
            name += "_"
        return name

    def _tensors(self, value):
        return swap(value, Slot, self.fixed.__getitem__)


def _kind(tensor):
    return tensor.numel(), tensor.dtype


def _fast(func):
    """The operation without the Python layer above it, where torch lets one have it."""
    return getattr(func, "_op", func)
