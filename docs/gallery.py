"""The gallery's pictures: fit rows with their defaults and keep one picture and the final figures of each.

``python docs/gallery.py`` fits all rows, ``python docs/gallery.py vae hvae`` some; ``--quick`` takes a few steps only
(to try the machinery; do not commit its pictures); ``--runs DIR`` keeps the run folders and uses those already there.
The pictures and ``figures.json`` in docs/gallery are part of the repository, so that the docs build without fitting.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pyrarchy
from pyrarchy import cli
from pyrarchy.run_folder import read_config

sys.path.insert(0, str(Path(__file__).parent))  # the scripts of this folder are in no package
from pictures import draw

PICTURES = Path(__file__).parent / "gallery"
QUICK = ["--steps", "5", "--samples", "20"]
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
    picture, caption = draw(pair, run)
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
    if plan["training"]["estimator"] is None:  # the plain one goes without saying
        del plan["training"]["estimator"]
    return json.loads(json.dumps(plan))


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
