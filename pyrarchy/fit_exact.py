"""``pyrarchy fit`` of a model with closed forms: exact EM, or its maximum likelihood at once; and its exact log p(x).

Where the pair's row has ``arrays``, one process needs numpy alone: torch is imported by what draws and pictures it.
"""

import math
import time
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_limits

from . import launch
from .atomic import write_atomically
from .checkpoint import AsTensor, save_state
from .faults import DataError
from .fit_plan import blaming


def fit_arrays(fit, train):
    """Fit a :class:`~.fit_command.Fit` by numpy alone; writes and returns what :func:`fit_exact` does."""
    began = time.perf_counter()
    with _as_asked(fit):
        found = fit.arrays.fit(train, seed=fit.config["seed"])
    modules = [{name: AsTensor(value) for name, value in fit.arrays.parameters.items()}, {}]  # the guide's are none
    return _leave(fit, modules, found.trace, found.steps, time.perf_counter() - began, len(found.start_values))


def fit_exact(fit, train):
    """Fit a :class:`~.fit_command.Fit`'s model by EM; writes checkpoint and history, returns the log-likelihoods.

    Several processes read a part of the rows each, and process 0 writes.
    """
    from .inference import fit_em
    from .inference.isolation import root_modules

    with _as_asked(fit):
        record = fit_em(fit.model, train, seed=fit.config["seed"], progress=fit.progress)
    modules = [dict(m.state_dict()) for m in root_modules(fit.model, fit.guide)]
    return _leave(fit, modules, record.log_likelihoods, record.steps, record.seconds, len(record.start_values))


@contextmanager
def _as_asked(fit):
    """On the threads asked for; what is wrong is wrong with the data, because options were checked before."""
    asked = None if fit.config["threads"] == "auto" else fit.config["threads"]
    try:
        with threadpool_limits(asked, user_api="blas"), blaming(fit.data):  # numpy's, which torch does not govern
            yield
    except DataError:
        raise
    except ValueError as error:
        refusal = DataError(f"{fit.data.name}: {error}")
        refusal.said = getattr(error, "said", False)
        raise refusal from error


def _leave(fit, modules, log_likelihoods, steps, seconds, starts):
    """Write checkpoint and history, and say how it went; returns the log-likelihoods as a list."""
    values = [float(value) for value in log_likelihoods]
    if launch.is_first():
        save_state(fit.out / "checkpoint.npz", {"modules": modules, "params": {}})
        lines = [f"{i},{value!r}" for i, value in enumerate(values)]
        write_atomically(fit.out / "history.csv", "\n".join(["step,log_likelihood", *lines, ""]).encode())
    how = f"EM: {steps} E steps" if steps else "closed form"
    fit.say(f"{how} in {seconds:.1f} s from {starts} start(s); training log p(x) = {values[-1]:.4f} nats per datum")
    return values


def exact_by_arrays(arrays, rows):
    """Mean and standard error of the exact log p(x) of ``rows``, by what fitted them: a dictionary for ``result.json``."""
    return _mean_and_error(arrays.log_marginal(rows))


def exact_by_model(model, rows):
    """The exact log p(x) where a model knows it, as :func:`exact_by_arrays`; else ``None``."""
    import torch

    if hasattr(model, "log_evidence"):
        return {"log_p": model.log_evidence(*(part.double() for part in rows)).item(), "log_p_error": math.nan}
    if not hasattr(model, "log_marginal"):
        return None
    with torch.no_grad():
        return _mean_and_error(model.log_marginal(rows).double().numpy())


def _mean_and_error(values):
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"log_p": float(np.mean(values)), "log_p_error": error}
