"""Pack arrays into what ArviZ opens, save and load it: the one module that knows ArviZ's version.

ArviZ 0.23 works on ``arviz.InferenceData``, ArviZ 1.x on ``xarray.DataTree``; both are made here from the same xarray
datasets, and a file written under one opens under the other. Nothing here needs torch, and xarray, which brings pandas,
is imported by the functions that make one of its objects: a fit needs none.

Source: the InferenceData schema, https://python.arviz.org/en/stable/schema/schema.html.

Differs from the schema: a guide's draws are independent, not a chain, so ``chain`` has length one. The attribute
``independent`` says which it is: 1 for a guide's draws, 0 for chains (:func:`~pyrarchy.inference.mcmc_inference_data`).
"""

import sys
from pathlib import Path

import numpy as np

from ..atomic import write_atomically
from ..imports import without_a_home

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


def installed_arviz():
    """The module ``arviz``, without what it announces at its first import."""
    if "arviz" not in sys.modules:
        with without_a_home():
            import arviz
    import arviz

    return arviz


def _wrap(datasets, attrs):
    import xarray

    arviz = installed_arviz()
    if "InferenceData" in vars(arviz):  # not hasattr: ArviZ 1.x warns when asked for a name that it dropped
        return arviz.InferenceData(attrs=attrs, warn_on_custom_groups=False, **datasets)
    tree = xarray.DataTree.from_dict(dict(datasets))
    tree.attrs.update(attrs)
    return tree


def unwrap(idata):
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
    found, old = unwrap(idata)
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
    arviz, n = installed_arviz(), pointwise.size
    total, se = float(pointwise.sum()), float((n * pointwise.var()) ** 0.5)
    if "InferenceData" in vars(arviz):
        found = arviz.ELPDData(
            [total, se, p, num_samples, n, flagged, pointwise.rename("loo_i"), k_hat, "log", limit],
            index=["elpd_loo", "se", "p_loo", "n_samples", "n_data_points",
                   "warning", "loo_i", "pareto_k", "scale", "good_k"],
        )  # fmt: skip
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
    datasets, attrs = unwrap(idata)
    tree = xarray.DataTree.from_dict(dict(datasets))
    tree.attrs.update(attrs)
    content = tree.to_netcdf(engine="h5netcdf")
    write_atomically(path, content)
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
        datasets, attrs = unwrap(tree)
    return _wrap(datasets, attrs)
