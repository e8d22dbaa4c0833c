r"""Annealed importance sampling: log p(x) by chains that walk from the guide, or the prior, to the posterior.

.. math::

    \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \, [\log p(x, z_{t-1}) - \log q(z_{t-1})], \qquad
    z_0 \sim q, \quad z_t \sim \mathcal T_t(\cdot \mid z_{t-1}), \qquad \mathbb E[w] = p(x)

T_t leaves q^(1 - beta_t) p(x, z)^beta_t invariant. E w = p(x) for any T, so the log of the mean weight is a *lower bound*
on log p(x) in expectation; with one temperature it is importance sampling from q. It needs no good guide: that is what it
is for.

The step sizes, one per temperature and datum, are adapted in a pilot run of chains of their own and then held: unlike an
adaptation that goes on while the weights are made, this keeps E w = p(x) strictly.

Source: Neal (2001), https://arxiv.org/abs/physics/9803008; Wu, Burda, Salakhutdinov & Grosse (2017),
https://arxiv.org/abs/1611.04273 (Hamiltonian transitions, the sigmoidal schedule, acceptance .65).

Differs from the paper: it adapts each chain's step to its own history of acceptance; here a pilot run does.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyro
import torch

from .annealed_path import Path
from .arguments import blaming_data
from .evaluate import check_rows_first
from .freeze import frozen
from .isolation import isolated
from .log_weights import effective_number, log_mean
from .mean_weight import MeanWeight
from .preflight import check_rows_known
from .terms import trace_pair
from .transitions import Transition

PILOT_LEVELS, PILOT_STEPS, PILOT_RATE = 15, 4, 0.7
SHARPNESS = 4.0  # of the sigmoid, as Wu et al. have it


@dataclass
class AnnealedEstimate(MeanWeight):
    """log p(x) of N data by annealed chains, in nats (N = 1 when all latents are global: the data set is one datum).

    :ivar log_p: (N,) log of the mean weight: a lower bound on log p(x) in expectation.
    :ivar log_w: (K, N) the chains' log weights.
    :ivar accept: (N,) mean acceptance probability of the Hamiltonian steps; one where there were none.
    :ivar step_size: (T - 1, N) leapfrog steps, from the pilot run.
    :ivar int num_temperatures: T.
    """

    log_p: np.ndarray
    log_w: np.ndarray
    accept: np.ndarray
    step_size: np.ndarray
    num_temperatures: int
    label: str = "lower bound in expectation, annealed importance sampling"

    @property
    def ess(self):
        """Effective number of the K chains, (N,)."""
        return effective_number(self.log_w)

    @property
    def num_weights(self):
        """K, the chains of each datum."""
        return len(self.log_w)

    def table(self):
        """The figures as text."""
        error = f" +- {self.error_log_p:.2f}" if len(self.log_p) > 1 else ""
        return "\n".join(
            [
                f"log p(x) >= {self.mean_log_p:.2f}{error} nats per datum ({self.label})",
                f"weights     error {self.error_weights:.2g} nats, of the chains drawn",
                f"chains      {len(self.log_w)}, median {np.median(self.ess):.1f} effective; "
                f"{self.num_temperatures} temperatures, acceptance {self.accept.mean():.2f}",
            ]
        )


def sigmoid_schedule(num_temperatures):
    """T + 1 inverse temperatures from 0 to 1, close together at both ends.

    >>> sigmoid_schedule(4).round(3)
    array([0.   , 0.105, 0.5  , 0.895, 1.   ])
    """
    values = 1 / (1 + np.exp(-SHARPNESS * np.linspace(-1, 1, num_temperatures + 1)))
    return (values - values[0]) / (values[-1] - values[0])


def ais(
    model,
    guide,
    *args,
    num_chains=16,
    num_temperatures=200,
    leapfrog_steps=10,
    transitions=1,
    target_accept=0.65,
    rows_per_pass=2000,
    plates=1,
    seed=0,
    **kwargs,
):
    """Estimate log p(x) of every datum by annealed importance sampling.

    Continuous latents of all sites move jointly by Hamiltonian steps on unconstrained coordinates; bits by Gibbs sweeps.
    Parameters, generators, parameter store and modes are left as they were.

    :param guide: where the chains start; ``None`` for the prior, the better choice where the guide's own k-hat is above .7:
        weights then have a heavy tail and few chains report too small an error.
    :param args: the model's arguments, and ``kwargs``. With local latents the data are the first axis of every ``arg``.
    :param int num_chains: K, independent chains per datum.
    :param int num_temperatures: T; one is plain importance sampling.
    :param int leapfrog_steps: leapfrog steps of a transition. ``transitions``: transitions per temperature; zero
        leaves importance sampling, too, whatever T.
    :param float target_accept: acceptance that the pilot run adapts the step sizes to.
    :param int rows_per_pass: chains x data per pass: bounds the memory.
    :param int plates: nested plates of the model.
    :returns: :class:`AnnealedEstimate`.
    :raises ValueError: for what cannot be annealed (see :class:`~pyrarchy.inference.annealed_path.Path`), by site.

    >>> import pyrarchy.zoo, torch
    >>> model = pyrarchy.zoo.PPCA(4, 2)
    >>> found = ais(model, None, torch.zeros(3, 4), num_chains=5, num_temperatures=10)
    >>> found.log_p.shape, found.log_w.shape, found.step_size.shape
    ((3,), (5, 3), (9, 3))
    """
    annealer = Annealer(num_chains, num_temperatures, Transition(leapfrog_steps, transitions), target_accept, plates)
    with isolated(model, guide, seed=seed), frozen(model, guide), blaming_data(args, model, guide):
        parts = []
        for rows in chunks(model, guide, args, kwargs, max(1, rows_per_pass // num_chains), plates):
            with pyro.validation_enabled(False):
                path = annealer.path(model, guide, rows, kwargs)
                steps = annealer.pilot(path)
                parts.append((*annealer.forward(path, path.start(), steps), steps))
    log_w, accept, steps = (torch.cat(column, -1).double().cpu().numpy() for column in zip(*parts, strict=True))
    return AnnealedEstimate(log_mean(log_w), log_w, accept, steps, num_temperatures)


class Annealer:
    """How chains are annealed: their number, schedule, transitions, and how a pilot run chooses the step sizes."""

    def __init__(self, num_chains, num_temperatures, transition, target_accept, plates):
        counts = {"num_chains": num_chains, "num_temperatures": num_temperatures}
        for name, value in {**counts, "leapfrog_steps": transition.leapfrog_steps}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not isinstance(transition.repeats, int) or transition.repeats < 0:
            raise ValueError(f"transitions must be a whole number of at least 0, not {transition.repeats!r}")
        if not 0 < target_accept < 1:
            raise ValueError(f"target_accept must lie in (0, 1), not {target_accept!r}")
        self.num_chains, self.transition, self.target, self.plates = num_chains, transition, target_accept, plates
        self.betas = sigmoid_schedule(num_temperatures).tolist()

    def path(self, model, guide, args, kwargs):
        """The path of a pair for these chains."""
        return Path(model, guide, args, kwargs, self.num_chains, self.plates)

    def pilot(self, path):
        """Step sizes (T - 1, B): chains of their own walk a coarse ladder while their steps adapt."""
        inner = len(self.betas) - 2
        log_step = path.new_full(math.log(0.1))
        if inner < 1 or not path.continuous or not self.transition.repeats:
            return log_step.exp().expand(inner, -1)
        point, once = path.start(), Transition(self.transition.leapfrog_steps)
        levels = np.unique(np.linspace(1, inner, min(inner, PILOT_LEVELS)).round().astype(int))
        found = []
        for i, level in enumerate(levels):
            steps = []
            for _ in range(PILOT_STEPS * (1 if i else 4)):
                point, accept = once(path, point, self.betas[level], log_step.exp())
                log_step = log_step + PILOT_RATE * (accept.mean(0) - self.target)
                steps.append(log_step)
            found.append(torch.stack(steps[-PILOT_STEPS:]).mean(0))
        return _interpolate(np.arange(1, inner + 1), levels, torch.stack(found)).exp()

    def forward(self, path, point, step_sizes):
        """Log weights (K, B) of chains from the start, and their mean acceptance (B,)."""
        return self._walk(path, point, step_sizes, range(len(self.betas) - 1), reverse=False)

    def backward(self, path, point, step_sizes):
        """The same of chains from exact draws of the posterior back to the start: E[1 / w] = 1 / p(x)."""
        return self._walk(path, point, step_sizes, range(len(self.betas) - 2, -1, -1), reverse=True)

    def _walk(self, path, point, step_sizes, order, reverse):
        log_w = torch.zeros_like(point.log_w, dtype=torch.float64)
        accept = []
        for i, t in enumerate(order):
            if i:  # between the t-th difference and the one before lies the density that both share
                level = t + 1 if reverse else t
                point, probability = self.transition(path, point, self.betas[level], step_sizes[level - 1], reverse)
                accept.append(probability.mean(0))
            log_w += (self.betas[t + 1] - self.betas[t]) * point.log_w.double()
        return log_w, torch.stack(accept).mean(0) if accept else torch.ones_like(log_w[0])


def _interpolate(at, levels, values):
    """Values (L, B) at increasing ``levels``, linearly to ``at``: (T, B)."""
    right = np.clip(np.searchsorted(levels, at), 1, max(1, len(levels) - 1))
    if len(levels) == 1:
        return values.expand(len(at), -1)
    share = torch.as_tensor((at - levels[right - 1]) / (levels[right] - levels[right - 1])).to(values)[:, None]
    return (1 - share) * values[right - 1] + share * values[right]


def chunks(model, guide, args, kwargs, rows, plates):
    """The arguments in parts of so many data; all of them where the latents are global."""
    with torch.no_grad():
        first = Path(model, guide, args, kwargs, 1, plates)
        if guide is not None:
            check_rows_known(guide, trace_pair(model, guide, args, kwargs, plates=plates)[0].nodes)
    if first.layout.data_dim is None or first.layout.batch <= rows:
        return [args]
    check_rows_first(first, args)
    return [tuple(a[i : i + rows] for a in args) for i in range(0, first.layout.batch, rows)]
