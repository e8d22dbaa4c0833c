"""Gallery pictures of the linear-Gaussian rows: loadings as images, posterior means against the exact ones."""

import numpy as np

import pyrarchy
from pyrarchy import plots
from pyrarchy.apply_command import rows_of
from pyrarchy.placement import to_tensors
from pyrarchy.plot_style import COLOURS, single, styled
from pyrarchy.run_folder import read_config

COLUMNS = 10


def loadings(pair, run):
    """Held-out data, reconstructions, and the columns of W as images."""
    from pyrarchy.figures import Canvas
    from pyrarchy.inference import reconstruct

    config = read_config(run)
    data = pyrarchy.load_data(config["data"])
    columns = None if config["columns"] is None else np.asarray(config["columns"])
    canvas = Canvas(data, columns)
    model, guide = pyrarchy.load(run)
    rows = to_tensors(rows_of(run, config["data"]))[:COLUMNS]
    weights = (guide.q if hasattr(guide, "q") else model).loadings.detach().numpy().T
    weights = weights[np.argsort(-(weights**2).sum(1))][:COLUMNS]
    largest = np.take_along_axis(weights, np.abs(weights).argmax(1)[:, None], 1)
    weights = weights * np.sign(largest)  # the sign of a factor is arbitrary
    grey = 0.5 + 0.5 * weights / np.abs(weights).max()
    whole = np.full((len(grey), data.dim), 0.5) if columns is not None else grey
    if columns is not None:
        whole[:, columns] = grey
    seen = next(iter(reconstruct(model, guide, rows).values()))
    shown = {"data": canvas(rows.numpy()), "reconstruction": canvas(seen), "columns of W (grey is zero)": whole}
    figure = plots.image_grid(shown, data.image_shape)
    return plots.png(figure), "Held-out data, their reconstructions, and the columns of W, longest first."


def tree(pair, run):
    """The guide's posterior means against the exact ones."""
    from pyrarchy.inference import encode

    model, guide = pyrarchy.load(run)
    rows = to_tensors(rows_of(run, pair.data))
    found = encode(model, guide, rows)["z2"][:, 0]
    exact = model.posterior(rows)["z2"].mean[:, 0].detach().numpy()
    return plots.png(against_exact(exact, found)), "Posterior means of the top latent: the guide's and the exact ones."


@styled
def against_exact(exact, found):
    """Fitted means over exact means, with the line on which they agree."""
    figure, axes = single(3.4)
    ends = [min(exact.min(), found.min()), max(exact.max(), found.max())]
    axes.plot(ends, ends, color="#999999", linewidth=1)
    axes.plot(exact, found, "o", color=COLOURS[0], markersize=4, alpha=0.7)
    axes.set_xlabel("exact E[z2 | x]")
    axes.set_ylabel("guide's E[z2 | x]")
    return figure


DRAW = {"FactorAnalysis": loadings, "PPCA": loadings, "BayesianPPCA": loadings, "GaussianTree": tree}
