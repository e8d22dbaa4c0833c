"""Whitened patches: the filter, a split without overlap, and a dictionary that is known."""

import builtins

import numpy as np
import pytest

from pyrarchy import load_data
from pyrarchy.data_patches import CUTOFF, GAP, NOISE, SIDE, gabor_dictionary, held_out_tiles, patch_corners, whiten
from pyrarchy.files import DataError


def test_filter_is_the_paper_s():
    """A wave of frequency f comes out times f exp(-(f / f0)^4), away from the edges; a constant vanishes."""
    assert CUTOFF == 200 / 512
    x = np.arange(400)
    for cycles in (0.05, 0.2, 0.35):
        wave = np.tile(np.cos(2 * np.pi * cycles * x), (300, 1))
        found = whiten(wave)[100:200, 150:250]
        expected = cycles * np.exp(-((cycles / CUTOFF) ** 4)) * wave[100:200, 150:250]
        np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(whiten(np.full((50, 60), 0.7))).max() < 1e-12


def test_held_out_patches_overlap_nothing():
    """Each held-out pixel is in one patch; no training patch comes within GAP pixels of a held-out tile."""
    shape = (427, 640)
    mask, corners, _ = held_out_tiles(shape)
    assert len(corners) == 14 and mask.mean() == pytest.approx(0.2, abs=0.01)
    train, test = patch_corners(shape, 3000, np.random.default_rng(0))
    count = np.zeros(shape, int)
    for i, j in test:
        count[i : i + SIDE, j : j + SIDE] += 1
    assert count.max() == 1 and mask[count == 1].all() and len(test) == 350
    assert len(np.unique(train, axis=0)) == 3000
    for i, j in train:
        assert not mask[max(i - GAP, 0) : i + SIDE + GAP, max(j - GAP, 0) : j + SIDE + GAP].any()
        assert i + SIDE <= shape[0] and j + SIDE <= shape[1]
    assert (train.min(0) < 5).all() and (train.max(0) > np.array(shape) - SIDE - 6).all()


def test_patches():
    pytest.importorskip("sklearn", reason="the photographs come with scikit-learn")
    data = load_data("patches")
    assert data.train.shape == (10_000, 144) and data.test.shape == (700, 144) and data.image_shape == (12, 12)
    assert data.support == "real" and "CC BY" in data.licence
    x = data.train.astype(float)
    assert abs(x.mean()) < 0.05 and x.var() == pytest.approx(1.0, abs=0.1)
    assert (x**4).mean() / (x**2).mean() ** 2 > 8  # far from Gaussian's 3
    # The least variance is that of the noise, .04, biased down: 144 / 10,000 gives the edge (1 - .12)^2.
    assert NOISE**2 * 0.85 < np.linalg.eigvalsh(np.cov(x.T))[0] < NOISE**2
    np.testing.assert_array_equal(load_data("patches").train, data.train)


def test_without_scikit_learn_it_says_what_to_do(monkeypatch):
    true_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError("No module named 'sklearn'")
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'pyrarchy\[photos\]', or take the data set sparse_dictionary"):
        load_data("patches")


def test_sparse_dictionary_is_drawn_from_its_dictionary():
    """Covariance 2 A'A + .04 I, and the kurtosis of sums of Laplace variables: 3 + 3 sum(a^4) / sum(a^2)^2."""
    data, atoms = load_data("sparse_dictionary"), gabor_dictionary(144)
    np.testing.assert_allclose((atoms**2).sum(1), 1, rtol=1e-12)
    x = np.concatenate([data.train, data.test]).astype(float)
    expected = 2 * atoms.T @ atoms + NOISE**2 * np.eye(144)
    found = x.T @ x / len(x)
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(x))
    assert np.abs((found - expected) / error).std() < 1.3
    pixel = np.diag(expected).argmax()
    fourth = 3 + 12 * (atoms[:, pixel] ** 4).sum() / expected[pixel, pixel] ** 2
    assert (x[:, pixel] ** 4).mean() / found[pixel, pixel] ** 2 == pytest.approx(fourth, rel=0.15)
