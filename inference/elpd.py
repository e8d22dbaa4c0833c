r"""Expected log predictive densities that ArviZ ranks: of leave-one-out from any weighted draws, and of held-out data.

.. math:: \widehat{\mathrm{elpd}}_i = \log \sum_s \tilde w_{si}\, p(y_i \mid z_s), \qquad
          \tilde w_{si} \propto \mathrm{PSIS}\Big(\frac{p(y, z_s)}{q(z_s)\, p(y_i \mid z_s)}\Big)

Numpy only. Draws of the posterior itself have p(y, z) / q(z) constant: then this is plain PSIS-LOO.

Source: Magnusson, Andersen, Jonasson, Vehtari (2019), Bayesian leave-one-out cross-validation for large data,
https://arxiv.org/abs/1904.10679.
"""

import numpy as np

from .groups import elpd_object
from .psis import USABLE, psis


def elpd_from_draws(log_weight, log_likelihood, *, k_hat=None, dims=None, coords=None):
    """Leave-one-out log predictive densities from draws of a guide, corrected for not being of the posterior.

    :param log_weight: (S,) log p(y, z) - log q(z) of the draws, in nats.
    :param log_likelihood: (S, ...) log p(y_i | z) of each datum.
    :param float k_hat: k-hat of ``log_weight``, from several seeds where there are; computed here by default.
    :param dims, coords: names and labels of the axes of the data.
    :returns: ArviZ's ``ELPDData``. Its warning is set where k_hat, or any datum's own, is not below .7.
    :raises ValueError: for shapes that do not fit.

    >>> import numpy as np
    >>> mu = np.random.default_rng(0).normal(0.0, 1.0, 4000)  # q = N(0, 1) is the prior, and y = (0, 0)
    >>> log_lik = np.stack([-0.5 * mu**2, -0.5 * mu**2], 1) - 0.5 * np.log(2 * np.pi)
    >>> found = elpd_from_draws(log_lik.sum(1), log_lik)
    >>> bool(abs(found["elpd"] + np.log(2 * np.pi * 1.5)) < 0.02)  # y_1 given y_2 is N(0, 3/2)
    True
    """
    import xarray

    log_weight = np.asarray(log_weight, float)
    log_likelihood = np.asarray(log_likelihood, float)
    if log_weight.ndim != 1 or log_likelihood.ndim < 2 or len(log_likelihood) != len(log_weight):
        raise ValueError(
            f"needed are log weights (S,) and log likelihoods (S, ...), got {log_weight.shape} and {log_likelihood.shape}"
        )
    posterior, total = psis(log_weight)
    k_hat = float(total) if k_hat is None else float(k_hat)
    flat = log_likelihood.reshape(len(log_likelihood), -1)
    weights, per_datum = psis(log_weight[:, None] - flat)
    pointwise = _log_sum_exp(weights + flat)
    p = float((_log_sum_exp(posterior[:, None] + flat) - pointwise).sum())
    shape, flagged = log_likelihood.shape[1:], not (k_hat < USABLE and (per_datum < USABLE).all())
    dims = [f"y_dim_{i}" for i in range(len(shape))] if dims is None else list(dims)
    values, shapes = (xarray.DataArray(a.reshape(shape), dims=dims, coords=coords) for a in (pointwise, per_datum))
    return elpd_object(values, shapes, total_k_hat=k_hat, p=p, num_samples=len(log_weight), flagged=flagged)


def held_out_elpd(evaluation):
    """The held-out log p(x) of an evaluation, as ArviZ's ``ELPDData``: for ``az.compare`` of pairs on the same data.

    ``az.compare`` pairs the errors by datum. These are lower bounds in expectation, of parameters that were fitted to other
    data; ``p``, the effective number of parameters, does not exist here and is NaN. Not to be compared with :func:`loo`.
    The warning is set where a datum's k-hat is not below .7: its bound may be far from log p(x).

    :param Evaluation evaluation: what :func:`~pyrarchy.inference.evaluate` returned for the held-out data.
    :raises ValueError: for a single datum (global latents): nothing to pair.
    """
    import xarray

    if len(evaluation.log_p) < 2:
        raise ValueError(
            "this evaluation has one value of log p(x), that of a whole data set with global latents: there is nothing to "
            "pair. Use loo(model, guide, args)."
        )
    values, shapes = (xarray.DataArray(a, dims=["data"]) for a in (evaluation.log_p.astype(float), evaluation.k_hat))
    flagged = not bool((evaluation.k_hat < USABLE).all())
    return elpd_object(
        values, shapes, total_k_hat=np.nan, p=np.nan, num_samples=evaluation.num_samples, flagged=flagged
    )


def rank_elpd(results):
    """Rank ``ELPDData`` of the same data, those of guides that are not to be trusted last whatever their figures say.

    ``az.compare`` ranks by the figure alone, and a collapsed guide's can be the highest.

    :param dict results: name -> ``ELPDData`` of this module, or of ``az.loo(..., pointwise=True)`` for draws of NUTS.
    :returns: ``pandas.DataFrame`` by rank: ``elpd``, ``se``, ``diff`` to the first (nats, and below zero if worse) with its
        paired standard error ``dse``, ``k_hat`` of the guide as a whole (NaN where there is none) and ``trusted``.
    :raises ValueError: for results of different numbers of data.
    """
    import pandas

    rows = {}
    for name, found in results.items():
        values = found["elpd_i"] if _has(found, "elpd_i") else found["loo_i"]
        k_hat = float(found["k_hat"]) if _has(found, "k_hat") else np.nan
        rows[name] = (np.ravel(values.values), k_hat, np.isnan(k_hat) or k_hat < USABLE)
    sizes = {name: len(values) for name, (values, _, _) in rows.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"only results of the same data can be compared, these have {sizes} data")
    order = sorted(rows, key=lambda name: (not rows[name][2], -rows[name][0].sum()))
    best, table = rows[order[0]][0], []
    for name in order:
        values, k_hat, trusted = rows[name]
        error, difference = (len(values) ** 0.5 * v.std() for v in (values, values - best))
        table.append([values.sum(), error, (values - best).sum(), difference, k_hat, bool(trusted)])
    return pandas.DataFrame(table, index=order, columns=["elpd", "se", "diff", "dse", "k_hat", "trusted"])


def _has(found, key):
    return key in found if hasattr(found, "index") else getattr(found, key, None) is not None


def _log_sum_exp(values):
    top = values.max(0)
    return top + np.log(np.exp(values - top).sum(0))
