"""Where the time of a training step goes: data, guide, model, bound, backward, optimiser; and what the tape makes of it."""

import functools
import statistics
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count

import torch
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from torch import nn

from .batches import as_batches
from .elbo import ELBO
from .isolation import isolated
from .loop import Loop
from .rehearsal import Rehearsal
from .threads import timed

PARTS = ("data", "guide", "model", "bound", "backward", "optimiser")


@dataclass(frozen=True)
class Profile:
    """Wall time of a step in milliseconds, one core's clock.

    :ivar dict parts: part -> milliseconds under Pyro. ``guide`` is the guide's own code (of a :class:`Guide`, ``encode`` and
        ``posterior``), ``model`` the model's with Pyro's handlers, ``bound`` densities, reduction and checks.
    :ivar float step: milliseconds of the whole step, by a clock of its own.
    :ivar float replay, guard: of the tape, which replaces guide, model, bound and backward: its kernels, and comparing what
        the pair's Python holds with what it was; ``None`` where there is no tape.
    :ivar str path: whether there is a tape, or why not. :ivar int steps: how many steps were measured.
    """

    parts: dict
    step: float
    replay: float | None
    guard: float | None
    path: str
    steps: int

    def table(self):
        """The figures as text."""
        lines = [f"a step under Pyro (middle half of {self.steps} steps)"]
        for name, value in {**self.parts, "step": self.step}.items():
            lines.append(f"  {name:<10}{value:9.3f} ms {100 * value / self.step:6.1f} %")
        if self.replay is None:
            return "\n".join([*lines, f"no tape: {self.path}"])
        eager = sum(self.parts[name] for name in ("guide", "model", "bound", "backward"))
        lines.append(f"by the tape, in place of guide, model, bound and backward ({eager:.3f} ms)")
        for name, value in (("replay", self.replay), ("guard", self.guard)):
            lines.append(f"  {name:<10}{value:9.3f} ms {100 * value / self.step:6.1f} %")
        return "\n".join(lines)


class Clock:
    """Seconds of parts that lie within each other: what an inner part takes is not the outer one's."""

    def __init__(self):
        self.seconds, self.open, self.mark = dict.fromkeys(PARTS, 0.0), [], 0.0

    def _switch(self):
        now = time.perf_counter()
        if self.open:
            self.seconds[self.open[-1]] += now - self.mark
        self.mark = now

    @contextmanager
    def part(self, name):
        """Everything inside belongs to a part."""
        self._switch()
        self.open.append(name)
        try:
            yield
        finally:
            self._switch()
            self.open.pop()

    def around(self, function, name):
        """A function that belongs to a part."""

        @functools.wraps(function)
        def within(*args, **kwargs):
            with self.part(name):
                return function(*args, **kwargs)

        return within


def profile_step(
    model, guide, data, *, objective=None, optimizer=1e-3, batch_size=None, clip_norm=100.0, seed=0, steps=30, tape=True
):
    """Measure a training step of a pair on the CPU and change nothing: a :class:`Profile`.

    :param model, guide, data, objective, optimizer, batch_size, clip_norm, seed, tape: as
        :func:`~pyrarchy.inference.fit` takes them. :param int steps: how many are measured.
    """
    objective = ELBO() if objective is None else objective
    with isolated(model, guide, seed=seed, train=True):
        batches = as_batches(data, batch_size, seed)
        loop = Loop(model, guide, batches, objective, optimizer, None, None, clip_norm, None, seed, tape)
        if any(t.device.type != "cpu" for t in loop.tensors):
            raise ValueError(
                "the pair is on another device, whose work goes on behind Python's clock; bring it to the CPU"
            )
        rows = _eager(loop, steps)
        path, replay, guard = _taped(loop)
    rows = sorted(rows, key=lambda row: row[0])[len(rows) // 4 : -(len(rows) // 4) or None]
    parts = {name: 1e3 * statistics.fmean(seconds[name] for _, seconds in rows) for name in PARTS}
    return Profile(parts, 1e3 * statistics.fmean(total for total, _ in rows), replay, guard, path, steps)


def _eager(loop, steps):
    """(seconds of the step, seconds of its parts) for each step under Pyro on a batch of the first one's shape."""
    rows = []
    with Rehearsal(loop, tape=False) as rehearsal:
        for _ in range(2):  # a new shape is validated
            rehearsal.step()
        shapes, source = _shapes(rehearsal.batch), (b for e in count() for b in loop.batches.epoch(e))
        while len(rows) < steps:
            clock = Clock()
            with timed_pair(clock, loop.model, loop.guide) as pair:
                rehearsal.measure.model, rehearsal.measure.guide = pair
                began = time.perf_counter()
                with clock.part("data"):
                    batch = next(source)
                with clock.part("bound"):
                    figures, gradients = rehearsal.measure(batch)
                with clock.part("optimiser"):
                    rehearsal.update(figures, gradients)
                took = time.perf_counter() - began
            if _shapes(batch) == shapes:
                rows.append((took, clock.seconds))
    return rows


def _taped(loop):
    """(path, milliseconds of a replay, of its guard) of the tape, or (why there is none, ``None``, ``None``)."""
    with Rehearsal(loop, loop.tape) as rehearsal:
        for _ in range(3):  # under Pyro, recorded, checked
            rehearsal.step()
        tape = rehearsal.measure.tape
        if tape.off is not None:
            return tape.off, None, None
        known = tape.recorded(rehearsal.batch, False)
        replay, guard = timed(lambda: known.replay(rehearsal.batch)), timed(known.changed)
    return "tape", 1e3 * statistics.median(replay), 1e3 * statistics.median(guard)


@contextmanager
def timed_pair(clock, model, guide):
    """The pair, and autograd, with their time on a clock; afterwards they are as they were."""
    with ExitStack() as stack:
        model, owner = _timed(stack, clock, model, "model"), poutine.unwrap(guide)
        if isinstance(owner, GuideMessenger):  # it runs the model and is asked at each latent site
            _put(stack, owner.__dict__, "_model", (model,))
            for name in ("encode", "get_posterior"):
                if hasattr(owner, name):
                    _put(stack, owner.__dict__, name, clock.around(getattr(owner, name), "guide"))
        else:
            guide = _timed(stack, clock, guide, "guide")
        for name in ("grad", "backward"):
            _put(stack, vars(torch.autograd), name, clock.around(getattr(torch.autograd, name), "backward"))
        yield model, guide


def _timed(stack, clock, root, name):
    """A callable on the clock: a module's ``forward``, in place, or any other callable wrapped."""
    owner = poutine.unwrap(root)
    if not isinstance(owner, nn.Module):
        return clock.around(root, name)
    _put(stack, owner.__dict__, "forward", clock.around(owner.forward, name))
    return root


def _put(stack, space, name, value):
    before = space.get(name, _put)
    space[name] = value
    stack.callback(space.pop, name) if before is _put else stack.callback(space.__setitem__, name, before)


def _shapes(batch):
    return [getattr(part, "shape", None) for part in batch]
