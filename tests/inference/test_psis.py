"""psis against ArviZ 0.x, against the tail index 1 - v/s of two normals, and its conventions at the edges."""

import time
import warnings

import numpy as np
import pytest

from pyrarchy.inference.psis import psis


def normal_log_ratios(rng, v, s, shape):
    """log N(z; 0, s) - log N(z; 0, v) at draws z of N(0, v): the tail index is 1 - v/s for v < s (variances)."""
    z = rng.standard_normal(shape) * v**0.5
    return 0.5 * (np.log(v / s) + z**2 / v - z**2 / s)


@pytest.mark.parametrize("v, s", [(0.4, 1.0), (0.7, 1.0), (1.5, 1.0)])
@pytest.mark.parametrize("num_draws", [40, 211, 1000])
def test_equals_arviz(v, s, num_draws):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        arviz = pytest.importorskip("arviz", minversion="0.18")
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ 1.x has no psislw")
    ratios = normal_log_ratios(np.random.default_rng(num_draws), v, s, (num_draws, 3, 2))
    log_weights, k_hat = psis(ratios)
    reference, k_reference = arviz.psislw(np.moveaxis(ratios, 0, -1).copy())
    np.testing.assert_allclose(k_hat, k_reference, atol=1e-6)
    np.testing.assert_allclose(log_weights, np.moveaxis(reference, -1, 0), atol=1e-6)


def test_equals_arviz_with_ties_and_zero_weights():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        arviz = pytest.importorskip("arviz", minversion="0.18")
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ 1.x has no psislw")
    rng = np.random.default_rng(3)
    ratios = np.round(rng.standard_normal((500, 4)) * 2, 1)
    ratios[:100, 1] = -np.inf
    ratios[:, 2] = np.where(rng.random(500) < 0.9, -800.0, ratios[:, 2])
    log_weights, k_hat = psis(ratios)
    reference, k_reference = arviz.psislw(ratios.T.copy())
    np.testing.assert_allclose(k_hat, k_reference, atol=1e-6)
    # Tied draws share a set of smoothed weights; who gets which is up to the sort.
    np.testing.assert_allclose(np.sort(log_weights, axis=0), np.sort(reference.T, axis=0), atol=1e-6)


@pytest.mark.parametrize("v", [0.3, 0.5, 0.8])
def test_tail_index_of_two_normals(v):
    """Single estimates at 10,000 draws scatter by .2; the median over 20 seeds is within .1 of 1 - v/s."""
    ratios = np.stack([normal_log_ratios(np.random.default_rng(seed), v, 1.0, 10_000) for seed in range(20)], axis=1)
    assert abs(np.median(psis(ratios)[1]) - (1 - v)) < 0.1


def test_sign_large_is_heavy():
    """An overconfident q has heavy ratios log p - log q; the same numbers negated are bounded above: light."""
    ratios = normal_log_ratios(np.random.default_rng(0), 0.25, 1.0, 4000)
    assert psis(ratios)[1] > 0.5
    assert psis(-ratios)[1] < 0.2


def test_weights_are_normalised_and_keep_their_order():
    ratios = normal_log_ratios(np.random.default_rng(1), 0.4, 1.0, (300, 5)) + 1000.0
    log_weights, _ = psis(ratios)
    np.testing.assert_allclose(np.exp(log_weights).sum(0), 1)
    in_order = np.take_along_axis(log_weights, np.argsort(ratios, axis=0), 0)
    assert (np.diff(in_order, axis=0) >= -1e-9).all()


def test_smoothing_improves_the_estimate_of_a_second_moment():
    """E_p z^2 = 1 from draws of N(0, .4): the smoothed estimate has the smaller mean squared error over 200 repeats."""
    rng = np.random.default_rng(5)
    z = rng.standard_normal((500, 200)) * 0.4**0.5
    ratios = 0.5 * (np.log(0.4) + z**2 / 0.4 - z**2)
    raw = np.exp(ratios - ratios.max(0))
    errors = [(w / w.sum(0) * z**2).sum(0) - 1 for w in (raw, np.exp(psis(ratios)[0]))]
    assert np.mean(errors[1] ** 2) < np.mean(errors[0] ** 2)


def test_constant_weights_are_good():
    ratios = np.full((100, 2), -3.7)
    ratios[:, 1] = np.random.default_rng(0).standard_normal(100)
    log_weights, k_hat = psis(ratios)
    assert k_hat[0] == 0.0 and k_hat[1] != 0.0
    np.testing.assert_allclose(log_weights[:, 0], -np.log(100))


def test_constant_up_to_float32_rounding_is_constant():
    ratios = np.float32(-1234.5) + np.random.default_rng(0).integers(0, 3, 200).astype(np.float32) * np.float32(2**-13)
    assert ratios.dtype == np.float32 and len(np.unique(ratios)) == 3
    assert psis(ratios)[1] == 0.0


@pytest.mark.parametrize("num_draws", [1, 2, 20])
def test_too_few_draws_have_no_k_hat(num_draws):
    ratios = np.random.default_rng(0).standard_normal(num_draws)
    log_weights, k_hat = psis(ratios)
    assert k_hat.shape == () and np.isinf(k_hat)
    np.testing.assert_allclose(log_weights, ratios - np.log(np.exp(ratios).sum()), atol=1e-12)


def test_one_dominating_draw_is_infinite():
    ratios = np.random.default_rng(0).standard_normal(400)
    ratios[17] = 2000.0
    assert np.isinf(psis(ratios)[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_an_error_that_names_the_column(bad):
    ratios = np.zeros((30, 3))
    ratios[4, 2] = bad
    with pytest.raises(ValueError, match="column 2"):
        psis(ratios)
    with pytest.raises(ValueError, match="column 0"):
        psis(np.full((30, 2), -np.inf))
    with pytest.raises(ValueError, match="S >= 1"):
        psis(np.zeros((0, 3)))


def test_input_is_not_changed_and_no_columns_is_fine():
    ratios = np.random.default_rng(0).standard_normal((60, 2))
    copy = ratios.copy()
    psis(ratios)
    assert (ratios == copy).all()
    assert psis(np.zeros((60, 0)))[1].shape == (0,)


def test_large_input_takes_seconds():
    ratios = normal_log_ratios(np.random.default_rng(0), 0.5, 1.0, (10_000, 300))
    start = time.perf_counter()
    psis(ratios)
    assert time.perf_counter() - start < 10  # 300 of the 1000 columns; about one second on one idle core
