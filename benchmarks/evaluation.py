r"""Held-out L_K of a VAE 784-200-200-50: our ``evaluate`` against the loop one writes by hand in PyTorch.

.. math:: L_K = \log \tfrac1K \sum_k p(x | z_k) p(z_k) / q(z_k | x)

Both take 50 data at a time, 20 draws a pass, from the same weights. The loop by hand encodes once per 50 data and returns
L_K alone; ours returns k-hat, effective number, rates and active units as well. Extra memory is the highest resident set
during a process's first call less the one before it; the median of ``PROCESSES`` processes.
"""

import itertools
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from time import process_time

import torch
import torch.nn.functional as F

from pyrarchy.inference import evaluate

from .by_hand import FLOOR
from .interleave import Variant, interleave
from .machine import one_thread
from .svi_steps import Setting, make_hand

OURS, HAND = "Pyrarchy evaluate", "PyTorch by hand"
SETTING = Setting("Held-out L_5000 of 50 images", 50, 5000)
AT_ONCE = 20
DRAWS, PROCESSES = (500, 5000), 3  # for the memory
ROOT = Path(__file__).resolve().parent.parent


@torch.no_grad()
def hand_log_p(module, x, num_samples, at_once=AT_ONCE):
    """L_K of each row of ``x`` (B, x_dim), (B,) nats, in passes of ``at_once`` draws."""
    h = module.encoder(x - module.x_mean)
    loc, scale = module.loc(h), F.softplus(module.raw_scale(h)) + FLOOR
    log_scale, log_w = scale.log().sum(-1), []
    for start in range(0, num_samples, at_once):
        eps = torch.randn(min(at_once, num_samples - start), *loc.shape)
        z = loc + scale * eps
        logits = module.decoder(z)
        log_lik = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_w.append(log_lik + 0.5 * (eps.square() - z.square()).sum(-1) + log_scale)
    return torch.cat(log_w).double().logsumexp(0) - math.log(num_samples)


def variants(setting=SETTING):
    """By hand (the reference) and ours, each on the next batch of the same data."""
    model, guide, module, feed = make_hand(setting)
    first, second = itertools.tee(feed)
    k = setting.num_particles
    return [
        Variant(HAND, lambda: hand_log_p(module, next(first), k)),
        Variant(OURS, lambda: evaluate(model, guide, next(second), num_samples=k)),
    ]


def resident(what):
    """``VmRSS`` or ``VmHWM`` (the highest since it was last reset) of this process in MB; ``None`` where not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{what}:")]
    return int(found[0]) / 1024 if found else None


def extra_memory(call):
    """MB by which the resident set rises at most while ``call()`` runs; ``None`` where the system does not tell."""
    before = resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # lets the highest start from the present
    except OSError:
        return None
    call()
    highest = resident("VmHWM")
    return None if highest is None else highest - before


def memory(num_samples, setting=SETTING):
    """Extra MB of one evaluation with so many draws, in this process."""
    one_thread()
    model, guide, _, feed = make_hand(setting)
    x = next(feed)
    return extra_memory(lambda: evaluate(model, guide, x, num_samples=num_samples))


def memory_apart(num_samples):
    """The same in new processes."""
    code = f"import json; from benchmarks.evaluation import memory; print(json.dumps(memory({num_samples})))"
    found = []
    for _ in range(PROCESSES):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return None if None in found else statistics.median(found)


def measure(name, rounds):
    """Time, in a fifth of the rounds (at least 3), and memory."""
    one_thread()
    rounds = max(3, rounds // 5) if rounds >= 3 else rounds
    timings = interleave(variants(), rounds, slice_seconds=0.0, warm_up=1, clock=process_time)
    return {
        "title": SETTING.title,
        "timings": [t.as_dict() for t in timings],
        "megabytes": {f"K = {k}": memory_apart(k) for k in DRAWS},
    }
