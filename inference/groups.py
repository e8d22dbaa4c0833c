"""Pack arrays into what ArviZ opens, save and load it, and summarise it: the one module that knows ArviZ's version.

ArviZ 0.23 works on ``arviz.InferenceData``, ArviZ 1.x on ``xarray.DataTree``; both are made here from the same xarray
datasets, and a file written under one opens under the other. Nothing here needs torch, and xarray, which brings pandas,
is imported by the functions that make one of its objects: a fit needs none.

Source: the InferenceData schema, https://python.arviz.org/en/stable/schema/schema.html.

Differs from the schema: a guide's draws are independent, not a chain, so ``chain`` has length one, and :func:`summary`
shows neither r_hat nor ess, which would diagnose a Markov chain that does not exist. The attribute ``independent`` says
which it is: 1 for a guide's draws, 0 for chains (:func:`~pyrarchy.inference.mcmc_inference_data`).
"""

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

#: Groups whose arrays carry draws; all other groups are stored as they are.
DRAW_GROUPS = ("posterior", "posterior_predictive", "prior", "prior_predictive", "log_likelihood", "sample_stats")


def pack(groups, dims=None, coords=None, attrs=None, *, chains=None):
    """Build the object that the installed ArviZ opens.

    :param dict groups: group -> variable -> array. In a group of :data:`DRAW_GROUPS` an array has shape (S, ...),
        draws first, and gets the leading dims ``chain`` and ``draw``; one with exactly as many axes as ``dims`` names is
        kept without draws (k-hat). Empty groups are left out.
    :param dict dims: variable -> names of its axes after the draws; ``{variable}_dim_{i}`` where not given. A key
        ``(group, variable)`` holds for one group and comes first.
    :param dict coords: dim -> labels; 0, 1, ... where not given.
    :param dict attrs: attributes of the whole; those that are no number, text or list of them are stored as text.
    :param int chains: Markov chains of equal length that the S draws are, one after the other; ``None`` for independent
        draws, whose ``chain`` has length one. Stored as the attribute ``independent``.
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x). A site's name with a slash, which
        netCDF reads as a group, gets a dot instead.
    :raises ValueError: when dims or coords do not fit the arrays, or a dim has the name of a variable.

    >>> import numpy as np
    >>> idata = pack({"posterior": {"theta": np.zeros((4, 2))}}, {"theta": ["school"]}, {"school": ["A", "B"]})
    >>> dict(idata["posterior"]["theta"].sizes)
    {'chain': 1, 'draw': 4, 'school': 2}
    >>> list(summary(idata).index)
    ['theta[A]', 'theta[B]']
    """
    dims, coords = dims or {}, coords or {}
    datasets = {}
    for group, variables in groups.items():
        arrays = {}
        for name, value in variables.items():
            value, safe = np.asarray(value), name.replace("/", ".")
            if safe in arrays:
                raise ValueError(
                    f"group '{group}' has two variables called '{safe}' ('/' is stored as '.'): rename one"
                )
            arrays[safe] = (_axes(group, name, value, dims.get((group, name), dims.get(name))), value)
            if arrays[safe][0][:2] == ("chain", "draw"):
                if len(value) % (chains or 1):
                    raise ValueError(f"'{name}' of group '{group}': {len(value)} draws are not {chains} equal chains")
                arrays[safe] = (arrays[safe][0], value.reshape(n := chains or 1, len(value) // n, *value.shape[1:]))
        if arrays:
            datasets[group] = _dataset(group, arrays, coords)
    attrs = {**(attrs or {}), "independent": chains is None}
    return _wrap(datasets, {k: _plain(v) for k, v in attrs.items() if v is not None})


def pack_datasets(datasets, attrs=None):
    """Build the object that the installed ArviZ opens from ready datasets, none of them with draws.

    :param dict datasets: group -> ``xarray.Dataset``; attributes that netCDF cannot hold are stored as text.
    :param dict attrs: attributes of the whole.
    :returns: as :func:`pack`.

    >>> import xarray
    >>> tree = pack_datasets({"rates": xarray.Dataset({"rate": ("layer", [0.5, 2.0])})}, {"seed": 0})
    >>> tree["rates"]["rate"].values, int(tree.attrs["seed"])
    (array([0.5, 2. ]), 0)
    """
    kept = {name: d.assign_attrs({k: _plain(v) for k, v in d.attrs.items()}) for name, d in datasets.items()}
    return _wrap(kept, {k: _plain(v) for k, v in (attrs or {}).items()})


def _axes(group, name, value, given):
    """The names of all axes of one variable."""
    if group not in DRAW_GROUPS or (given is not None and len(given) == value.ndim):
        lead, rest = (), value.ndim
    else:
        lead, rest = ("chain", "draw"), value.ndim - 1
    names = [f"{name}_dim_{i}".replace("/", ".") for i in range(rest)] if given is None else list(given)
    if rest < 0 or len(names) != rest:
        raise ValueError(
            f"variable '{name}' of group '{group}' has shape {value.shape}: dims {names} must name its {max(rest, 0)} "
            f"axes{' after the draws' if lead else ''}"
        )
    return lead + tuple(names)


def _dataset(group, arrays, coords):
    import xarray

    sizes = {}
    for name, (axes, value) in arrays.items():
        if len(set(axes)) != len(axes):
            raise ValueError(f"variable '{name}' of group '{group}' has the dim names {axes}: make them differ")
        for axis, size in zip(axes, value.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"dim '{axis}' has size {sizes[axis]} elsewhere in group '{group}' but {size} in '{name}': pass "
                    f"dims={{'{name}': [...]}} with another name"
                )
    if clash := sorted(set(sizes) & set(arrays)):
        raise ValueError(f"group '{group}': {clash} name both a dim and a variable; pass dims= with another name")
    labels = {axis: np.asarray(coords.get(axis, np.arange(size))) for axis, size in sizes.items()}
    for axis, values in labels.items():
        if values.shape != (sizes[axis],):
            raise ValueError(
                f"coords['{axis}'] has shape {values.shape}, but the dim has size {sizes[axis]} in group '{group}'"
            )
    return xarray.Dataset(arrays, coords=labels)


def _plain(value):
    """An attribute that netCDF can hold."""
    if isinstance(value, bool | np.bool_):
        return int(value)
    numbers = isinstance(value, list | tuple | np.ndarray) and np.asarray(value).dtype.kind in "iuf"
    return value if numbers or isinstance(value, str | int | float | np.number) else str(value)


def _arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.23 announces 1.x at import, once a process
        import arviz
    return arviz


def _wrap(datasets, attrs):
    import xarray

    arviz = _arviz()
    if "InferenceData" in vars(arviz):  # not hasattr: ArviZ 1.x warns when asked for a name that it dropped
        return arviz.InferenceData(attrs=attrs, warn_on_custom_groups=False, **datasets)
    tree = xarray.DataTree.from_dict(dict(datasets))
    tree.attrs.update(attrs)
    return tree


def _unwrap(idata):
    """Group -> dataset, and the attributes, of either kind of object."""
    import xarray

    if isinstance(idata, xarray.DataTree):
        return {name: node.to_dataset() for name, node in idata.children.items()}, dict(idata.attrs)
    if not hasattr(idata, "groups"):
        raise TypeError(f"needed is an arviz.InferenceData or an xarray.DataTree, got {type(idata).__name__}")
    return {name: idata[name] for name in idata.groups()}, dict(idata.attrs)


def take_draws(idata, index, attrs):
    """The same object with other draws in every group that has draws; the draws are numbered anew.

    :param index: (S,) which draws, or an ``xarray.DataArray`` with dims ``draw`` and those of plates, which takes each of
        the plates' entries from draws of its own. A variable without those plates then keeps its first S draws, or is
        dropped from ``sample_stats``. Prior draws, which no weight of the posterior concerns, keep their first S too.
    :param dict attrs: attributes to add.
    """
    import xarray

    index = index if isinstance(index, xarray.DataArray) else xarray.DataArray(index, dims="draw")
    datasets, size = {}, index.sizes["draw"]
    found, old = _unwrap(idata)
    for group, dataset in found.items():
        if group in DRAW_GROUPS:
            bare = dataset.drop_vars("draw", errors="ignore")
            first = bare.isel(draw=slice(size)) if "draw" in bare.dims else bare
            own = group not in ("prior", "prior_predictive")
            local = set(index.dims) - {"draw"}
            taken = {}
            for name, values in bare.data_vars.items():
                if "draw" in values.dims and own and local <= set(values.dims):
                    taken[name] = values.isel(draw=index).transpose(*values.dims)
            if group == "sample_stats":  # a sum over data that were drawn anew one by one belongs to no draw
                first = first.drop_vars([n for n in bare.data_vars if n not in taken and "draw" in bare[n].dims])
            dataset = first.assign(taken).assign_coords(draw=np.arange(size))
        datasets[group] = dataset
    return _wrap(datasets, {**old, **{k: _plain(v) for k, v in attrs.items()}})


def elpd_object(pointwise, k_hat, *, total_k_hat, p, num_samples, flagged, limit=0.7):
    """ArviZ's ``ELPDData`` of pointwise log predictive densities: ``az.compare`` ranks those of the same data.

    ``found["k_hat"]`` is the k-hat of all weights together, and ``found["elpd_i"]`` the pointwise values, under both lines
    of ArviZ.

    :param xarray.DataArray pointwise: log predictive density of each datum, nats. ``k_hat``: alike, per datum.
    :param float total_k_hat: k-hat of the guide as a whole (NaN: there is none). ``p``: effective number of parameters.
    :param bool flagged: whether the result is not to be trusted.
    """
    arviz, n = _arviz(), pointwise.size
    total, se = float(pointwise.sum()), float((n * pointwise.var()) ** 0.5)
    if "InferenceData" in vars(arviz):
        found = arviz.ELPDData(
            [total, se, p, num_samples, n, flagged, pointwise.rename("loo_i"), k_hat, "log", limit],
            index=[
                "elpd_loo",
                "se",
                "p_loo",
                "n_samples",
                "n_data_points",
                "warning",
                "loo_i",
                "pareto_k",
                "scale",
                "good_k",
            ],
        )
        found["elpd"], found["elpd_i"] = total, pointwise
    else:
        found = arviz.ELPDDataLOO(
            elpd=total, se=se, p=p, n_samples=num_samples, n_data_points=n, scale="log", warning=flagged, good_k=limit,
            elpd_i=pointwise, pareto_k=k_hat, approx_posterior=True,
        )  # fmt: skip
    found["k_hat"] = total_k_hat
    return found


def save(idata, path):
    """Write a netCDF file, whole or not at all: an existing file stays intact until the new one is on disk.

    The file is built in memory and written as plain bytes, because the HDF5 library can crash the process on a full
    disk, where writing bytes raises an OSError.

    :param idata: what :func:`pack` returns.
    :param path: the file; its folder must exist.
    :returns: the path, as a ``pathlib.Path``.
    """
    import xarray

    path = Path(path)
    datasets, attrs = _unwrap(idata)
    tree = xarray.DataTree.from_dict(dict(datasets))
    tree.attrs.update(attrs)
    content = tree.to_netcdf(engine="h5netcdf")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp keeps its files to the owner
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def load(path):
    """Read a file written by :func:`save` (or by ArviZ) into memory and close it.

    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).
    :raises FileNotFoundError: when there is no such file.
    """
    import xarray

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        tree = tree.load()
        datasets, attrs = _unwrap(tree)
    return _wrap(datasets, attrs)


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
    """
    import pandas

    datasets, attrs = _unwrap(idata)
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
    arviz, data = _arviz(), stacked.astype(float).to_dataset(name="x")
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
