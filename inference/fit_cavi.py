r"""Coordinate-ascent mean field for models with closed forms; the bound never falls, and the driver says so if it does.

.. math:: \log q_i(z_i) \leftarrow \mathbb{E}_{q_{-i}} \log p(x, z) + \text{const}, \qquad i = 1, 2, \dots

A model takes part by three methods: ``start(*data, seed=)`` returns a first q, a dataclass of tensors;
``coordinate_steps(*data, q=)`` is a generator of one sweep, which yields (block's name, q) after each closed update;
``bound(*data, q=)`` is the exact ELBO of the data set in nats. The bound is computed after *every* block, so that a wrong
update is named where the bound falls. It need not fall: an update may be wrong and climb to a wrong end. What tells is
that the bound has no slope in any number of q at the end (the guide ``Conjugate`` holds them as parameters), and that
the sampled ELBO of that guide agrees with the bound; the tests do both for each model.

Source: Blei, Kucukelbir and McAuliffe (2017), Variational inference: a review for statisticians,
https://arxiv.org/abs/1601.00670; Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields, replace

import torch
from tqdm import trange

_ROUNDING = 1e-10  # relative: sums of many terms in float64


class BoundFellError(ValueError):
    """A coordinate step lowered the bound beyond rounding: a closed form of the model is wrong."""


@dataclass(frozen=True)
class CAVIRecord:
    """A run of CAVI: ``bounds`` in nats for the whole data set, at the start and after each sweep of the run kept.

    ``q`` holds the factors in the data's own precision; ``start_values`` the final bound of each start; ``steps``
    counts the sweeps of the run kept; ``seconds`` is wall time over all starts.
    """

    q: object
    bounds: list[float]
    num_data: int
    steps: int
    converged: bool
    seconds: float
    start_values: list[float]

    @property
    def bound(self):
        """Final ELBO in nats for the data set."""
        return self.bounds[-1]

    @property
    def bound_per_datum(self):
        """Final ELBO in nats per datum."""
        return self.bound / self.num_data


@torch.no_grad()
def fit_cavi(model, *data, steps=5000, tol=1e-9, starts=None, seed=0, progress=False):
    """Fit a factorised posterior to ``data``, tensors or arrays with one row per datum; returns a :class:`CAVIRecord`.

    Computed in float64; the model itself is left as it is. ``starts`` runs, from seeds ``seed``, ``seed`` + 1, ..., of
    which the one with the highest bound is kept; by default as many as the model asks for (``model.starts``), else one.
    A run ends when a sweep gains less than ``tol`` nats per datum, or after ``steps`` sweeps.

    Raises TypeError for a model without the closed forms, ValueError where the bound is not finite or a number makes no
    sense, and :class:`BoundFellError`, naming the block, where the bound falls beyond rounding.
    """
    missing = [name for name in ("start", "coordinate_steps", "bound") if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"model: {type(model).__name__} has no {', '.join(missing)}; CAVI needs start(*data, seed=), "
            "coordinate_steps(*data, q=) and bound(*data, q=): train it with fit and a guide instead."
        )
    starts = getattr(model, "starts", 1) if starts is None else starts
    if not data or min(steps, starts) < 1:
        raise ValueError(f"got {len(data)} data arguments, steps={steps}, starts={starts}; each must be at least 1.")
    dtype = torch.as_tensor(data[0]).dtype
    data = tuple(torch.as_tensor(part).double() for part in data)
    for i, part in enumerate(data):
        if not torch.isfinite(part).all():
            raise ValueError(f"data argument {i} holds values that are not finite; leave out rows with missing values.")
    began = time.perf_counter()
    best, values = None, []
    for i in range(starts):
        run = _climb(model, data, steps, tol * len(data[0]), seed + i, progress)
        values.append(run[1][-1])
        if best is None or values[-1] > best[1][-1]:
            best = run
    q, bounds, converged = best
    q = replace(q, **{f.name: getattr(q, f.name).to(dtype) for f in fields(q) if getattr(q, f.name) is not None})
    seconds = time.perf_counter() - began
    return CAVIRecord(q, bounds, len(data[0]), len(bounds) - 1, converged, seconds, values)


def _climb(model, data, steps, tol, seed, progress):
    """One run from one start: (q, bounds, converged)."""
    q = model.start(*data, seed=seed)
    bounds = [_value(model, data, q, "the start")]
    for step in (bar := trange(1, steps + 1, disable=not progress, desc="CAVI", unit="sweep")):
        value = bounds[-1]
        for block, moved in model.coordinate_steps(*data, q=q):
            before, value = value, _value(model, data, moved, f"block '{block}' of sweep {step}")
            if value - before < -_ROUNDING * (1.0 + abs(value)):
                raise BoundFellError(
                    f"{type(model).__name__}: block '{block}' of sweep {step} lowered the bound from {before:.9g} to "
                    f"{value:.9g} nats, which an exact update cannot: check coordinate_steps and bound against each "
                    "other."
                )
        q = moved
        bounds.append(value)
        bar.set_postfix({"bound": f"{value:.4f}"}, refresh=False)
        if bounds[-1] - bounds[-2] < tol:
            return q, bounds, True
    return q, bounds, False


def _value(model, data, q, where):
    value = float(model.bound(*data, q=q))
    if not math.isfinite(value):
        raise ValueError(
            f"{type(model).__name__}: the bound is {value} at {where}: check the data for missing values and "
            "constant columns."
        )
    return value
