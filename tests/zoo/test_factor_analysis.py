import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from sklearn import datasets
from sklearn.decomposition import FactorAnalysis as PeerFactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from pyrarchy.zoo import em_climb, factor_analysis_em
from pyrarchy.zoo.em_climb import AcceleratedClimb, Climb
from pyrarchy.zoo.factor_analysis import FactorAnalysis
from pyrarchy.zoo.factor_analysis_em import HeywoodWarning, fit_factor_analysis, starting_points
from pyrarchy.zoo.linear_gaussian import fa_em_step, fa_expectations, fa_log_likelihood, fa_px_em
from pyrarchy.zoo.sufficient_statistics import Statistics, constant_columns, sufficient_statistics


def standardised(name):
    x = getattr(datasets, f"load_{name}")().data
    x = np.delete(x, constant_columns(x), axis=1)
    return (x - x.mean(0)) / x.std(0)


def problem(num_data=211, x_dim=7, z_dim=3, seed=0):
    """Data with a mean and different scales, and parameters that are not their fit."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_data, z_dim)) @ rng.standard_normal((z_dim, x_dim))
    x = (x + rng.uniform(0.2, 1.0, x_dim) * rng.standard_normal((num_data, x_dim))) * np.arange(1, x_dim + 1) + 5.0
    return x, rng.standard_normal((x_dim, z_dim)), rng.uniform(0.3, 2.0, x_dim)


def module(x_dim, z_dim, mean, loadings, noise_variance):
    model = FactorAnalysis(x_dim, z_dim).double()
    model.set_parameters(mean, loadings, noise_variance**0.5)
    return model


def test_statistics_do_not_depend_on_the_chunk():
    x, _, _ = problem()
    n, mean, covariance = sufficient_statistics(x, chunk=17)
    assert n == 211
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), rtol=1e-12, atol=1e-12)
    assert sufficient_statistics(x.astype(np.float32)).covariance.dtype == np.float64


def test_log_likelihood_equals_the_dense_density():
    x, loadings, noise = problem()
    statistics = sufficient_statistics(x)
    dense = torch.distributions.MultivariateNormal(
        torch.tensor(statistics.mean), torch.tensor(loadings @ loadings.T + np.diag(noise))
    )
    expected = dense.log_prob(torch.tensor(x))
    assert fa_log_likelihood(statistics.covariance, loadings, noise) == pytest.approx(float(expected.mean()), rel=1e-12)
    model = module(7, 3, statistics.mean, loadings, noise)
    torch.testing.assert_close(model.log_marginal(torch.tensor(x)), expected, rtol=1e-10, atol=1e-10)


def test_log_marginal_keeps_its_digits_in_float32_with_noise_on_the_floor():
    x, loadings, noise = problem()
    noise[0] = 1e-4
    model = module(7, 3, x.mean(0), loadings, noise)
    exact = model.log_marginal(torch.tensor(x))
    # The residual of column 0 is known to 1e-7 * |x| / 1e-2 in units of its scale, and enters relative to its square.
    torch.testing.assert_close(
        model.float().log_marginal(torch.tensor(x).float()).double(), exact, rtol=1e-3, atol=1e-2
    )


def test_posterior_equals_dense_conditioning():
    x, loadings, noise = problem()
    model = module(7, 3, x.mean(0), loadings, noise)
    q = model.posterior(torch.tensor(x))
    gain = loadings.T @ np.linalg.inv(loadings @ loadings.T + np.diag(noise))
    assert q.batch_shape == (211,) and q.event_shape == (3,)
    np.testing.assert_allclose(q.mean.detach(), (x - x.mean(0)) @ gain.T, rtol=1e-9, atol=1e-9)
    covariance = q.covariance_matrix.detach()
    assert covariance.stride(0) == 0  # one covariance for all rows, not one per row
    np.testing.assert_allclose(covariance[5], np.eye(3) - gain @ loadings, rtol=1e-9, atol=1e-10)


def test_scale_is_set_exactly():
    model = FactorAnalysis(4, 2).double()
    scale = np.array([2e-4, 0.01, 1.0, 300.0])
    model.set_parameters(np.zeros(4), np.ones((4, 2)), scale)
    np.testing.assert_allclose(model.scale.detach(), scale, rtol=1e-12)
    with pytest.raises(ValueError, match="scale"):
        model.set_parameters(np.zeros(4), np.ones((4, 2)), np.zeros(4))


def test_maximize_equals_the_step_on_statistics():
    x, loadings, noise = problem()
    _, mean, covariance = sufficient_statistics(x)
    model = module(7, 3, mean, loadings, noise)
    model.maximize(torch.tensor(x), model.posterior(torch.tensor(x)))
    new_loadings, new_noise = fa_em_step(covariance, loadings, noise)
    np.testing.assert_allclose(model.loadings.detach(), new_loadings, rtol=1e-9)
    np.testing.assert_allclose(model.scale.detach() ** 2, new_noise, rtol=1e-9)
    np.testing.assert_allclose(model.mean.detach(), mean, rtol=1e-9)


def test_maximize_is_a_maximum_of_the_expected_log_joint_in_every_parameter():
    x, loadings, noise = problem()
    model = module(7, 3, np.zeros(7), loadings, noise)  # a wrong mean: it is part of the step
    x = torch.tensor(x)
    with torch.no_grad():
        q = model.posterior(x)
    model.maximize(x, q)
    residual = x - model.mean - q.mean @ model.loadings.mT
    spread = ((model.loadings @ q.covariance_matrix[0]) * model.loadings).sum(-1)
    expected = -((residual**2 + spread) / (2 * model.scale**2)).sum(-1).mean() - model.scale.log().sum()
    for gradient in torch.autograd.grad(expected, list(model.parameters())):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@pytest.mark.parametrize("step", [fa_em_step, fa_px_em])
def test_every_em_step_climbs(step):
    x, loadings, noise = problem()
    covariance = sufficient_statistics(x).covariance
    values = []
    for _ in range(100):
        values.append(fa_log_likelihood(covariance, loadings, noise))
        loadings, noise = step(covariance, loadings, noise)
    assert np.diff(values).min() > 0 and values[-1] - values[0] > 10


def test_px_em_is_em_followed_by_the_reduction_of_the_expanded_model():
    x, loadings, noise = problem()
    covariance = sufficient_statistics(x).covariance
    second = fa_expectations(covariance, loadings, noise).second
    em_loadings, em_noise = fa_em_step(covariance, loadings, noise)
    px_loadings, px_noise = fa_px_em(covariance, loadings, noise)
    np.testing.assert_allclose(px_loadings @ px_loadings.T, em_loadings @ second @ em_loadings.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(px_noise, em_noise)


def test_px_em_keeps_a_fixed_point():
    statistics = sufficient_statistics(standardised("wine"))
    fit = fit_factor_analysis(statistics, 2, tol=1e-14)
    second = fa_expectations(statistics.covariance, fit.loadings, fit.noise_variance).second
    np.testing.assert_allclose(second, np.eye(2), atol=1e-5)  # at a maximum there is nothing to expand
    loadings, noise = fa_px_em(statistics.covariance, fit.loadings, fit.noise_variance)
    fitted = fit.loadings @ fit.loadings.T + np.diag(fit.noise_variance)
    np.testing.assert_allclose(loadings @ loadings.T + np.diag(noise), fitted, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_breast_cancer_reaches_the_better_of_its_two_maxima(seed):
    statistics = sufficient_statistics(standardised("breast_cancer"))
    with pytest.warns(HeywoodWarning, match=r"column\(s\) 0 "):
        fit = fit_factor_analysis(statistics, 3, seed=seed)
    assert fit.log_likelihood == pytest.approx(-20.4566, abs=1e-4)
    assert fit.start_values.min() == pytest.approx(-21.36232, abs=1e-4)  # where principal components lead
    assert len(fit.start_values) == 8 and fit.heywood == (0,) and fit.converged
    assert fit.noise_variance[0] == pytest.approx(1e-4, rel=1e-9)
    assert np.diff(fit.trace).min() > -1e-10  # rounding: the noise on the floor multiplies float64's by 1e4


def test_a_maximum_that_only_factors_through_a_column_lead_to():
    statistics = sufficient_statistics(standardised("breast_cancer"))
    fit = fit_factor_analysis(statistics, 1, seed=4)
    assert fit.start_values.min() == pytest.approx(-30.79221, abs=1e-4)  # principal components and random draws
    assert fit.log_likelihood == pytest.approx(-30.71613, abs=1e-4)


@pytest.mark.parametrize("accelerate", [True, False])
def test_the_trace_ends_at_the_reported_value_and_never_falls(accelerate):
    statistics = sufficient_statistics(standardised("wine"))
    fit = fit_factor_analysis(statistics, 2, accelerate=accelerate, starts=2)
    value = fa_log_likelihood(statistics.covariance, fit.loadings, fit.noise_variance)
    assert fit.trace[-1] == fit.log_likelihood == pytest.approx(value, abs=1e-11)
    assert np.diff(fit.trace).min() > -1e-11 and fit.heywood == ()


@pytest.mark.parametrize(("name", "ratio"), [("wine", 5), ("breast_cancer", 20)])
def test_acceleration_reaches_the_same_maximum_in_far_fewer_steps(name, ratio):
    statistics = sufficient_statistics(standardised(name))  # one start, the principal components: no Heywood case
    fast = fit_factor_analysis(statistics, 3, starts=1, tol=1e-11)
    slow = fit_factor_analysis(statistics, 3, starts=1, tol=1e-11, accelerate=False)
    assert fast.log_likelihood == pytest.approx(slow.log_likelihood, abs=1e-7)
    assert fast.log_likelihood >= slow.log_likelihood - 1e-10
    assert ratio * fast.steps < slow.steps


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "digits"])
def test_at_or_above_scikit_learn(name):
    x = standardised(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer = PeerFactorAnalysis(3, tol=1e-6, max_iter=2000, svd_method="lapack").fit(x).score(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeywoodWarning)
        fit = fit_factor_analysis(sufficient_statistics(x), 3)
    assert fit.log_likelihood > peer - 1e-6
    assert fit.log_likelihood < peer + 1.0  # the same density: a lost constant would show


def test_the_fit_does_not_depend_on_units():
    x = standardised("wine")
    units = 10.0 ** np.linspace(-6, 3, x.shape[1])
    fit = fit_factor_analysis(sufficient_statistics(x), 2)
    statistics = sufficient_statistics(x * units + 3.0 * units)
    other = fit_factor_analysis(statistics, 2)
    value = fa_log_likelihood(statistics.covariance, other.loadings, other.noise_variance)
    assert other.log_likelihood == pytest.approx(value, abs=1e-9)  # the parameters are in the data's units
    assert other.log_likelihood == pytest.approx(fit.log_likelihood - np.log(units).sum(), abs=1e-6)
    np.testing.assert_allclose(other.noise_variance / units**2, fit.noise_variance, rtol=1e-3)


def test_the_floor_is_recorded_and_matters():
    statistics = sufficient_statistics(standardised("breast_cancer"))
    with pytest.warns(HeywoodWarning, match="mean radius"):
        fit = fit_factor_analysis(statistics, 3, noise_floor=5e-3, names=datasets.load_breast_cancer().feature_names)
    assert fit.noise_floor == 5e-3
    assert fit.log_likelihood == pytest.approx(-21.06, abs=0.005)


def test_maximize_likelihood_sets_the_module():
    x = standardised("wine")
    model = FactorAnalysis(13, 2)
    fit = model.maximize_likelihood(model.statistics(torch.tensor(x)), starts=8, seed=3)
    # float32 parameters, 13 columns of standard scale
    value = model.log_marginal(torch.tensor(x).float()).mean().item()
    assert value == pytest.approx(fit.log_likelihood, abs=1e-4)


def test_refusals_name_what_is_wrong():
    x, _, _ = problem(x_dim=5, z_dim=2)
    with pytest.raises(ValueError, match="at least two"):
        sufficient_statistics(x[:1])
    with pytest.raises(ValueError, match="more rows than factors"):
        fit_factor_analysis(sufficient_statistics(x[:3]), 3)
    with pytest.raises(ValueError, match="z_dim: 5"):
        fit_factor_analysis(sufficient_statistics(x), 5)
    with pytest.raises(ValueError, match="noise_floor"):
        fit_factor_analysis(sufficient_statistics(x), 2, noise_floor=0.0)
    x[:, 3] = 0.1
    assert constant_columns(x).tolist() == [3]
    with pytest.raises(ValueError, match=r"3 \(d\) are constant"):
        fit_factor_analysis(sufficient_statistics(x), 2, names="abcde")
    x[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"column\(s\) 1 hold missing"):
        sufficient_statistics(x)
    with pytest.raises(ValueError, match="z_dim"):
        FactorAnalysis(4, 4)


def test_statistics_are_all_that_is_needed():
    n, mean, covariance = sufficient_statistics(standardised("wine") + 2.0)
    again = fit_factor_analysis(Statistics(n, np.zeros_like(mean), covariance), 2)
    assert again.log_likelihood == fit_factor_analysis(Statistics(n, mean, covariance), 2).log_likelihood


def test_runs_as_a_pyro_model_with_particles_on_the_left():
    x = torch.randn(6, 5)
    model = FactorAnalysis(5, 2)
    with pyro.plate("particles", 3, dim=-2):
        trace = poutine.trace(poutine.uncondition(model)).get_trace(x)
    assert trace.nodes["z1"]["value"].shape == (3, 6, 2)
    assert trace.nodes["x"]["value"].shape == (3, 6, 5)
    trace = poutine.trace(model).get_trace(x)
    trace.log_prob_sum().backward()
    assert set(dict(model.named_parameters())) == {"mean", "loadings", "raw_scale"}
    assert all(float(p.grad.abs().sum()) > 0 for p in model.parameters())
    joint = trace.log_prob_sum(lambda name, site: site["type"] == "sample") - model.log_marginal(x).sum()
    conditional = model.posterior(x).log_prob(trace.nodes["z1"]["value"]).sum()
    torch.testing.assert_close(joint, conditional, rtol=1e-4, atol=1e-4)  # Bayes' rule on the traced density


def test_column_that_nears_the_floor_is_put_on_it():
    """EM nears the floor as one over the steps and would stop at twice its value, with no warning."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(6, 1)) * 0.7 + 0.5
    x = rng.normal(size=(60, 1)) @ loadings.T + rng.normal(size=(60, 6))
    with pytest.warns(HeywoodWarning, match=r"column\(s\) 1 "):
        fit = fit_factor_analysis(sufficient_statistics(x), 2, starts=4)
    assert fit.heywood == (1,) and fit.converged
    assert np.isclose(fit.noise_variance[1], 1e-4 * x[:, 1].var(), rtol=1e-6)
    assert np.diff(fit.trace).min() > -1e-11


@pytest.mark.parametrize("z_dim", [1, 2])
def test_accelerated_em_takes_a_twentieth_of_the_steps_to_the_same_point(z_dim):
    """From the principal components of breast cancer to within 1e-8 nats per datum of the maximum above them."""
    correlation = sufficient_statistics(standardised("breast_cancer")).covariance
    start = next(starting_points(correlation, z_dim, 0, None))
    goal = AcceleratedClimb(correlation, 1e-4, *start).run(1e-13, 1000).trace[-1] - 1e-8
    steps = []
    for kind in (Climb, AcceleratedClimb):
        climb = kind(correlation, 1e-4, *start)
        while climb.trace[-1] < goal:
            climb.advance()
        assert np.diff(climb.trace).min() > -1e-11
        steps.append(climb.steps)
    assert steps[0] > 20 * steps[1]


def test_a_start_puts_a_factor_through_its_column():
    """Its covariances with the others are met exactly, all variances are, and it keeps the least noise alone."""
    correlation = sufficient_statistics(standardised("breast_cancer")).covariance
    starts = list(starting_points(correlation, 3, 2, np.random.default_rng(0)))
    columns = [(int(kind.split()[1]), *start) for kind, *start in starts if kind.startswith("column")]
    assert len({column for column, *_ in columns}) == len(columns) == len(starts) - 3
    for column, loadings, noise in columns:
        np.testing.assert_allclose(loadings @ loadings[column], correlation[column], atol=1e-12)
        whole = np.delete((loadings**2).sum(1) + noise, column)
        assert noise[column] == 0.01 and (whole > 1 - 1e-12).all() and np.median(whole) == pytest.approx(1.0)


def from_the_model(num_data, x_dim, z_dim, noise):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((num_data, z_dim)) @ rng.standard_normal((z_dim, x_dim))
    return x + rng.uniform(0.5, 2.0, x_dim) * noise(rng, (num_data, x_dim))


def test_a_model_that_fits_is_not_searched_for_other_maxima(monkeypatch):
    """The first maximum is taken where a likelihood-ratio test accepts it, and a search from 8 starts finds no better."""
    statistics = sufficient_statistics(from_the_model(3000, 12, 3, lambda rng, shape: rng.standard_normal(shape)))
    one = fit_factor_analysis(statistics, 3)
    assert one.start_kinds == ("principal",) and one.converged
    monkeypatch.setattr(factor_analysis_em, "_SURPRISE", -np.inf)
    all_starts = fit_factor_analysis(statistics, 3)
    assert len(all_starts.start_kinds) == 8
    assert one.log_likelihood == pytest.approx(all_starts.log_likelihood, abs=1e-8)
    np.testing.assert_allclose(one.noise_variance, all_starts.noise_variance, rtol=1e-3)


def test_a_model_that_does_not_fit_is_searched():
    """Too few factors, too few rows for the test, and too few columns for it: all take 8 starts."""
    x = from_the_model(3000, 12, 3, lambda rng, shape: rng.standard_normal(shape))
    for rows, z_dim in ((x, 2), (x[:590], 3), (x[:, :5], 3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeywoodWarning)
            assert len(fit_factor_analysis(sufficient_statistics(rows), z_dim).start_kinds) == 8


def test_few_axes_of_many_columns_are_found_near_enough():
    correlation = np.corrcoef(from_the_model(400, 130, 3, np.random.Generator.standard_normal).T)
    values, vectors = factor_analysis_em._principal_axes(correlation, 3)
    exact_values, exact_vectors = np.linalg.eigh(correlation)
    np.testing.assert_allclose(values, exact_values[:-4:-1], rtol=1e-6)
    np.testing.assert_allclose(abs(vectors.T @ exact_vectors[:, :-4:-1]), np.eye(3), atol=1e-3)


def test_em_runs_on_one_blas_thread(monkeypatch):
    """Two threads at small products wait for each other; afterwards the caller's number is back."""
    seen = []

    def spy(*point):
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return fa_expectations(*point)

    monkeypatch.setattr(em_climb, "fa_expectations", spy)
    with threadpool_limits(2, user_api="blas"):
        fit_factor_analysis(sufficient_statistics(standardised("wine")), 2, starts=1)
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
    assert set(seen) == {1}
