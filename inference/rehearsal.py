"""Training steps that leave no trace, for whoever wants to know how long one takes."""

import pyro
import torch

from .isolation import rng_state, set_rng_state
from .measure import Measure


class Rehearsal:
    """Steps of a :class:`~.loop.Loop` on one batch: the optimiser works on copies of the weights.

    A context manager: afterwards generators and buffers are as they were. Weights are never written to. What the pair's own
    Python counts or collects in a pass cannot be put back.

    :param loop: the training, built and not yet running.
    :param bool tape: whether steps are recorded and replayed; replays are then checked beside Pyro once and not again.
    """

    def __init__(self, loop, tape=True):
        self.loop = loop
        self.measure = Measure(loop.model, loop.guide, loop.objective, loop.tensors, loop.temper, tape)
        self.measure.tape.checks = {1}
        self.copies = [t.detach().clone().requires_grad_() for t in loop.tensors]
        self.optimizer = loop.factory(self.copies)

    def __enter__(self):
        self.before, self.validation = rng_state(), pyro.validation_enabled(False)
        self.validation.__enter__()
        self.buffers = [(b, b.clone()) for b in self.measure.tape.buffers]
        self.batch = next(iter(self.loop.batches.epoch(0)))
        return self

    def __exit__(self, *caught):
        for buffer, value in self.buffers:
            buffer.copy_(value)
        set_rng_state(self.before)
        self.validation.__exit__(*caught)

    def step(self):
        """A step as the loop takes it, at temperature one."""
        self.update(*self.measure(self.batch))

    def update(self, figures, gradients):
        """What follows the gradients: the one host sync, the clip, the optimiser."""
        norm, most = figures.tolist()[2], self.loop.clip_norm
        for tensor, gradient in zip(self.copies, gradients, strict=True):
            tensor.grad = gradient
        if most is not None and norm > most:
            torch.nn.utils.clip_grads_with_norm_(self.copies, most, figures[2], foreach=True)
        self.optimizer.step()
