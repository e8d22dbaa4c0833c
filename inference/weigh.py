"""Importance weights of some data, drawn in passes, and sums over the draws that say what each layer holds.

A pass is recorded and replayed like a training step (:mod:`~pyrarchy.inference.tape`), which gives the same numbers.
"""

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import is_validation_enabled

from .isolation import root_modules
from .log_weights import effective_number, log_mean
from .one_site import innermost
from .psis import pareto_k
from .rates import rate_sums
from .tape import Tape
from .terms import make_terms, trace_pair

FEW = 30  # passes that are not worth a recording
_HAVE_MEANS = (dist.Normal, dist.MultivariateNormal, dist.Laplace, dist.LogNormal, dist.Gamma, dist.Beta, dist.Delta)


class Weigher:
    """The weights of a pair on one part of the data after another.

    :param model, guide: the pair. :param int plates: nested plates of the model.
    :param int passes: how many will be made in all; a few are not recorded.
    :param bool tape: whether any may be recorded.
    """

    def __init__(self, model, guide, plates=1, passes=1, tape=True):
        self.model, self.guide, self.plates = model, guide, plates
        self.draws, self.first, self.keys = 0, True, {}
        tensors = [t for root in root_modules(model, guide) for t in root.parameters()]
        off = None if tape else "tape=False"
        if passes <= FEW:
            off = off or "few passes"
        elif any(t.device.type != "cpu" for t in tensors):
            off = off or "a recording replays on the CPU only"
        self.tape = Tape(self.compute, tensors, model, guide, tuple(_PYRO_STACK), off, staged=True)

    def __call__(self, args, num_samples, at_once):
        """All K samples of ``args``, ``at_once`` a pass: a dictionary of each datum's figures and of means over the data.

        ``log_p``, ``elbo``, ``k_hat``, ``ess``: (B,). Site by site: ``rates``; ``units``, (units,); ``means``, the mean of
        the draws (or of their conditional means), and ``noise``, its Monte Carlo variance, (B, units) both.
        """
        log_w, sums, counts, done = None, {}, {}, 0
        while done < num_samples:
            self.draws = min(at_once, num_samples - done)
            self.first = not done  # the only one under Pyro's validation, and the only one that draws from a joint q
            with pyro.validation_enabled(is_validation_enabled() and self.first):
                weights, found = self.compute(args) if self.first else self.tape(args, self.draws)
            if log_w is None:  # one piece of memory: many small ones among those of the passes would scatter the heap
                log_w = np.empty((num_samples, weights.shape[-1]))
            log_w[done : done + self.draws] = weights.cpu()
            for key, value in zip(self.keys[self.draws, self.first], found, strict=True):
                sums[key] = sums.get(key, 0.0) + value.cpu().numpy()
                counts[key] = counts.get(key, 0) + self.draws
            done += self.draws
        of = {
            kind: {n: sums[k, n] / counts[k, n] for k, n in sums if k == kind} for kind in ("rate", "unit", "z", "zz")
        }
        return {
            "log_p": log_mean(log_w),
            "elbo": log_w.mean(0),
            "k_hat": pareto_k(log_w),
            "ess": effective_number(log_w),
            "rates": {name: float(rate) for name, rate in of["rate"].items()},
            "units": of["unit"],
            "means": of["z"],
            "noise": {n: np.maximum(of["zz"][n] - m**2, 0.0) / max(num_samples - 1, 1) for n, m in of["z"].items()},
        }

    def compute(self, args):
        """``(log_w, sums)`` of one pass: (draws, B), and double tensors, sums over the draws, in the order of ``keys``."""
        k = self.draws
        traces = trace_pair(self.model, self.guide, args, num_particles=k, plates=self.plates)
        terms = make_terms(*traces, num_particles=k, plates=self.plates)
        found = {}
        if set(terms.log_p) == set(terms.log_q):
            for name in terms.log_p:
                found["rate", name] = (terms.log_q[name] - terms.log_p[name]).double().sum(0).mean()
            found.update({("unit", name): rate for name, rate in rate_sums(terms, joint=self.first).items()})
        if terms.layout.data_dim is not None:
            for name, z in terms.values.items():
                z = conditional_mean(terms.q[name], z) if name in terms.q else z
                draws, times = z if k > 1 else z.unsqueeze(0), 1
                if draws.stride(0) == 0:  # a mean that all draws share
                    draws, times = draws[:1], k
                draws = draws.double().reshape(len(draws), terms.layout.batch, -1)
                found["z", name] = times * draws.sum(0)
                found["zz", name] = times * draws.square().sum(0)
        self.keys[k, self.first] = list(found)
        return terms.log_w, list(found.values())


def conditional_mean(distribution, value):
    """The mean of a distribution where it knows one, shaped as the value; else the value: less noise, same expectation."""
    try:
        mean = distribution.mean
    except NotImplementedError:
        return value
    if not value.is_floating_point():
        return value
    mean = mean.expand(value.shape)
    if isinstance(innermost(distribution), _HAVE_MEANS):
        return mean
    return torch.where(torch.isfinite(mean), mean, value)  # no branch: a recording would end at it
