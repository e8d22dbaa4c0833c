"""How many threads a training runs on: one, or all that torch has, whichever takes its steps faster now.

Threads wait for each other after every kernel, so where another process needs a core, too, all of them may be many times
slower than one. Their number decides the order of sums and with it the bits of a training: it is settled before the first
step, by steps that leave no trace, and is in the checkpoint, so that a resumed run has it again.
"""

import os
import statistics
import time
from contextlib import contextmanager

import torch

from . import parallel
from .python_state import PythonState
from .rehearsal import Rehearsal

SHORT = 10.0  # seconds at the pace of the first pass, which is slow; a shorter training would feel the timing
BLOCKS, STEPS = 3, 5  # of all threads, each with one of a single thread before and behind: others' work comes in bursts
PATIENCE = 4  # times what one thread took: so much slower, the steps of all are not waited for
MOST_THREADS = max(256, os.cpu_count() or 1)  # more than that has ended the process
GAIN = 0.9  # all threads must take at most this share of the time: cores are taken from somebody


@contextmanager
def threads_kept():
    """Afterwards torch has as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        set_threads(before)


def settle_threads(asked, loop, total, most):
    """Set torch's number of threads for a training, and note it with the reason in the training's record.

    :param asked: a number, ``"auto"``, or ``None`` to leave torch's own. A resumed run keeps what its checkpoint says.
    :param loop: the training, restored where there was something to resume. :param int total: its steps.
    :param int most: all threads.
    """
    record = loop.record
    if asked is None:
        record.threads = None
        return
    if asked != "auto":
        record.threads, record.threads_why = asked, "as asked"
    elif record.threads is not None:
        record.threads_why = "as before"
    else:
        record.threads, record.threads_why = choose_threads(loop, total, most)
    set_threads(record.threads)


def choose_threads(loop, total, most):
    """One thread or all, and why: ``(number, words)``."""
    if most == 1:
        return 1, "there is no other"
    if parallel.ranks() > 1:  # each would time the others' waiting
        return 1, "several processes"
    if os.environ.get("OMP_NUM_THREADS"):
        return most, "by OMP_NUM_THREADS"
    if any(t.device.type != "cpu" for t in loop.tensors):
        return most, "not timed: trained on another device"
    set_threads(1)
    with threads_kept(), Rehearsal(loop, loop.tape) as rehearsal:
        state = PythonState(loop.model, loop.guide)
        first = seconds_of(rehearsal.step)
        if state.changed() is not None:
            return 1, "not timed: a pass changes the pair"
        if first * (total - loop.record.step) < SHORT:
            return 1, "not timed: a short run"
        one, several = time_steps(rehearsal.step, most)
    number = most if several < GAIN * one else 1
    return number, f"a step took {1e3 * one:.3g} ms on 1, {1e3 * several:.3g} ms on {most}"


def set_threads(number):
    """Give torch a number of threads."""
    if torch.get_num_threads() != number:  # or it would start them anew
        torch.set_num_threads(number)


def time_steps(step, most):
    """Median seconds of a step on one thread and on ``most``."""
    for _ in range(2):  # recorded, checked
        step()
    one, several = timed(step), []
    patience = PATIENCE * sum(one)
    for _ in range(BLOCKS):
        set_threads(most)
        block = timed(step, patience)
        set_threads(1)
        one, several = one + timed(step), several + block
        if len(block) < STEPS:
            break
    return statistics.median(one), statistics.median(several)


def timed(step, most=float("inf")):
    """Seconds of each of some steps, of fewer where they take longer than ``most``; the first starts threads."""
    took = []
    while len(took) <= STEPS and sum(took) < most:
        took.append(seconds_of(step))
    return took[1:] or took


def seconds_of(step):
    """Wall time of a step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
