r"""The posterior from a guide's draws: resampled by smoothed importance weights, or refused where k-hat says no.

.. math:: z_s \sim q, \quad w_s \propto \mathrm{PSIS}\big(p(x, z_s) / q(z_s)\big), \qquad
          k\text{-hat} < \tfrac12 \text{ good} \le k\text{-hat} < .7 \text{ usable} \le k\text{-hat: do not trust}

Source: Yao, Vehtari, Simpson, Gelman (2018), Yes, but did it work?, https://arxiv.org/abs/1802.02538; the resampling:
Rubin (1988), in Bayesian Statistics 3.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .draws import Pair, sites_of
from .groups import take_draws
from .inference_data import GROUPS, to_inference_data
from .isolation import isolated
from .psis import USABLE, psis, trust


class UntrustedGuideError(ValueError):
    """The guide's weights have so heavy a tail that nothing computed with them would be of the posterior."""


@dataclass(frozen=True)
class GlobalKHat:
    """k-hat of all latents together, at several seeds, because one estimate at 10,000 draws scatters by about .2.

    :ivar tuple values: one per seed; NaN where a weight is no number or the guide is a point mass.
    :ivar int num_samples: draws per seed.

    >>> print(GlobalKHat((0.7, 0.52, 0.6), 10_000))
    k-hat 0.60 (0.52 to 0.70, 3 seeds of 10000 draws): usable
    """

    values: tuple
    num_samples: int

    @property
    def median(self):
        """The figure to judge by."""
        return float(np.median(self.values))

    @property
    def word(self):
        """``good``, ``usable`` or ``do not trust``, by the median."""
        return trust(self.median)

    def __str__(self):
        low, high = min(self.values), max(self.values)
        span = f"{low:.2f} to {high:.2f}, {len(self.values)} seeds of {self.num_samples} draws"
        return f"k-hat {self.median:.2f} ({span}): {self.word}"


def global_k_hat(model, guide, args=(), kwargs=None, *, num_samples=10_000, seeds=5, seed=0, plates=1):
    """k-hat of the weight of all latents together: whether the guide's draws can stand for the posterior.

    :param tuple args: positional arguments of both. ``kwargs``: named ones.
    :param int num_samples: draws per seed. ``seeds``: how many, from ``seed`` on; generators are left as found.
    :param int plates: nested vectorised plates of the model (``None``: one draw at a time).
    :returns: :class:`GlobalKHat`.
    :raises ValueError: where every latent lies in a plate common to all sites, so that k-hat is one per datum.

    >>> import torch, pyro, pyro.distributions as dist
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> def guide(y):
    ...     pyro.sample("mu", dist.Normal(y / 2, 0.5**0.5))  # the posterior
    >>> print(global_k_hat(model, guide, (torch.tensor(1.0),), num_samples=500, seeds=3))
    k-hat 0.00 (0.00 to 0.00, 3 seeds of 500 draws): good
    """
    if num_samples < 25 or seeds < 1:
        raise ValueError(f"needed are at least 25 draws, to have a tail, and a seed; got {num_samples} and {seeds}")
    values = []
    for one in range(seed, seed + seeds):
        draws = {"num_samples": num_samples, "plates": plates, "seed": one, "groups": ("sample_stats",)}
        k_hat = to_inference_data(model, guide, args, kwargs, **draws)["sample_stats"]["k_hat"]
        if k_hat.dims:
            raise ValueError(
                f"every latent lies in plate(s) {list(k_hat.dims)}, so the weights have a k-hat each: take "
                "evaluate(model, guide, data).k_hat"
            )
        values.append(float(k_hat))
    return GlobalKHat(tuple(values), num_samples)


def psis_posterior(
    model, guide, args=(), num_samples=1000, *, kwargs=None, num_proposals=10_000, plates=1, seed=0, limit=USABLE,
    groups=None, **options,
):  # fmt: skip
    """Draws of the posterior: the guide's, resampled by their smoothed weights. Refused where k-hat is not below .7.

    With global latents all weights are judged together (:func:`global_k_hat`); where every latent lies in a plate, each
    datum is resampled by its own weights and judged by its own k-hat. The result has the groups of
    :func:`~pyrarchy.inference.to_inference_data` and ``log_likelihood`` (the draws being of the posterior, ``az.loo`` of
    them is right), and the attributes ``draws_of`` ("posterior", which heads the table of
    :func:`~pyrarchy.inference.summary`), ``k_hat`` and, for global latents, ``effective_draws``, which its errors contain.

    :param tuple args: positional arguments of both. ``kwargs``: named ones.
    :param int num_samples: draws kept. ``num_proposals``: draws of the guide that they are chosen from.
    :param float limit: k-hat from which on to refuse.
    :param options: as for :func:`~pyrarchy.inference.to_inference_data` (``rows``, ``coords``, ``dims``, ...).
    :raises UntrustedGuideError: (a ValueError) when k-hat is not below the limit.
    """
    import xarray

    if not 1 <= num_samples <= num_proposals:
        raise ValueError(f"num_samples must lie between 1 and num_proposals = {num_proposals}, not {num_samples}")
    wanted = (
        _default_groups(model, guide, args, kwargs, plates, options) if groups is None else {*groups, "sample_stats"}
    )
    drawn = {"num_samples": num_proposals, "plates": plates, "seed": seed, **options}
    found = to_inference_data(model, guide, args, kwargs, groups=tuple(wanted), **drawn)
    stats = found["sample_stats"]
    rng = np.random.default_rng(seed)
    attrs = {
        "draws_of": "posterior",
        "resampled": "draws of the guide, resampled by Pareto-smoothed importance weights",
        "num_samples": num_samples,
        "num_proposals": num_proposals,
        "log_likelihood_is": "at draws of the posterior",
    }
    if "log_weight_local" not in stats:
        k_hat = global_k_hat(model, guide, args, kwargs, num_samples=num_proposals, seed=seed, plates=plates)
        refuse_untrusted(k_hat, limit)
        weights = np.exp(psis(stats["log_weight"].values[0])[0])
        attrs |= {"k_hat": k_hat.median, "k_hat_is": str(k_hat), "effective_draws": 1 / (weights**2).sum()}
        return take_draws(found, _resample(weights[:, None], num_samples, rng)[:, 0], attrs)
    k_hat = stats["k_hat"].values
    if (bad := np.flatnonzero(~(k_hat.ravel() < limit))).size:
        raise UntrustedGuideError(
            f"k-hat is not below {limit:g} for {bad.size} of {k_hat.size} data (the first: {bad[:5].tolist()}): their draws "
            "cannot stand for the posterior. Take rows= without them, or a better guide."
        )
    weight = stats["log_weight_local"].isel(chain=0)
    weights = np.exp(psis(weight.values)[0]).reshape(num_proposals, -1)
    index = _resample(weights, num_samples, rng).reshape(num_samples, *k_hat.shape)
    effective = float((1 / (weights**2).sum(0)).min())
    attrs |= {"k_hat": float(k_hat.max()), "k_hat_is": "the largest of the data", "effective_draws": effective}
    return take_draws(found, xarray.DataArray(index, dims=weight.dims), attrs)


def _default_groups(model, guide, args, kwargs, plates, options):
    """All groups that exist of this pair, as ``to_inference_data`` makes them, and ``log_likelihood``."""
    with isolated(model, guide, seed=0), torch.no_grad():
        factors = sites_of(Pair(model, guide, tuple(args), dict(kwargs or {}), plates).model_trace, "factor")
    left_out = {"prior", "prior_predictive"} if factors else set()
    return set(GROUPS) - left_out - (set() if options.get("record") is not None else {"fit"})


def refuse_untrusted(k_hat, limit):
    """Raise where the guide as a whole is not to be trusted.

    :raises UntrustedGuideError: for a median not below the limit (NaN is not).
    """
    if not k_hat.median < limit:
        raise UntrustedGuideError(
            f"{k_hat}; needed is a k-hat below {limit:g}. The weights have so heavy a tail that no reweighting turns "
            "these draws into the posterior's: they are the guide's alone. Take a richer guide, another form of "
            "the model, or run_nuts."
        )


def _resample(weights, size, rng):
    """Systematic resampling of each column of normalised weights (S, n): (size, n) indices, in random order."""
    points = (np.arange(size)[:, None] + rng.random((1, weights.shape[1]))) / size
    bounds = np.cumsum(weights, 0)
    chosen = [np.searchsorted(b / b[-1], p, side="right") for b, p in zip(bounds.T, points.T, strict=True)]
    return rng.permuted(np.minimum(np.stack(chosen, 1), len(weights) - 1), axis=0)
