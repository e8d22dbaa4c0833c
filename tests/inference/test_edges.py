"""The measure of edges on images that are known to be edges, and on those known not to be."""

import numpy as np
import pytest

from pyrarchy.data_patches import gabor_dictionary, whiten
from pyrarchy.inference import edge_scores

SIDE = 12
GRID = np.mgrid[:SIDE, :SIDE] - 5.5


def waves(rng, num):
    f, angle, phase = rng.uniform(0.08, 0.4, num), rng.uniform(0, np.pi, num), rng.uniform(0, 2 * np.pi, num)
    along = np.cos(angle)[:, None, None] * GRID[1] + np.sin(angle)[:, None, None] * GRID[0]
    return np.cos(2 * np.pi * f[:, None, None] * along + phase[:, None, None]).reshape(num, -1)


def blobs(rng, num):
    centre, width = rng.uniform(-3.5, 3.5, (2, num, 1, 1)), rng.uniform(0.8, 1.5, (num, 1, 1))
    square = (GRID[0] - centre[0]) ** 2 + (GRID[1] - centre[1]) ** 2
    return np.exp(-square / (2 * width**2)).reshape(num, -1)


def smooth_noise(rng):
    """Noise with the spectrum of the filter, and the principal components of its patches."""
    field = whiten(rng.standard_normal((500, 500)))
    patches = np.lib.stride_tricks.sliding_window_view(field, (SIDE, SIDE))[::5, ::5].reshape(-1, SIDE * SIDE)
    return patches, np.linalg.eigh(np.cov(patches.T))[1].T


def test_gabor_functions_are_edges_and_nothing_else_is():
    rng = np.random.default_rng(0)
    gabors = edge_scores(gabor_dictionary(400, seed=5), (SIDE, SIDE))
    assert gabors.is_edge.mean() > 0.95
    noise, components = smooth_noise(rng)
    others = {
        "white noise": rng.standard_normal((400, SIDE * SIDE)),
        "smooth noise": noise,
        "principal components": components,
        "plane waves": waves(rng, 300),
        "pixels": np.eye(SIDE * SIDE),
        "blobs": blobs(rng, 200),
    }
    for name, atoms in others.items():
        assert edge_scores(atoms, (SIDE, SIDE)).is_edge.mean() < 0.01, name
    # each of the two halves is needed: waves are oriented, pixels and blobs localised
    assert (edge_scores(others["plane waves"], (SIDE, SIDE)).orientation > 0.55).all()
    assert (edge_scores(others["blobs"], (SIDE, SIDE)).localisation > 0.9).all()


def test_scores_of_images_whose_scores_are_known():
    """A pixel favours no direction: 1/4. A constant square wave in one window has all its energy there."""
    pixel = edge_scores(np.eye(SIDE * SIDE)[[70]], (SIDE, SIDE))
    # the mean that is taken off moves a 144th of the power
    assert pixel.orientation[0] == pytest.approx(0.25, abs=0.02) and pixel.localisation[0] == 1.0
    flat = np.ones((1, 8, 10))
    flat[0, 0, 0] = 1 + 1e-6
    assert edge_scores(flat.reshape(1, -1), (8, 10)).localisation[0] == pytest.approx(0.25, abs=1e-6)


def test_scores_do_not_depend_on_scale_sign_or_a_quarter_turn():
    atoms = gabor_dictionary(7)
    first = edge_scores(atoms, (SIDE, SIDE))
    turned = np.rot90(-3.0 * atoms.reshape(-1, SIDE, SIDE), axes=(1, 2)).reshape(7, -1)
    second = edge_scores(turned, (SIDE, SIDE))
    np.testing.assert_allclose(first.localisation, second.localisation, rtol=1e-10)
    np.testing.assert_allclose(first.orientation, second.orientation, rtol=1e-2)  # 48 axes turn into each other


def test_refusals():
    with pytest.raises(ValueError, match=r"shape \(3, 5\); images of \(2, 3\) need \(K, 6\)"):
        edge_scores(np.ones((3, 5)), (2, 3))
    with pytest.raises(ValueError, match=r"atom\(s\) \[1\] are constant"):
        edge_scores(np.array([[1.0, 2, 3, 4], [0.3, 0.3, 0.3, 0.3]]), (2, 2))
