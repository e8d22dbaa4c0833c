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
    for fits, draw in ((is_own, forest), (is_tree, tree), (is_linear, loadings)):
        if fits(pair):
            picture, caption = draw(pair, run)
            break
    else:
        picture, caption = images(pair, run)
    result = json.loads((run / "result.json").read_text())
    figures = {key: result.get(key) for key in KEPT}
    samples = int(result["log_p_is"].rsplit(",", 1)[1].split()[0])
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
    return pair.model in ("FactorAnalysis", "PPCA")


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
    weights = model.loadings.detach().numpy().T
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
