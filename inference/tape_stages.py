"""A recording in two parts: what follows from the batch and the parameters alone, and what reads the random draws.

Importance samples of the same data are drawn in many passes. What no draw enters (an encoder, the logarithm of a scale) is
computed at the first of them and kept while the batch is the same object. The kernels and their numbers are the same.
"""

from .tape_passes import EMPTY, dense, is_view
from .tape_program import compile_program


class Staged:
    """A function of a batch (a tuple) that returns the program's outputs; parameters must not change meanwhile.

    :param Program program: simplified.
    """

    def __init__(self, program):
        self.before, self.after = (compile_program(part) for part in split(program))
        self.batch, self.kept = None, ()

    def __call__(self, batch, inputs):
        """Outputs for ``inputs``, the tensors of ``batch``."""
        if batch is not self.batch:
            self.batch, self.kept = batch, self.before(*inputs)
        return self.after(*inputs, *self.kept)


def split(program):
    """Two programs: the first's outputs are further inputs of the second, whose outputs are those of the whole."""
    steady = {*program.inputs, *program.outside, *program.constants}
    early, late, views = [], [], {}
    for op in program.operations:
        touched = [s for s in [*op.slots(), *op.outs] if s is not None]
        moves = (
            op.random or op.writes or op.func in EMPTY or any(program.storage(s) in program.written for s in touched)
        )
        if moves or not all(s in steady for s in op.slots()):
            late.append(op)
        elif is_view(op, program):  # looked at anew, because a copy of a view has other strides
            views.update((out, op) for out in op.outs)
            early.append(op)
            steady.update(op.outs)
        elif all(out is not None and dense(program.tensors[out]) for out in op.outs):
            early.append(op)
            steady.update(op.outs)
        else:
            late.append(op)
    made = {out for op in early for out in op.outs} - set(views)
    needed, looks, edge = [*program.outputs, *(s for op in late for s in op.slots())], [], []
    while needed:
        slot = needed.pop()
        if slot in views and views[slot] not in looks:
            looks.append(views[slot])
            needed += views[slot].slots()
        elif slot in made and slot not in edge:
            edge.append(slot)
    looks = [op for op in early if op in looks]
    inputs = {**program.inputs, **{slot: len(program.inputs) + i for i, slot in enumerate(edge)}}
    return program.part(early, edge, program.inputs), program.part([*looks, *late], program.outputs, inputs)
