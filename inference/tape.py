"""Record a training step once, then replay it: the same kernels in the same order, without Pyro and autograd above them.

The first batch of a shape runs under Pyro as it is, the second is recorded (:mod:`recording`), made shorter
(:mod:`tape_passes`) and written as one flat function (:mod:`tape_program`). At some of the replays Pyro runs beside it from
the same random state: every number must be the same to the last bit. What cannot be recorded (Python reads a value, counts
its calls, draws from numpy) runs under Pyro for good; ``path`` says which it is and why.
"""

import torch

from .isolation import rng_state, root_modules, set_rng_state
from .python_state import PythonState

try:
    from .recording import Recorder
    from .tape_passes import Program
    from .tape_program import compile_program
    from .tape_stages import Staged
except (ImportError, AttributeError):  # they build on names of torch that are not public
    Recorder = None

CHECKS = {1, 2, 3, *(10**power for power in range(1, 12))}  # replays beside which Pyro runs as well
EARLY = 3  # a difference up to here only ends the recording: no number has been used yet
SHAPES = 8  # recordings held; batches of further shapes run under Pyro


class TapeError(ArithmeticError):
    """A replay differs from what Pyro computes although it did not before: some numbers since may be wrong."""


class Tape:
    """Figures and gradients of a step: under Pyro, or by a recording of it.

    :param compute: function of a batch (a tuple of arguments) that returns ``(figures, gradients)``: a tensor, and a list of
        tensors (or ``None``) for ``tensors``, without graph.
    :param tensors: the tensors trained.
    :param model, guide: the pair. :param watched: further objects that decide what the pair does.
    :param off: why nothing should be recorded, in words, or ``None``.
    :param bool staged: whether nothing trains: then what no random draw enters is kept while the batch is the same object.
    """

    def __init__(self, compute, tensors, model, guide, watched=(), off=None, staged=False):
        self.compute, self.tensors, self.off, self.staged = compute, tensors, off, staged
        if Recorder is None and off is None:
            self.off = "this torch cannot record"
        self.roots = (model, guide, *watched)
        self.buffers = [b for root in root_modules(model, guide) for b in root.buffers()]
        self.shapes, self.replays, self.steps, self.checks = {}, 0, 0, CHECKS

    @property
    def path(self):
        """How the steps were computed, in words."""
        if self.off is not None:
            return f"Pyro ({self.off})"
        return f"tape ({self.replays} of {self.steps} steps)"

    def __call__(self, batch, mode=None):
        """``(figures, gradients)`` of a batch; ``mode`` tells apart what runs otherwise (under a temperature, say)."""
        self.steps += 1
        if self.off is not None:
            return self.compute(batch)
        signature = _signature_of(batch, mode)
        if signature not in self.shapes:
            if len(self.shapes) < SHAPES:
                self.shapes[signature] = None
            return self.compute(batch)
        known = self.shapes[signature]
        if known is None:
            return self._record(batch, signature)
        change = known.changed()
        if change is not None:
            self.off = f"'{change}' changed after {known.count} recorded steps"
            return self.compute(batch)
        known.count += 1
        if known.count in self.checks or (self.staged and batch is not known.batch):
            known.batch = batch
            return self._checked(batch, known)
        self.replays += 1
        return known.replay(batch)

    def recorded(self, batch, mode=None):
        """The recording for such a batch, where there is one."""
        return self.shapes.get(_signature_of(batch, mode))

    def _record(self, batch, signature):
        """The numbers of a pass that is recorded; whether the recording is of use is seen afterwards."""
        state = PythonState(*self.roots)
        self.off = state.opaque
        if self.off is not None:
            return self.compute(batch)
        clones = tuple(_copy(part) if isinstance(part, torch.Tensor) else part for part in batch)
        recorder = Recorder([part for part in clones if isinstance(part, torch.Tensor)])
        with recorder:
            figures, gradients = self.compute(clones)
        self.off = recorder.failure
        if self.off is None and (change := state.changed()) is not None:
            self.off = f"the pair changes '{change}' when it runs"
        if self.off is None and state.drew_numbers():
            self.off = "the pair draws from numpy's or Python's generator"
        if self.off is None:
            try:
                outputs = [recorder.slot(t) for t in (figures, *gradients) if t is not None]
                program = Program(recorder.recording, outputs).simplify()
                recorder.forget()  # before as much memory is laid out again
                function = Staged(program) if self.staged else _whole(compile_program(program))
                self.shapes[signature] = _Recorded(function, state, self.tensors, gradients)
            except Exception as error:  # an operation that no pass foresaw must not end a training
                self.off = f"the recording could not be compiled ({type(error).__name__}: {error})"
        # copies, because the recorded tensors may be its constants and an optimiser or a clip may write to a gradient
        return figures, [None if g is None else g.clone() for g in gradients]

    def _checked(self, batch, known):
        """Pyro's numbers, after a replay from the same state has given them to the last bit."""
        before = self._state()
        figures, gradients = self.compute(batch)
        after = self._state()
        self._restore(before)
        replayed = known.replay(batch)
        same = _same((figures, *gradients), (replayed[0], *replayed[1])) and self._agrees(after)
        if not same:
            self._restore(after)
            self.off = f"replay {known.count} gave other numbers than Pyro"
            if known.count > EARLY and not self.staged:  # nothing is trained: the batches before were right
                raise TapeError(
                    f"{self.off}: the pair depends on something that a recording does not see, and steps since the last "
                    "agreement may be wrong. Run it again with tape=False."
                )
        return figures, gradients

    def _state(self):
        return rng_state(), [b.clone() for b in self.buffers]

    def _restore(self, state):
        set_rng_state(state[0])
        for buffer, value in zip(self.buffers, state[1], strict=True):
            buffer.copy_(value)

    def _agrees(self, state):
        return torch.equal(torch.get_rng_state(), state[0]["torch"]) and _same(self.buffers, state[1])


class _Recorded:
    """A compiled recording with what it takes for granted."""

    def __init__(self, function, state, tensors, gradients):
        self.function, self.state, self.count, self.batch = function, state, 0, None
        self.places = [(t, t.data_ptr()) for t in tensors]
        self.reached = [g is not None for g in gradients]

    def changed(self):
        """What is not as it was when recording, in words."""
        for tensor, place in self.places:
            if tensor.data_ptr() != place:
                return "the memory of a parameter"
        return self.state.changed()

    def replay(self, batch):
        with torch.no_grad():
            inputs = [part for part in batch if isinstance(part, torch.Tensor)]
            figures, *found = self.function(batch, inputs)
        if len(found) == len(self.reached):
            return figures, found
        left = iter(found)
        return figures, [next(left) if reached else None for reached in self.reached]


def _whole(function):
    return lambda batch, inputs: function(*inputs)


def _copy(tensor):
    """A copy in memory of its own, laid out alike and as far into a cache line: a product's last bit may depend on it."""
    if 0 in tensor.stride() or not tensor.numel():
        return tensor.clone()
    line = 64 // tensor.element_size()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
    memory = torch.empty(span + line, dtype=tensor.dtype, device=tensor.device)
    into = (tensor.data_ptr() - memory.data_ptr()) // tensor.element_size() % line
    return memory.as_strided(tensor.size(), tensor.stride(), into).copy_(tensor.detach())


def _signature_of(batch, mode):
    return mode, *(_signature(part) for part in batch)


def _signature(part):
    if isinstance(part, torch.Tensor):
        return part.shape, part.stride(), part.dtype, part.device, part.requires_grad
    return type(part), part


def _same(ones, others):
    return all(
        (a is None) == (b is None)
        and (a is None or torch.equal(a, b) or torch.allclose(a, b, 0.0, 0.0, equal_nan=True))
        for a, b in zip(ones, others, strict=True)
    )
