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


def _bars(folder) -> Dataset:
    # A picture is all horizontal or all vertical bars, three to one; each of its five bars is on with probability .35;
    # then one pixel in fifty flips. An empty picture, which says nothing of its direction, is as likely as it comes.
    rng, size, num = np.random.default_rng(0), 5, 1200
    horizontal = rng.random(num) < 0.75
    on = rng.random((num, size)) < 0.35
    pixels = np.repeat(on[:, :, None], size, 2)
    pixels = np.where(horizontal[:, None, None], pixels, pixels.transpose(0, 2, 1)).reshape(num, -1)
    x = (pixels ^ (rng.random(pixels.shape) < 0.02)).astype(np.float32)
    entry, shape = NAMED["bars"], (size, size)
    return Dataset("bars", x[:1000], x[1000:], None, None, shape, "binary", source=entry.source, licence=entry.licence)


NAMED = {
    "gaussian_tree": NamedData(
        "draws of the linear-Gaussian tree z2 -> z1 -> x with two leaves (simulated)",
        "500 + 100 x 2",
        "simulated, no licence needed",
        "simulated from pyrarchy.zoo.GaussianTree's density with seed 0",
        _gaussian_tree,
    ),
    "bars": NamedData(
        "5 x 5 pictures of horizontal (three in four) or vertical bars, each on with probability .35, one pixel in fifty "
        "flipped (simulated)",
        "1000 + 200 x 25",
        "simulated, no licence needed",
        "simulated with seed 0; bars with a direction above them are the test of Dayan, Hinton, Neal and Zemel (1995), The "
        "Helmholtz machine, https://doi.org/10.1162/neco.1995.7.5.889",
        _bars,
    ),
}
