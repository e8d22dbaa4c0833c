r"""Leave-one-out for a guide, with the correction that plain PSIS-LOO of a guide's draws lacks.

.. math:: w_{si} \propto \frac{p(z_s, y)}{q(z_s)} \cdot \frac{1}{p(y_i \mid z_s)}

Plain PSIS-LOO takes the draws for draws of the posterior and keeps the second factor alone. A guide that is too narrow then
looks better than the posterior: its draws fit y_i wherever it is left out, and every k-hat is good.

Source: Magnusson, Andersen, Jonasson, Vehtari (2019), https://arxiv.org/abs/1904.10679.

Differs from the paper: no subsampling of the data; the first factor is one weight for all data, which the guide's own k-hat
judges, over several seeds.
"""

from .elpd import elpd_from_draws
from .inference_data import to_inference_data
from .psis import USABLE
from .psis_posterior import global_k_hat, refuse_untrusted


def loo(
    model, guide, args=(), kwargs=None, *, site=None, num_samples=10_000, plates=1, seed=0, limit=USABLE, coords=None
):
    """PSIS-LOO of a model by draws of a guide, corrected for the guide, as ArviZ's ``ELPDData``.

    The figure is of the *model*: two good guides of one model get the same. ``az.compare`` ranks the results with those of
    ``az.loo`` for NUTS; :func:`~pyrarchy.inference.rank_elpd` puts those of untrusted guides last.

    :param tuple args: positional arguments of both. ``kwargs``: named ones.
    :param str site: the observed site, where there are several.
    :param int num_samples: draws of the guide; k-hat is judged by five seeds of as many.
    :param int plates: nested vectorised plates of the model.
    :param float limit: k-hat of the guide from which on to refuse. Above .7 a result is marked by its ``warning`` and by
        ``found["k_hat"]``, and is no estimate of anything: for showing what would have come out.
    :param dict coords: dim -> labels of the data.
    :returns: ``ELPDData`` with ``elpd_i`` and ``pareto_k`` per datum, nats; ``found["k_hat"]`` is the guide's.
    :raises UntrustedGuideError: when the guide's k-hat is not below the limit.
    :raises ValueError: where every latent lies in a plate, so that no other datum says anything about y_i but through the
        parameters, which were fitted to it; or for a site that there is not.
    """
    drawn = {"num_samples": num_samples, "plates": plates, "seed": seed, "coords": coords}
    found = to_inference_data(model, guide, args, kwargs, groups=("log_likelihood", "sample_stats"), **drawn)
    try:
        stats, observed = found["sample_stats"], found["log_likelihood"].data_vars
    except KeyError:  # a density with a factor alone has no likelihood
        raise ValueError("the model observes no data: there is no datum to leave out") from None
    if "log_weight_local" in stats:
        raise ValueError(
            "every latent belongs to a datum: with the parameters held fixed, leaving y_i out leaves nothing to learn from, "
            "and the parameters have seen it. Score held-out data: held_out_elpd(evaluate(model, guide, test))."
        )
    if site is None and len(observed) > 1:
        raise ValueError(f"the model observes {sorted(observed)}: say with site= which of them is left out")
    if site is not None and site not in observed:
        raise ValueError(f"no observed site '{site}'; there are {sorted(observed)}")
    values = observed[site or next(iter(observed))].isel(chain=0)
    if values.ndim < 2:
        raise ValueError(f"site '{values.name}' is a single datum: there is none to leave out")
    k_hat = global_k_hat(model, guide, args, kwargs, num_samples=num_samples, seed=seed, plates=plates)
    refuse_untrusted(k_hat, limit)
    labels = {dim: values.coords[dim].values for dim in values.dims[1:] if dim in values.coords}
    log_weight = stats["log_weight"].values[0]
    return elpd_from_draws(log_weight, values.values, k_hat=k_hat.median, dims=values.dims[1:], coords=labels)
