"""The pictures of a fitted run: from model, guide and data to the figures of :mod:`pyrarchy.plots`."""

import numpy as np

TRAVERSED_UNITS = 8
TRAVERSAL_STEPS = 9
REACH = 2.5  # how far a traversal goes, in standard deviations of the average posterior


class Canvas:
    """Rows of a model's x as the images that they were, columns that were left out painted with their mean.

    :param data: the data set before columns were chosen.
    :param columns: the columns kept, or ``None`` for all.
    """

    def __init__(self, data, columns):
        self.image_shape, self.columns = data.image_shape, columns
        self.background = None if columns is None else data.mean
        self.limits = (0.0, 1.0) if data.support in ("binary", "unit") else None

    def __call__(self, rows):
        """Rows (..., columns) to (..., D)."""
        if self.columns is None:
            return rows
        out = np.broadcast_to(self.background, (*rows.shape[:-1], self.background.size)).copy()
        out[..., self.columns] = rows
        return out


def pictures(pair, model, guide, canvas, rows, labels, evaluation, record):
    """All pictures that make sense for a pair: name -> figure.

    :param Canvas canvas: turns rows of x into images.
    :param rows: held-out rows as the model takes them, a tensor (N, D).
    :param labels: their labels or ``None``.
    :param evaluation: :class:`~pyrarchy.inference.Evaluation` of the rows.
    :param record: the fit's record, or a list of log-likelihoods for EM.
    """
    from . import plots
    from .inference.apply import encode, reconstruct, sample

    out = {"curves": curves(record)}
    layers = by_depth(evaluation.rates)
    if layers:
        active = evaluation.active_units()
        out["rates"] = plots.rate_bars(
            {pair.name: {n: max(evaluation.rates[n], 0.0) for n in layers}},
            {pair.name: {n: active[n] for n in layers if n in active}} if active else None,
        )
    if rows is None:
        return out
    shown = rows[:10]
    limits, shape = canvas.limits, canvas.image_shape
    codes = encode(model, guide, rows)
    site = list(reconstruct(model, guide, shown[:1]))[-1]
    prior = sample(model, (shown,), 10, mean=True, seed=1)[site]
    images = {"data": shown.numpy(), "reconstruction": reconstruct(model, guide, shown)[site], "prior sample": prior}
    out["images"] = plots.image_grid({k: canvas(v) for k, v in images.items()}, shape, limits=limits)
    if evaluation.variances:
        if any(codes[n].ndim == 2 for n in evaluation.variances if n in codes):  # scalar latents have no units to move
            name, units = widest_units(codes, evaluation)
            moved, titles = traverse(model, shown[:1], codes, name, units)
            out["traversals"] = plots.traversals(canvas(moved[site]), shape, titles, limits=limits)
        ends = [(0, 1), (2, 3), (4, 5), (6, 7)][: len(shown) // 2]
        if ends:
            between = interpolate(model, shown[:1], codes, ends)
            out["interpolations"] = plots.interpolations(canvas(between[site]), shape, limits=limits)
    top = max(layers, key=lambda n: evaluation.rates[n], default=None)
    if top in codes and codes[top].ndim == 2 and len(rows) > 2:
        out["latent"] = plots.latent_scatter(codes[top], labels, name=top)
    return out


def by_depth(rates):
    """Sites from the top layer down."""
    return sorted(rates, key=lambda n: (len(n), n), reverse=True)


def curves(record):
    """The training curve: loss and, where a warm-up makes it another, minus the value at temperature one."""
    from . import plots

    if hasattr(record, "bounds"):
        climb = -np.asarray(record.bounds)[1:] / record.num_data  # the start lies far off and would flatten the rest
        return plots.loss_curves(
            {"CAVI": (np.arange(1, len(climb) + 1), climb)}, ylabel="-ELBO (nats per datum)", xlabel="sweep"
        )
    if isinstance(record, list):
        return plots.loss_curves(
            {"EM": (np.arange(len(record)), -np.asarray(record))}, ylabel="-log p(x) (nats per datum)"
        )
    steps = np.arange(1, record.step + 1)
    shown = {"training loss": (steps, np.asarray(record.losses))}
    if any(beta != 1.0 for beta in record.temperatures):
        shown["at temperature one"] = (steps, -np.asarray(record.values))
    return plots.loss_curves(shown)


def widest_units(codes, evaluation):
    """The layer with the largest rate among those with codes, and its units of largest posterior-mean variance."""
    names = [n for n in codes if n in evaluation.variances and codes[n].ndim == 2]
    name = max(names, key=lambda n: evaluation.rates.get(n, 0.0))
    order = np.argsort(-evaluation.variances[name])
    return name, order[:TRAVERSED_UNITS]


def traverse(model, example, codes, name, units):
    """Move units of one layer from low to high, the layers above at a datum's code, those below at their prior's mean.

    :returns: (site -> (units, steps, D), titles).
    """
    import torch

    from .inference.apply import decode

    steps = np.linspace(-REACH, REACH, TRAVERSAL_STEPS)
    depth = by_depth(codes)
    above = depth[: depth.index(name)]
    centre, spread = codes[name][0], codes[name].std(0)
    grid = np.repeat(centre[None], len(units) * len(steps), 0).reshape(len(units), len(steps), -1)
    for i, unit in enumerate(units):
        grid[i, :, unit] = codes[name][:, unit].mean() + steps * max(spread[unit], 1e-3)
    flat = grid.reshape(-1, grid.shape[-1]).astype(centre.dtype)
    values = {name: torch.from_numpy(flat)}
    for site in above:
        values[site] = torch.from_numpy(np.repeat(codes[site][:1], len(flat), 0))
    out = decode(model, (example,), values)
    shape = (len(units), len(steps), -1)
    return {site: image.reshape(shape) for site, image in out.items()}, [f"{name}[{unit}]" for unit in units]


def interpolate(model, example, codes, ends):
    """Straight lines between the codes of pairs of data, in all layers at once: site -> (pairs, steps, D)."""
    import torch

    from .inference.apply import decode

    share = np.linspace(0.0, 1.0, TRAVERSAL_STEPS)[:, None]
    values = {}
    for name, code in codes.items():
        flat = code.reshape(len(code), -1)
        steps = share.astype(flat.dtype)
        lines = [(1 - steps) * flat[a] + steps * flat[b] for a, b in ends]
        values[name] = torch.from_numpy(np.concatenate(lines).reshape(-1, *code.shape[1:]))
    out = decode(model, (example,), values)
    return {site: image.reshape(len(ends), TRAVERSAL_STEPS, -1) for site, image in out.items()}
