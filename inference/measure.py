"""What one training step needs of a batch: loss, value at temperature one, gradients and their norm, all per datum."""

from contextlib import ExitStack

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK

from .announce import plain_submodules, unannounced
from .bound import Bound
from .first_pass import pass_of
from .isolation import buffers_kept, rng_state, set_rng_state
from .preflight import data_size, rows_of
from .tape import Tape
from .tape_passes import dense


class Measure:
    """Figures ``[loss, value, gradient norm]`` and gradients of a batch, in nats per datum.

    :param model, guide: the pair. :param objective: a :class:`Bound` or one of Pyro's own.
    :param tensors: what is trained. :param temper: a temperature, on while ``tempered``.
    :param bool tape: whether steps may be recorded and replayed (:mod:`~pyrarchy.inference.tape`).
    """

    def __init__(self, model, guide, objective, tensors, temper=None, tape=True):
        self.model, self.guide, self.objective, self.tensors, self.temper = model, guide, objective, tensors, temper
        self.plain = plain_submodules(model, guide)
        self.sizes, self.rows, self.tempered = {}, {}, False
        off = None if tape else "tape=False"
        if tape and not isinstance(objective, Bound):
            off = f"{type(objective).__name__} reads its value in Python"
        elif tape and any(t.device.type != "cpu" for t in tensors):
            off = "a recording replays on the CPU only"
        self.tape = Tape(self.compute, tensors, model, guide, (objective, temper, *_PYRO_STACK), off)

    def __call__(self, batch, tempered=False):
        """``(figures, gradients)``; figures a tensor (3,), gradients one for each tensor, ``None`` where not reached."""
        self.tempered = tempered
        return self.tape(batch, tempered)

    def weight(self, batch):
        """Over how many data the means of a batch are, one of a shape that has been measured; one for global latents."""
        return self.rows[_shapes(batch)]

    def compute(self, batch):
        """The same by running the pair under Pyro; a shape seen for the first time runs with Pyro's validation on."""
        shapes = _shapes(batch)
        with ExitStack() as stack:
            if shapes not in self.sizes:
                stack.enter_context(pyro.validation_enabled(True))
            if self.tempered:
                stack.enter_context(self.temper)
            loss, value, gradients = (self._ours if isinstance(self.objective, Bound) else self._stock)(batch, shapes)
        return torch.stack([loss, value, total_norm(gradients).to(loss)]), gradients

    def _ours(self, batch, shapes):
        objective = self.objective
        run = objective.run(self.model, self.guide, batch)
        with unannounced(self.plain):
            terms = run.live()
            objective.check(terms)
            per_datum = objective.followed(terms, run)
        size = self.sizes.setdefault(shapes, terms.layout.batch)
        self.rows[shapes] = size
        loss = -per_datum.sum() / size
        gradients = _apart(torch.autograd.grad(loss, self.tensors, allow_unused=True))
        with torch.no_grad():
            loss = loss.detach()
            value = -loss
            if terms.is_tempered:
                value = objective.reduce(terms.at_temperature_one()).sum() / size
        return loss, value, gradients

    def _stock(self, batch, shapes):
        if shapes not in self.sizes:
            kept = rng_state()
            with buffers_kept(self.model, self.guide):
                trace = pass_of(self.objective, self.model, self.guide, batch)[0]
                self.sizes[shapes], self.rows[shapes] = data_size(trace), rows_of(trace)
            set_rng_state(kept)
        for tensor in self.tensors:
            tensor.grad = None
        loss = self.objective.loss_and_grads(self.model, self.guide, *batch)
        loss = sum(loss) if isinstance(loss, tuple) else loss
        size = self.sizes[shapes]
        gradients = [None if t.grad is None else t.grad.div_(size) for t in self.tensors]
        loss = torch.as_tensor(loss, dtype=self.tensors[0].dtype, device=self.tensors[0].device) / size
        return loss, -loss, gradients


def total_norm(gradients):
    """The 2-norm of all gradients together (``None`` is none): :func:`torch.nn.utils.get_total_norm`'s, but for rounding.

    By dot products over each one's memory, in any order of its elements: torch's norms take half as long again.
    """
    found = [g.as_strided((g.numel(),), (1,)) if dense(g) else g.reshape(-1) for g in gradients if g is not None]
    if not found:
        return torch.zeros(())
    if len({g.dtype for g in found}) > 1:
        found = [g.double() for g in found]
    squares = found[0].new_empty(len(found))
    for gradient, square in zip(found, squares, strict=True):
        torch.dot(gradient, gradient, out=square)
    return squares.sum(0).sqrt()


def _shapes(batch):
    return tuple(getattr(t, "shape", None) for t in batch)


def _apart(gradients):
    """Gradients that share no memory and repeat none, so that an optimiser may write to them."""
    seen, out = set(), []
    for g in gradients:
        if g is not None and (g.data_ptr() in seen or (0 in g.stride() and g.numel() > 1)):
            g = g.clone(memory_format=torch.contiguous_format)
        out.append(g)
        if g is not None:
            seen.add(g.data_ptr())
    return out
