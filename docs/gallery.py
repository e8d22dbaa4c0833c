"""The gallery's pictures: fit rows with their defaults and keep one picture and the final figures of each.

``python docs/gallery.py`` fits all rows, ``python docs/gallery.py vae hvae`` some; ``--quick`` takes a few steps only
(to try the machinery; do not commit its pictures); ``--runs DIR`` keeps the run folders and uses those already there.
The pictures and ``figures.json`` in docs/gallery are part of the repository, so that the docs build without fitting.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

import pyrarchy
from pyrarchy import cli, plots, run_report
from pyrarchy.apply_command import rows_of
from pyrarchy.fit_command import to_tensors
from pyrarchy.plot_style import COLOURS, single, styled
from pyrarchy.run_folder import read_config

PICTURES = Path(__file__).parent / "gallery"
QUICK = ["--steps", "5", "--samples", "20"]
COLUMNS = 10
LARGEST = 60_000  # bytes
KEPT = (
    "evaluated_on", "log_p", "log_p_error", "exact_log_p", "exact_log_p_error", "elbo", "k_hat_median", "k_hat_shares",
    "rates", "active_units", "num_data",
)  # fmt: skip


def make_picture(name, runs, quick=False):
    """Fit one row into ``runs/NAME`` unless that is there; returns (PNG bytes, caption and final figures)."""
    pair, run = pyrarchy.get_pair(name), Path(runs) / name
    if not finished(run, pair):
        steps = QUICK if quick and pair.training.method == "svi" else []
        code = cli.run(["fit", name, "--out", str(run), "--quiet", *steps])
        if code:
            raise RuntimeError(f"pyrarchy fit {name} ended with exit code {code}")
    drawn = {is_normal_gamma: contours, is_mixture: clusters, is_own: forest, is_tree: tree, is_linear: loadings}
    for fits, draw in drawn.items():
        if fits(pair):
            picture, caption = draw(pair, run)
            break
    else:
        picture, caption = images(pair, run)
    result = json.loads((run / "result.json").read_text())
    figures = {key: result.get(key) for key in KEPT}
    words = result["log_p_is"].rsplit(",", 1)[1].split()
    samples = int(words[0]) if words[0].isdigit() else 0  # a bound in closed form
    return picture, {"picture": caption, "samples": samples, "fitted_with": defaults(pair), **figures}


def finished(run, pair):
    """Whether the folder holds a finished fit with the row's present defaults."""
    if not (run / "result.json").exists():
        return False
    config, plan = read_config(run), defaults(pair)
    same = all(config[k] == v for k, v in plan["training"].items()) and config["options"] == {}
    if not same:
        raise RuntimeError(f"{run} was fitted with other defaults than the row's: remove it, or give another --runs")
    return True


def defaults(pair):
    """What decides a fit, as JSON holds it: a picture made with other defaults than the row's is out of date."""
    plan = {"data": pair.data, "options": pair.options, "training": asdict(pair.training)}
    return json.loads(json.dumps(plan))


def is_own(pair):
    """Rows of the statistics literature, with global latents."""
    return pair.likelihood == "own"


def is_tree(pair):
    """The row with an exact posterior to compare with, and data that are no images."""
    return pair.model == "GaussianTree"


def is_linear(pair):
    """Rows whose loadings W can be looked at."""
    return pair.model in ("FactorAnalysis", "PPCA", "BayesianPPCA")


def is_normal_gamma(pair):
    """The row whose joint posterior has two dimensions and is known."""
    return pair.model == "NormalGamma"


def is_mixture(pair):
    """The row whose components can be drawn over the data."""
    return pair.model == "GaussianMixture"


def contours(pair, run):
    """The exact posterior of mean and precision, and the factorised one."""
    import torch

    model, guide = pyrarchy.load(run)
    rows = to_tensors(pyrarchy.load_data(pair.data).train)
    q = guide.q
    with torch.no_grad():
        mu = q.loc + q.scale * torch.linspace(-3, 3, 120)
        tau = (q.shape + q.shape.sqrt() * torch.linspace(-3, 4.2, 120)[:, None]) / q.rate
        exact = model.posterior(*rows)
        log_p = exact["tau"].log_prob(tau) + exact["mu"]({"tau": tau}).log_prob(mu)
        log_q = model.factor("tau", q, {}).log_prob(tau) + model.factor("mu", q, {}).log_prob(mu)
    picture = plots.png(two_posteriors(mu, tau[:, 0], log_p, log_q))
    return picture, "The exact posterior (grey) and the factorised one; lines at 0.5, 1, 2 and 4 nats below each top."


@styled
def two_posteriors(mu, tau, log_p, log_q):
    """Contours of two log-densities over a grid."""
    figure, axes = single(3.4)
    levels = [-4, -2, -1, -0.5]
    axes.contour(mu, tau, log_p - log_p.max(), levels, colors="#999999", linewidths=2.5, linestyles="solid")
    axes.contour(mu, tau, log_q - log_q.max(), levels, colors=COLOURS[0], linewidths=1.2, linestyles="dashed")
    axes.set_xlabel("mu: nanoseconds beyond 24,800")
    axes.set_ylabel("tau: precision")
    return figure


def clusters(pair, run):
    """The data by their likeliest component, and each component that holds data as an ellipse."""
    import torch

    model, guide = pyrarchy.load(run)
    data = pyrarchy.load_data(pair.data)
    with torch.no_grad():
        q = model.localise(to_tensors(data.train), q=guide.q)
    scale = (q.rate / q.shape).sqrt()
    used = [k for k in range(model.components) if q.assignments[:, k].sum() > 1]
    figure = ellipses(data, q.assignments.argmax(-1).numpy(), [(k, q.loc[k], scale[k]) for k in used])
    caption = f"{len(used)} of {model.components} components hold data: centre and two standard deviations of each."
    return plots.png(figure), caption


@styled
def ellipses(data, labels, components):
    """A scatter of two columns, coloured by label, with an ellipse per component."""
    from matplotlib.patches import Ellipse

    figure, axes = single(3.4)
    for i, (k, centre, scale) in enumerate(components):
        rows = data.train[labels == k]
        axes.plot(rows[:, 0], rows[:, 1], "o", color=COLOURS[i], markersize=3, alpha=0.6)
        axes.add_patch(Ellipse(centre.tolist(), *(4 * scale).tolist(), fill=False, edgecolor=COLOURS[i], linewidth=1.5))
    axes.set_xlabel(f"{data.coords['column'][0]} (minutes)")
    axes.set_ylabel(f"{data.coords['column'][1]} (minutes)")
    return figure


def forest(pair, run):
    """Means and intervals of what the study asks for, the standardised effects left out."""
    from pyrarchy.inference import groups

    summary = groups.summary(groups.load(run / "posterior.nc"), ["mu", "tau", "theta"], prob=0.9)
    picture = plots.png(run_report.forest(pair.name, summary))
    return picture, "Posterior means and 90 % intervals under the guide; theta are the schools' effects."


def images(pair, run):
    """Held-out data, what the pair sees in them, and samples, as the run's report shows them."""
    caption = "Held-out data, their reconstructions, and samples from the prior (means of the pixels)."
    return (run / "images.png").read_bytes(), caption


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


def smaller(picture):
    """The PNG in a palette of 64 colours, which is all that these pictures need, where it is too large as it is."""
    if len(picture) <= LARGEST:
        return picture
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(64).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def write_pictures(names, runs=None, quick=False, out=PICTURES):
    """Make the pictures of some rows and enter their figures into ``figures.json``."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "figures.json"
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            picture, figures = make_picture(name, runs or scratch, quick)
        (out / f"{name}.png").write_bytes(smaller(picture))
        known = json.loads(path.read_text()) if path.exists() else {}
        known = {n: known.get(n) if n != name else figures for n in pyrarchy.list_pairs() if n in known or n == name}
        path.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{name}: {len(smaller(picture)) / 1000:.0f} kB", flush=True)


def main():
    """Parse the command line and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", help="rows to fit; all by default")
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--runs", help="keep run folders here, and use those that are there")
    parser.add_argument("--out", default=PICTURES, help="where to write the pictures")
    args = parser.parse_args()
    write_pictures(args.pairs or list(pyrarchy.list_pairs()), args.runs, args.quick, args.out)


if __name__ == "__main__":
    main()
