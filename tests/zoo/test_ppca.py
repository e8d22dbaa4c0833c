import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA

from pyrarchy.zoo.linear_gaussian import fa_log_likelihood, ppca_closed_form, ppca_em_step
from pyrarchy.zoo.ppca import PPCA
from pyrarchy.zoo.sufficient_statistics import sufficient_statistics


def wine():
    x = load_wine().data
    return (x - x.mean(0)) / x.std(0)


def test_closed_form_equals_scikit_learn_and_the_general_likelihood():
    x = wine()
    statistics = sufficient_statistics(x)
    loadings, sigma2, value = ppca_closed_form(statistics, 4)
    assert value == pytest.approx(fa_log_likelihood(statistics.covariance, loadings, sigma2), abs=1e-11)
    # scikit-learn divides by N - 1; the covariances differ by that factor and nothing else
    covariance = PCA(4).fit(x).get_covariance() * (len(x) - 1) / len(x)
    np.testing.assert_allclose(loadings @ loadings.T + sigma2 * np.eye(13), covariance, atol=1e-10)


def test_em_agrees_with_the_closed_form():
    statistics = sufficient_statistics(wine())
    loadings, sigma2, value = ppca_closed_form(statistics, 2)
    rng = np.random.default_rng(1)
    em_loadings, em_sigma2, last = rng.standard_normal((13, 2)), 3.0, -np.inf
    for _ in range(600):
        em_loadings, em_sigma2 = ppca_em_step(statistics.covariance, em_loadings, em_sigma2)
        now = fa_log_likelihood(statistics.covariance, em_loadings, em_sigma2)
        assert now > last - 1e-11
        last = now
    assert last == pytest.approx(value, abs=1e-8)
    assert em_sigma2 == pytest.approx(sigma2, abs=1e-8)
    np.testing.assert_allclose(em_loadings @ em_loadings.T, loadings @ loadings.T, atol=1e-8)


def test_no_perturbation_improves_the_closed_form():
    statistics = sufficient_statistics(wine())
    loadings, sigma2, value = ppca_closed_form(statistics, 3)
    rng = np.random.default_rng(2)
    for _ in range(20):
        other = loadings + 0.05 * rng.standard_normal(loadings.shape)
        assert fa_log_likelihood(statistics.covariance, other, sigma2) < value
    for factor in (0.95, 1.05):
        assert fa_log_likelihood(statistics.covariance, loadings, sigma2 * factor) < value


def test_vanishing_noise_gives_the_projection_of_pca():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((90, 2)) @ rng.standard_normal((2, 6)) + 1e-4 * rng.standard_normal((90, 6)) + 2.0
    model = PPCA(6, 2).double()
    model.maximize_likelihood(model.statistics(x))
    with torch.no_grad():
        reconstruction = model.mean + model.posterior(torch.tensor(x)).mean @ model.loadings.mT
    pca = PCA(2).fit(x)
    # shrinkage is sigma^2 / l, about 1e-8 here
    np.testing.assert_allclose(reconstruction, pca.inverse_transform(pca.transform(x)), atol=1e-6)


def test_module_equals_the_dense_answers_and_its_m_step_the_one_on_statistics():
    x = wine()
    statistics = sufficient_statistics(x)
    loadings = np.random.default_rng(4).standard_normal((13, 3))
    model = PPCA(13, 3).double()
    model.set_parameters(statistics.mean, loadings, 0.7)
    assert model.scale.shape == () and model.scale.item() == pytest.approx(0.7, rel=1e-12)
    data = torch.tensor(x)
    covariance = torch.tensor(loadings @ loadings.T + 0.49 * np.eye(13))
    dense = torch.distributions.MultivariateNormal(torch.tensor(statistics.mean), covariance).log_prob(data)
    torch.testing.assert_close(model.log_marginal(data), dense, rtol=1e-10, atol=1e-10)
    expected = 0.49 * np.linalg.inv(loadings.T @ loadings + 0.49 * np.eye(3))  # Tipping and Bishop's form
    np.testing.assert_allclose(model.posterior(data).covariance_matrix[0].detach(), expected, rtol=1e-9)
    model.maximize(data, model.posterior(data))
    new_loadings, new_sigma2 = ppca_em_step(statistics.covariance, loadings, 0.49)
    np.testing.assert_allclose(model.loadings.detach(), new_loadings, rtol=1e-8)
    assert model.scale.item() ** 2 == pytest.approx(new_sigma2, rel=1e-9)


def test_the_noise_of_an_m_step_has_a_floor():
    """Data of one dimension leave no noise: it ends at the floor times the least variance of a column."""
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None] * torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
    model = PPCA(3, 1, noise_floor=0.01).double()
    for _ in range(300):
        model.maximize(x, model.posterior(x))
    assert model.scale.item() ** 2 == pytest.approx(0.01 * x.var(0, correction=0).min().item(), rel=1e-6)


def test_maximize_likelihood_is_the_closed_form_at_the_principal_axes():
    x = wine()
    model = PPCA(13, 3).double()
    fit = model.maximize_likelihood(model.statistics(x), starts=8, seed=0)
    assert model.log_marginal(torch.tensor(x)).mean().item() == pytest.approx(fit.log_likelihood, abs=1e-10)
    gram = (model.loadings.mT @ model.loadings).detach()
    assert float((gram - gram.diagonal().diag()).abs().max()) < 1e-10  # so the best diagonal guide has no gap
    assert fit.converged and fit.start_kinds == ("closed form",) and fit.steps == 0 and fit.noise_floor == 0.0


def test_data_in_a_subspace_are_refused():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 5))
    with pytest.raises(ValueError, match="subspace"):
        ppca_closed_form(sufficient_statistics(x), 3)
    with pytest.raises(ValueError, match="z_dim: 5"):
        ppca_closed_form(sufficient_statistics(x), 5)


def test_runs_as_a_pyro_model():
    x = torch.randn(7, 5)
    model = PPCA(5, 3)
    with pyro.plate("particles", 2, dim=-2):
        trace = poutine.trace(poutine.uncondition(model)).get_trace(x)
    assert trace.nodes["x"]["value"].shape == (2, 7, 5)
    poutine.trace(model).get_trace(x).log_prob_sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in model.parameters())
