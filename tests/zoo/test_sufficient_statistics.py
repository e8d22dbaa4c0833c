import tracemalloc

import numpy as np
import pytest

from pyrarchy.inference import fit_em
from pyrarchy.zoo import FactorAnalysis
from pyrarchy.zoo import sufficient_statistics as module
from pyrarchy.zoo.factor_analysis_em import fit_factor_analysis
from pyrarchy.zoo.linear_gaussian import fa_log_likelihood
from pyrarchy.zoo.sufficient_statistics import pooled, sufficient_statistics

N, D, K = 30_011, 190, 4  # enough multiplications for float32 products, with a short last chunk


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, K)) @ rng.standard_normal((K, D))
    x += rng.uniform(0.3, 1.5, D) * rng.standard_normal((N, D))
    return (x * rng.uniform(0.5, 2.0, D)).astype(np.float32)


def exact(x):
    x = x.astype(np.float64)
    return x.mean(0), np.cov(x.T, bias=True)


def errors(statistics, x):
    """Largest errors of mean and covariance, in standard deviations."""
    mean, covariance = exact(x)
    scale = np.sqrt(np.diag(covariance))
    covariance = (statistics.covariance - covariance) / np.outer(scale, scale)
    return abs((statistics.mean - mean) / scale).max(), abs(covariance).max()


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_float32_products_leave_the_optimum_where_it_is(rows, mean):
    """The fit is judged by the exact covariance: what it loses is far below the tolerance of a climb."""
    x = rows + np.float32(mean) * rows.std(0)
    fast, slow = sufficient_statistics(x), sufficient_statistics(x.astype(np.float64))
    short_way = module._accumulate(x, 4096, np.float32)
    assert np.array_equal(fast.covariance, short_way.covariance)
    assert max(errors(fast, x)) < 2e-7 and max(errors(slow, x)) < 1e-10
    one, other = (fit_factor_analysis(s, K) for s in (fast, slow))
    lost = other.log_likelihood - fa_log_likelihood(slow.covariance, one.loadings, one.noise_variance)
    assert abs(lost) < 1e-9
    np.testing.assert_allclose(one.noise_variance, other.noise_variance, rtol=1e-5)
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-7)


def test_statistics_of_parts_are_those_of_all_rows(rows):
    """Parts of very different sizes, each around a mean of its own."""
    x = rows.astype(np.float64)
    x[:7] += 5.0
    x[7:9000] -= 2.0
    found = pooled([sufficient_statistics(part) for part in np.split(x, [7, 9000])])
    assert found.num_data == N and max(errors(found, x)) < 1e-12


def test_sorted_rows_cancel_nothing(rows):
    """The mean that is subtracted comes from all over the data, not from rows that happen to be the first."""
    x = rows + np.linspace(0, 1e3, N, dtype=np.float32)[:, None]
    assert max(errors(module._accumulate(x, 4096, np.float32), x)) < 1e-6


def test_nearly_singular_float32_data_are_multiplied_in_float64(rows):
    x = rows.copy()
    x[:, 3] = x[:, 8] + 0.01 * x[:, 3]
    assert max(errors(sufficient_statistics(x), x)) < 1e-11
    small = rows[:50]
    assert max(errors(sufficient_statistics(small), small)) < 1e-12


def test_values_whose_squares_overflow_float32_are_no_missing_values(rows):
    x = rows * np.float32(1e25)
    assert max(errors(sufficient_statistics(x), x)) < 1e-11
    x[7, 2] = np.inf
    with pytest.raises(ValueError, match=r"column\(s\) 2 hold missing"):
        sufficient_statistics(x)


def test_any_layout_and_type_of_numbers_is_read(rows):
    x = (10 * rows[:900, :7]).astype(np.int16)
    expected = exact(x)[1]
    for same in (x, np.asfortranarray(x), x.tolist(), np.repeat(x, 2, axis=1)[:, ::2], x.astype(np.float16)):
        np.testing.assert_allclose(sufficient_statistics(same, chunk=64).covariance, expected, rtol=1e-10, atol=1e-8)


def test_a_mapped_file_is_never_copied_whole(rows, tmp_path):
    """91 MB on disk are fitted in a sixth of that, and end where the same rows in memory do."""
    path = tmp_path / "x.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (4 * N, D))
    for i in range(4):
        mapped[i * N : (i + 1) * N] = rows
    mapped.flush()
    model = FactorAnalysis(D, K)
    tracemalloc.start()
    record = fit_em(model, np.load(path, mmap_mode="r"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mapped.nbytes > 9e7 and peak < 1.5e7
    again = fit_em(FactorAnalysis(D, K), np.concatenate([rows] * 4))
    assert record.log_likelihoods == again.log_likelihoods
    assert record.log_likelihood == pytest.approx(fit_em(FactorAnalysis(D, K), rows).log_likelihood, rel=1e-7)
