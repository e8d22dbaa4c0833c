r"""Exact EM for models with closed forms; the log-likelihood never falls, and the driver says so if it does.

.. math::

    \text{E: } q = p_\theta(z \mid x), \qquad
    \text{M: } \theta \leftarrow \arg\max_\theta \mathbb{E}_q \log p_\theta(x, z)

:func:`exact_em` needs ``posterior(x)``, ``log_marginal(x)`` and ``maximize(x, q)`` of a model, and visits every row at
every step. :func:`fit_em` takes a shorter way where the model offers one: ``statistics(x)`` once, then
``maximize_likelihood(statistics)`` at a cost per step that does not grow with the data.

Source: Dempster, Laird and Rubin (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise

import torch
from tqdm import trange

from . import parallel

_ROUNDING = 1e-10  # relative: what float64 can lose where a noise variance is 1e-4 of a column's


class LikelihoodFellError(ValueError):
    """An EM step lowered the log-likelihood beyond rounding: a closed form of the model is wrong."""


@dataclass(frozen=True)
class EMRecord:
    """A run of EM. ``log_likelihoods`` in nats per datum: at the start and after each step of the run that was kept.

    ``start_values`` holds the final value of each start; ``noise_floor`` is the model's, a fraction of a column's
    variance, or None; ``steps`` counts E steps; ``seconds`` is wall time, statistics included.
    """

    log_likelihoods: list[float]
    steps: int
    converged: bool
    seconds: float
    noise_floor: float | None
    start_values: list[float]

    @property
    def log_likelihood(self):
        """Final log p(x) in nats per datum."""
        return self.log_likelihoods[-1]


def fit_em(model, data, *, steps=20_000, tol=1e-9, starts=8, seed=0, progress=False):
    """Fit ``model`` to ``data`` (N, D), array or tensor, in place; returns an :class:`EMRecord`.

    A model with ``statistics`` and ``maximize_likelihood`` is fitted on its sufficient statistics from ``starts``
    starts drawn by ``seed``. Any other goes through :func:`exact_em` from the parameters it has, where ``starts`` and
    ``seed`` have nothing to act on. ``tol`` is the gain, in nats per datum, below which the climb ends; ``steps`` the
    most EM steps of a start. Raises what the model or :func:`exact_em` raises.

    Several processes (:mod:`~pyrarchy.inference.parallel`), each of which calls it with the same data, read a part of the
    rows each where the model can ``pool`` the statistics of parts; the climb is everybody's, and ends on rank 0's numbers.
    """
    if not (hasattr(model, "statistics") and hasattr(model, "maximize_likelihood")):
        return exact_em(model, data, steps=steps, tol=tol, progress=progress)
    began = time.perf_counter()
    with parallel.agreed():
        fit = model.maximize_likelihood(_statistics(model, data), starts=starts, seed=seed, tol=tol, max_iter=steps)
    if parallel.ranks() > 1:
        parallel.spread(model.parameters())
    seconds = time.perf_counter() - began
    trace, start_values = ([float(value) for value in values] for values in (fit.trace, fit.start_values))
    for step, (before, after) in enumerate(pairwise(trace), 1):
        _check_rise(model, step, before, after)
    return EMRecord(trace, fit.steps, fit.converged, seconds, fit.noise_floor, start_values)


def _statistics(model, data):
    """Of all rows, each process having read its part."""
    if parallel.ranks() == 1 or not hasattr(model, "pool") or len(data) < 2 * parallel.ranks():
        return model.statistics(data)
    with parallel.agreed():
        own = model.statistics(parallel.share_of(data))
    return model.pool(parallel.gather(own))


@torch.no_grad()
def exact_em(model, data, *, steps=20_000, tol=1e-9, progress=False):
    """EM on the rows of ``data`` (N, D), array or tensor, from the model's present parameters; an :class:`EMRecord`.

    The model computes in float64 meanwhile and returns to its own precision. Ends when a step gains less than ``tol``
    nats per datum. Raises TypeError for a model without the closed forms, ValueError where the log-likelihood is not
    finite, and :class:`LikelihoodFellError` where it falls beyond rounding.
    """
    missing = [name for name in ("posterior", "log_marginal", "maximize") if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"model: {type(model).__name__} has no {', '.join(missing)}; exact EM needs posterior(x), log_marginal(x) "
            "and maximize(x, q): train it with fit and a guide instead."
        )
    parameter = next(model.parameters())
    dtype = parameter.dtype
    x = torch.as_tensor(data).to(parameter.device, torch.float64)
    began = time.perf_counter()
    model.double()
    try:
        values, converged = [_value(model, x, 0)], False
        for step in (bar := trange(1, steps + 1, disable=not progress, desc="EM", unit="step")):
            model.maximize(x, model.posterior(x))
            values.append(_value(model, x, step))
            bar.set_postfix({"log p(x)": f"{values[-1]:.4f}"}, refresh=False)
            _check_rise(model, step, *values[-2:])
            if values[-1] - values[-2] < tol:
                converged = True
                break
    finally:
        model.to(dtype)
    seconds = time.perf_counter() - began
    return EMRecord(values, len(values) - 1, converged, seconds, getattr(model, "noise_floor", None), values[-1:])


def _check_rise(model, step, before, after):
    if after - before < -_ROUNDING * (1.0 + abs(after)):
        raise LikelihoodFellError(
            f"{type(model).__name__}: EM step {step} lowered the log-likelihood from {before:.9g} to {after:.9g} nats per "
            "datum, which an exact step cannot: check maximize(x, q), posterior(x) and log_marginal(x) against each "
            "other. The model keeps the parameters of that step."
        )


def _value(model, x, step):
    value = float(model.log_marginal(x).mean())
    if not math.isfinite(value):
        raise ValueError(
            f"{type(model).__name__}: the log-likelihood is {value} at EM step {step}: check the data for missing "
            "values and constant columns."
        )
    return value
