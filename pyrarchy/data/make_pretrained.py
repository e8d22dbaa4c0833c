"""Fit the pairs that ship with the package: ``python pyrarchy/data/make_pretrained.py [NAME ...]`` (about a minute each).

Writes ``pretrained/NAME.npz`` (weights and buffers) and ``pretrained/NAME.json`` (how, and what was measured).
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pyrarchy
from pyrarchy import cli
from pyrarchy.checkpoint import load_latest, save_state
from pyrarchy.pretrained_pairs import FOLDER

NAMES = ("vae", "hvae", "ladder_vae", "dense_hvae", "vlae")
SAMPLES = 1000


def make(name, folder=FOLDER, steps=()):
    """Fit one row with its defaults and keep its weights."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / name
        code = cli.run(["fit", name, "--seed", "0", "--samples", str(SAMPLES), "--out", str(run), "--quiet", *steps])
        if code:
            raise RuntimeError(f"pyrarchy fit {name} ended with exit code {code}")
        state, _, _ = load_latest(run / "checkpoint.npz")
        result = json.loads((run / "result.json").read_text())
    pair = pyrarchy.get_pair(name)
    card = {
        "pair": name,
        "options": pair.options,
        "data": pair.data,
        "seed": 0,
        "training": asdict(pair.training),
        "log_p": result["log_p"],
        "log_p_error": result["log_p_error"],
        "samples": SAMPLES,
        "rates": result["rates"],
        "version": pyrarchy.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder / f"{name}.npz", {"modules": state["modules"]})
    (folder / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")
    return card


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NAMES:
        print(f"{chosen}: log p {make(chosen)['log_p']:.3f} nats per held-out digit", flush=True)
