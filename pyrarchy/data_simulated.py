"""Data sets drawn from the zoo's own models, so that the truth behind them is known."""

import numpy as np

from .dataset import Dataset, NamedData


def _gaussian_tree(folder) -> Dataset:
    # The tree of the ladder's exact test: d = 2, a = 1, z1_scale^2 = .1, x_scale = 1.
    rng = np.random.default_rng(0)
    z2 = rng.standard_normal((600, 1))
    z1 = z2 + np.sqrt(0.1) * rng.standard_normal((600, 2))
    x = (z1 + rng.standard_normal((600, 2))).astype(np.float32)
    entry = NAMED["gaussian_tree"]
    return Dataset("gaussian_tree", x[:500], x[500:], source=entry.source, licence=entry.licence)


NAMED = {
    "gaussian_tree": NamedData(
        "draws of the linear-Gaussian tree z2 -> z1 -> x with two leaves (simulated)",
        "500 + 100 x 2",
        "simulated, no licence needed",
        "simulated from pyrarchy.zoo.GaussianTree's density with seed 0",
        _gaussian_tree,
    ),
}
