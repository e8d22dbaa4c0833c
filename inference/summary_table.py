"""A table of draws: one row per scalar, with the errors of what the draws are, independent or Markov chains.

A guide's draws are independent: r_hat and ess, which would diagnose a chain that does not exist, are left out, and the
Monte Carlo errors are those of independent draws. Those of Markov chains are ArviZ's. Nothing here needs torch.
"""

import numpy as np

from .groups import installed_arviz, unwrap


def summary(idata, var_names=None, *, group="posterior", prob=0.94, independent=None):
    """A table with one row per scalar: mean, sd, equal-tailed interval, and Monte Carlo error of mean and sd.

    For the independent draws of a guide the errors are those of independent draws, and r_hat and ess are left out. For
    Markov chains the errors, ess and r_hat are ArviZ's; r_hat is NaN for a single chain.

    :param var_names: one name or several; all variables of the group by default.
    :param str group: a group with draws.
    :param float prob: probability of the interval, in (0, 1).
    :param bool independent: whether the draws are; ``None`` reads the data's attribute (absent: they are). Say ``False``
        for chains of another library.
    :returns: ``pandas.DataFrame``, headed ``guide`` or ``posterior`` by what the draws are of (``columns.name``), with
        rows ``theta[Choate]`` and columns ``mean``, ``sd``, ``eti_3%``, ``eti_97%``,
        ``mcse_mean``, ``mcse_sd``, and for chains ``ess_bulk``, ``ess_tail``, ``r_hat``.
    :raises ValueError: for an unknown group or variable, a prob outside (0, 1), or a guide's draws called chains.

    >>> from pyrarchy.inference.groups import pack
    >>> idata = pack({"posterior": {"theta": np.zeros((4, 2))}}, {"theta": ["school"]}, {"school": ["A", "B"]})
    >>> list(summary(idata).index)
    ['theta[A]', 'theta[B]']
    """
    import pandas

    datasets, attrs = unwrap(idata)
    if not 0 < prob < 1:
        raise ValueError(f"prob must lie in (0, 1), got {prob}")
    if group not in datasets:
        raise ValueError(f"no group '{group}'; there are {sorted(datasets)}")
    dataset = datasets[group]
    names = list(dataset.data_vars) if var_names is None else [var_names] if isinstance(var_names, str) else var_names
    if missing := sorted(set(names) - set(dataset.data_vars)):
        raise ValueError(f"no variable {missing} in group '{group}'; there are {sorted(dataset.data_vars)}")
    if independent is False and attrs.get("independent"):
        raise ValueError(
            "these are a guide's independent draws, which have no r_hat and no ess: leave independent= away"
        )
    chains = not (attrs.get("independent", True) if independent is None else independent)
    low, high = (1 - prob) / 2, (1 + prob) / 2
    columns = ["mean", "sd", f"eti_{100 * low:g}%", f"eti_{100 * high:g}%", "mcse_mean", "mcse_sd"]
    columns += ["ess_bulk", "ess_tail", "r_hat"] if chains else []
    rows, labels = [np.empty((0, len(columns)))], []
    for name in names:
        variable = dataset[name]
        if not {"chain", "draw"} <= set(variable.dims):
            continue
        stacked = variable.transpose("chain", "draw", ...)
        draws = stacked.values.reshape(stacked.sizes["chain"] * stacked.sizes["draw"], -1).astype(float)
        moments = _moments(draws, low, high)
        if effective := attrs.get("effective_draws"):  # resampled: the proposals' own error comes on top
            moments[:, 4:] *= (1 + len(draws) / effective) ** 0.5
        rows.append(np.concatenate([moments[:, :4], _of_chains(stacked)], axis=1) if chains else moments)
        labels += _labels(name, stacked)
    heading = attrs.get("draws_of") if group == "posterior" else group
    return pandas.DataFrame(np.concatenate(rows), index=labels, columns=pandas.Index(columns, name=heading))


def _moments(draws, low, high):
    """Mean, sd, interval and Monte Carlo errors of independent draws (S, n): (n, 6)."""
    size = len(draws)
    mean = draws.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):  # an infinite draw has no sd: NaN
        deviation = draws - mean
        sd = np.sqrt((deviation**2).sum(0) / max(size - 1, 1))
        # The delta method: var(s^2) = (m4 - s^4) / S and d s = d(s^2) / (2 s).
        mcse_sd = np.sqrt(np.maximum((deviation**4).mean(0) - sd**4, 0) / size) / (2 * sd)
        interval = np.quantile(draws, [low, high], axis=0)
    mcse_sd = np.where(sd == 0, 0.0, mcse_sd)
    return np.stack([mean, sd, *interval, sd / size**0.5, mcse_sd], axis=1)


def _of_chains(stacked):
    """ArviZ's figures of one variable (chain, draw, ...): mcse of mean and sd, ess of bulk and tail, r_hat; (n, 5)."""
    arviz, data = installed_arviz(), stacked.astype(float).to_dataset(name="x")
    found = [arviz.mcse(data, method="mean"), arviz.mcse(data, method="sd")]
    found += [arviz.ess(data, method="bulk"), arviz.ess(data, method="tail")]
    found = [np.ravel(dataset["x"].values) for dataset in found]
    several = stacked.sizes["chain"] > 1
    r_hat = np.ravel(arviz.rhat(data)["x"].values) if several else np.full_like(found[0], np.nan)
    return np.stack([*found, r_hat], axis=1)


def _labels(name, stacked):
    axes = stacked.dims[2:]
    if not axes:
        return [name]
    index = [stacked.coords[a].values if a in stacked.coords else np.arange(stacked.sizes[a]) for a in axes]
    grids = [grid.ravel() for grid in np.meshgrid(*index, indexing="ij")]
    return [f"{name}[{', '.join(map(str, row))}]" for row in zip(*grids, strict=True)]
