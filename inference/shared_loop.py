"""The training loop of one process among several: the same steps on every rank, each measured on a part of the rows.

Ranks of batch size B are one process of batch size ranks * B: the order of the data, a function of seed and epoch, is cut
into steps of ranks * B rows, every rank takes its part, and loss, value and gradients are averaged with the number of
their rows. A mean over particles or an importance weight stays within its datum, whose particles are all on one rank.
The noise of each rank is its own. Rank 0 alone writes; the checkpoint holds every rank's generators.

Latents outside plate ``data`` are drawn by each rank for itself, and data that are not cut into minibatches are seen whole
by each: the gradient is then a mean over more draws. Batches from an iterable are the rank's own affair.
"""

import torch

from . import parallel
from .batch_statistics import batch_normalisers
from .batches import Batches, is_empty
from .isolation import rng_state, root_modules
from .loop import Loop
from .measure import total_norm


def share_batches(batches):
    """The part of this rank, where there are several and the batches can be cut."""
    if parallel.ranks() == 1 or not isinstance(batches, Batches) or batches.parts > 1:
        return batches
    return batches.shared(parallel.rank(), parallel.ranks())


class SharedMeasure:
    """Figures and gradients of a step, averaged over the ranks by their rows."""

    def __init__(self, measure, cut):
        self.measure, self.tape, self.cut = measure, measure.tape, cut
        self.wish = self.agreed = (
            False  # to end the training: this rank's wish, and whether any rank had it a step before
        )

    def __call__(self, batch, tempered=False):
        tensors = self.measure.tensors
        if self.cut and is_empty(batch):
            weight, figures, gradients = 0, tensors[0].new_zeros(2), [None] * len(tensors)
        else:
            figures, gradients = self.measure(batch, tempered)
            weight, figures = self.measure.weight(batch), figures[:2]
        figures, gradients, self.agreed = parallel.mean_over_ranks(weight, figures, gradients, tensors, self.wish)
        norm = total_norm(gradients)
        return torch.cat([figures, norm.to(figures).reshape(1)]), gradients


class SharedLoop(Loop):
    """:class:`Loop` on one rank; every rank makes one of the same arguments."""

    def __init__(self, *args):
        with parallel.agreed():
            super().__init__(*args)
        # what is made at the first pass may be drawn, from each rank's own noise
        parallel.spread([*self.tensors, *self._buffers().values()])
        self.measure = SharedMeasure(self.measure, isinstance(self.batches, Batches) and self.batches.parts > 1)
        if number := len(batch_normalisers(self.model, self.guide)):
            self.record.remarks.append(
                f"{number} batch normalisation(s) took mean and variance of each process's own rows, so this was not the "
                f"training of one process with {parallel.ranks()} times the batch size."
            )

    def _buffers(self):
        named = [item for root in root_modules(self.model, self.guide) for item in root.named_buffers()]
        return {f"{number} {name}": buffer for number, (name, buffer) in enumerate(named)}

    def run(self, total, callbacks, save_every, progress):
        """Take steps until ``total``, as every rank does."""
        totals = parallel.gather(total)
        if len({*totals}) > 1:
            raise ValueError(f"the processes would take {totals} steps; give each the same number (steps=...)")
        super().run(total, callbacks, save_every, progress and parallel.rank() == 0)

    def _stops(self, wish):
        """Any rank's wish ends all, a step later: it travels with the next step's gradients."""
        self.measure.wish = self.measure.wish or wish
        return self.measure.agreed

    def state(self):
        """Everything that decides the numbers to come, on every rank; every rank must ask."""
        own = {"rng": rng_state(), "epoch_rng": self.epoch_rng, "buffers": self._buffers()}
        held = parallel.gather({**own, "buffers": {n: b.detach().cpu() for n, b in own["buffers"].items()}})
        first = held[0]["buffers"]
        for other in held:  # most buffers never change: what is rank 0's is in its modules
            differ = {n: b for n, b in other["buffers"].items() if not torch.equal(b, first[n])}
            other["buffers"] = differ
        return {**super().state(), "ranks": held}

    def _write(self, state):
        if parallel.rank() == 0:
            super()._write(state)

    def begun(self):
        """Whether rank 0 sees a checkpoint to continue from."""
        return parallel.of_first(self._holds_checkpoint)

    def _read(self):
        """The checkpoint that rank 0 reads, with this rank's generators in the place of rank 0's."""
        state, path, remark = parallel.of_first(super()._read)
        if isinstance(state, dict) and len(state.get("ranks", ())) == parallel.ranks():
            own = state["ranks"][parallel.rank()]
            state = {**state, "rng": own["rng"], "epoch_rng": own["epoch_rng"]}
        return state, path, remark

    def restore(self):
        """Continue from the checkpoint, each rank from its own place in its noise."""
        state = super().restore()
        buffers = self._buffers()
        for name, value in state["ranks"][parallel.rank()]["buffers"].items():
            buffers[name].copy_(value)
