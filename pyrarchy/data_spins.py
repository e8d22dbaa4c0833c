"""Data of spins and bits: exact samples of a small lattice, one bit in many dimensions, and no data at all."""

import numpy as np

from .dataset import Dataset, NamedData


def _no_data(folder) -> Dataset:
    entry = NAMED["no_data"]
    return Dataset("no_data", (), source=entry.source, licence=entry.licence)


def _ising4(folder) -> Dataset:
    # All 65,536 lattices and their Boltzmann weights; ones are spins up.
    lattices = (np.arange(2**16)[:, None] >> np.arange(16) & 1).reshape(-1, 4, 4)
    signs = 2.0 * lattices - 1
    bonds = (signs * (np.roll(signs, 1, 1) + np.roll(signs, 1, 2))).sum((1, 2))
    weights = np.exp((bonds - 32) * np.log1p(np.sqrt(2)) / 2)  # the infinite lattice's critical temperature
    rows = np.random.default_rng(0).choice(2**16, 5000, p=weights / weights.sum())
    x = lattices[rows].reshape(-1, 16).astype(np.float32)
    entry = NAMED["ising4"]
    return Dataset(
        "ising4", x[:4000], x[4000:], image_shape=(4, 4), support="binary", source=entry.source, licence=entry.licence
    )


def _one_bit(folder) -> Dataset:
    entry = NAMED["one_bit"]
    x = np.repeat(np.float32([[0.0], [1.0]]), 100, axis=1)
    return Dataset("one_bit", x, support="binary", source=entry.source, licence=entry.licence)


NAMED = {
    "no_data": NamedData(
        "nothing: for models that are a density by themselves, such as ising",
        "0",
        "no data, no licence needed",
        "none",
        _no_data,
    ),
    "ising4": NamedData(
        "independent lattices of the 4 x 4 Ising torus at the critical temperature, one for spin up (simulated)",
        "4000 + 1000 x 16",
        "simulated, no licence needed",
        "drawn by enumeration of the Boltzmann distribution with seed 0; the temperature is that of Onsager (1944), "
        "https://doi.org/10.1103/PhysRev.65.117",
        _ising4,
    ),
    "one_bit": NamedData(
        "one bit in a hundred dimensions: all zeros, and all ones",
        "2 x 100",
        "facts, no licence needed",
        "Rui Shu, one-bit VAE, https://github.com/RuiShu/one-bit-vae",
        _one_bit,
    ),
}
