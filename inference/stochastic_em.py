r"""Stochastic EM: a running average of expected sufficient statistics, and an M step after every minibatch.

.. math::

    \text{E: } s \leftarrow (1 - \rho_t)\, s + \rho_t\, \frac1{|B|} \sum_{i \in B}
    \mathbb{E}_{p_\theta(z \mid x_i)} S(x_i, z), \qquad
    \text{M: } \theta \leftarrow \arg\max_\theta\ \langle s, \eta(\theta) \rangle - A(\theta)

for models whose log p(x, z) is linear in statistics S(x, z). It is a stochastic gradient ascent on log p(x) in which
the M step does the preconditioning; with all rows in a batch and rate one it is exact EM.

Source: Cappe and Moulines (2009), On-line expectation-maximization algorithm for latent data models,
https://arxiv.org/abs/0712.4273.
Differs from the paper: minibatches drawn without replacement from a finite data set, not a stream of single rows. The
first batch is taken whole, whatever its rate, because there is nothing yet to average it with.
"""

from __future__ import annotations

import math
import time

import torch
from tqdm import trange

from .batches import Batches
from .fit_em import EMRecord


def decaying_rate(t):
    """The default rate of batch ``t`` = 0, 1, ...: (t + 2)^-0.6; an exponent in (0.5, 1] is what convergence asks."""
    return (t + 2) ** -0.6


@torch.no_grad()
def stochastic_em(model, data, *, batch_size, epochs, rate=decaying_rate, delay=0, seed=0, progress=False):
    """Stochastic EM on the rows of ``data`` (N, D), array or tensor, from the model's present parameters.

    :param model: has ``log_marginal(x)`` (B,), ``expected_statistics(x)``, a dictionary of tensors that are means over
        the rows, and ``maximize_statistics(statistics)``, the M step.
    :param int batch_size: rows per step, of an order drawn anew by ``seed`` every epoch. The last batch of an epoch may
        be smaller and counts as much as any other.
    :param int epochs: passes over the data.
    :param rate: function from the number of the batch (0 for the first) to its weight in (0, 1].
    :param int delay: batches at the start that are only averaged; raise it where a column may be constant in one batch.
    :returns: :class:`~pyrarchy.inference.EMRecord` with log p(x), in nats per datum of the whole data, at the start and
        after each *epoch*; ``steps`` counts batches. ``converged`` is False: there is no test of it. No rise is checked,
        because a step on a minibatch may fall.
    :raises TypeError: for a model without the closed forms.
    :raises ValueError: for a rate outside (0, 1], data that are not (N, D), or a log-likelihood that is not finite.

    The model computes in float64 meanwhile and returns to its own precision; of the data one batch at a time is float64.
    """
    missing = [n for n in ("log_marginal", "expected_statistics", "maximize_statistics") if not hasattr(model, n)]
    if missing:
        raise TypeError(
            f"model: {type(model).__name__} has no {', '.join(missing)}; stochastic EM needs log_marginal(x), "
            "expected_statistics(x) and maximize_statistics(statistics): train it with fit and a guide instead."
        )
    if min(epochs, batch_size) < 1 or delay < 0:
        raise ValueError(
            f"got batch_size={batch_size}, epochs={epochs}, delay={delay}; at least 1, 1 and 0 are needed."
        )
    parameter = next(model.parameters())
    dtype = parameter.dtype
    rows = torch.as_tensor(data)
    if rows.ndim != 2:
        raise ValueError(
            f"data: shape {tuple(rows.shape)} given; a matrix (rows, columns) is needed: reshape it first."
        )
    batches = Batches(rows, batch_size, seed=seed, transform=lambda x: x.to(parameter.device, torch.float64))
    began = time.perf_counter()
    model.double()
    try:
        values, statistics, step = [_log_likelihood(model, batches, 0)], None, 0
        for epoch in (bar := trange(epochs, disable=not progress, desc="stochastic EM", unit="epoch")):
            for (x,) in batches.epoch(epoch):
                weight = _checked(rate(step), step)
                fresh = model.expected_statistics(x)
                # lerp gives either end exactly: at rate one nothing is left of the past
                statistics = fresh if step == 0 else {n: s.lerp(fresh[n], weight) for n, s in statistics.items()}
                step += 1
                if step > delay:
                    model.maximize_statistics(statistics)
            values.append(_log_likelihood(model, batches, epoch + 1))
            bar.set_postfix({"log p(x)": f"{values[-1]:.4f}"}, refresh=False)
    finally:
        model.to(dtype)
    seconds = time.perf_counter() - began
    return EMRecord(values, step, False, seconds, getattr(model, "noise_floor", None), values[-1:])


def _checked(weight, step):
    weight = float(weight)
    if not 0.0 < weight <= 1.0:
        raise ValueError(f"rate({step}) is {weight}; the weight of a batch lies in (0, 1]: try (t + 2) ** -0.6.")
    return weight


def _log_likelihood(model, batches, epoch):
    """Mean log p(x) over all rows, a batch at a time."""
    total = sum(float(model.log_marginal(x).sum()) for (x,) in batches.epoch(0))
    value = total / batches.num_rows
    if not math.isfinite(value):
        raise ValueError(
            f"{type(model).__name__}: the log-likelihood is {value} after {epoch} epoch(s): check the data for missing "
            "values and constant columns."
        )
    return value
