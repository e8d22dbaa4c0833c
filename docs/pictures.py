"""Which picture of the gallery shows which model: each module in ``MODULES`` holds ``DRAW``, model class -> function.

A drawing function takes the row and its run folder and returns a PNG (bytes) and a caption. Models in none of the modules
are image models and are shown as their run's report shows them.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the scripts of this folder are in no package
MODULES = (
    "pictures_linear",
    "pictures_flows",
    "pictures_stages",
    "pictures_statistics",
    "pictures_regression",
    "pictures_time",
    "pictures_sparse",
    "pictures_spins",
)


def draw(pair, run):
    """The gallery's picture of a fitted row: PNG bytes and caption."""
    modules = (importlib.import_module(module) for module in MODULES)
    drawn = {model: function for module in modules for model, function in module.DRAW.items()}
    return drawn.get(pair.model, images)(pair, run)


def images(pair, run):
    """Held-out data, what the pair sees in them, and samples, as the run's report shows them."""
    caption = "Held-out data, their reconstructions, and samples from the prior (means of the pixels)."
    return (run / "images.png").read_bytes(), caption
