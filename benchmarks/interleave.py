"""Time several variants of one thing side by side: short slices, interleaved in shuffled order, in one process.

A shared machine changes speed by tens of percent within seconds, so two timings taken one after the other cannot be
compared. Here every round runs a slice of every variant, and only ratios *within* a round are used.
"""

import random
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass

SLICE_SECONDS = 0.06  # of the reference: short enough that the machine's speed does not change within a round


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    :ivar str name: as in the table.
    :ivar step: the work, done once per call.
    :ivar around: makes the context manager in which a slice runs; entering it is not timed.
    :ivar int steps: how many of the reference's steps one call takes (a compiled loop cannot be stopped after one).
    """

    name: str
    step: Callable[[], object]
    around: Callable = nullcontext
    steps: int = 1


@dataclass(frozen=True)
class Timing:
    """Time of one variant, and its ratio to the reference's time in the same round.

    :ivar float millis: median milliseconds of a call.
    :ivar float ratio: median over rounds of time over the reference's time; ``low`` and ``high`` are its quartiles.
    :ivar tuple seconds: of a step, round by round.
    """

    name: str
    millis: float
    ratio: float
    low: float
    high: float
    seconds: tuple = ()

    def as_dict(self):
        """The fields, for JSON."""
        return {**asdict(self), "seconds": list(self.seconds)}


def interleave(variants, rounds=40, *, slice_seconds=SLICE_SECONDS, warm_up=3, seed=0, clock=time.perf_counter):
    """Time variants against the first of them.

    :param variants: a sequence of :class:`Variant`; the first is the reference.
    :param int rounds: how many slices of each.
    :param float slice_seconds: target length of the reference's slice; every variant takes as many steps in a slice.
    :param int warm_up: untimed steps of each variant before the first round (compilation, allocation).
    :param int seed: of the order within the rounds.
    :returns: list of :class:`Timing` in the order of the variants.
    :raises ValueError: for fewer than one round or two variants of one name.
    """
    variants = list(variants)
    names = [v.name for v in variants]
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"variants need distinct names, at least one, not {names}")
    for variant in variants:
        with variant.around():
            for _ in range(-(-warm_up // variant.steps)):
                variant.step()
    reference = variants[0]
    one = _slice(reference, 1, clock)
    calls = max(1, round(slice_seconds / max(one, 1e-9)))
    order, seconds = random.Random(seed), {name: [] for name in names}
    for _ in range(rounds):
        for variant in order.sample(variants, len(variants)):
            often = max(1, round(calls / variant.steps))
            seconds[variant.name].append(_slice(variant, often, clock) / (often * variant.steps))
    return [summarise(name, seconds[name], seconds[reference.name]) for name in names]


def summarise(name, seconds, reference):
    """Seconds of one variant and of the reference, round by round, as a :class:`Timing`."""
    ratios = [a / b for a, b in zip(seconds, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Timing(name, 1e3 * statistics.median(seconds), middle, low, high, tuple(seconds))


def ratio(timings, one, other):
    """Median over rounds of one variant's time over another's: dictionaries of :meth:`Timing.as_dict`, two names."""
    seconds = {t["name"]: t["seconds"] for t in timings}
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def _slice(variant, calls, clock):
    with variant.around():
        start = clock()
        for _ in range(calls):
            variant.step()
        return clock() - start
