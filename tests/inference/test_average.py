"""The average posterior has the moments that are known, and a biased guide's has others."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import Exact
from pyrarchy.inference import average_posterior, moments, sample, stein_matrix
from pyrarchy.zoo import PPCA, GaussianTree, SparseLinear

X, Z, N = 5, 2, 400


def ppca(from_model=True):
    """PPCA at its maximum likelihood, on data from such a model or with uniform factors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = torch.randn(N, Z) if from_model else 12**0.5 * (torch.rand(N, Z) - 0.5)
        x = z.double() @ torch.randn(Z, X, dtype=torch.float64) + 0.3 * torch.randn(N, X, dtype=torch.float64)
    model = PPCA(X, Z).double()
    model.maximize_likelihood(model.statistics(x))
    return model, x


def off(model, shift=0.0, narrow=1.0):
    """The exact posterior moved, or made narrower."""

    def guide(x):
        q = model.posterior(x)
        with pyro.plate("data", len(x)):
            tril = narrow * q.scale_tril
            pyro.sample("z1", dist.MultivariateNormal(q.mean + shift, scale_tril=tril, validate_args=False))

    return guide


@pytest.mark.stochastic
def test_a_gaussian_prior_s_second_moment_is_met_and_its_kurtosis_is_not():
    """At PPCA's maximum the covariance is I exactly, whatever the data: uniform factors show in the kurtosis alone."""
    model, x = ppca(from_model=False)
    with torch.no_grad():
        found = average_posterior(model, Exact(model), x, num_samples=40)
    q = model.posterior(x)
    exact = q.covariance_matrix.mean(0) + torch.cov(q.mean.T, correction=0)
    torch.testing.assert_close(exact, torch.eye(Z).double(), atol=1e-6, rtol=0)
    draw_error = 5 * (2 / (40 * N)) ** 0.5  # the data are given, so only the draws' noise is left
    assert np.abs(found.posterior.covariance - np.eye(Z)).max() < draw_error
    value, error = found.differences()["kurtosis"]
    assert (value < -6 * error).all() and (value > -1.2).all()  # a uniform's is -1.2
    assert "excess kurtosis" in found.table() and found.table().splitlines()[-2].startswith("prior")


@pytest.mark.stochastic
@pytest.mark.parametrize(("change", "flagged"), [({}, None), ({"shift": 0.4}, "mean"), ({"narrow": 0.3}, "variance")])
def test_what_a_biased_guide_moves(change, flagged):
    """Data from the model and the exact guide: prior and average agree within errors; a biased guide's moment does not."""
    z = torch.randn(N, Z).double()
    model = PPCA(X, Z).double()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        loadings = torch.randn(X, Z, dtype=torch.float64)
    model.set_parameters(np.zeros(X), loadings.numpy(), 1.0)
    x = z @ loadings.T + torch.randn(N, X, dtype=torch.float64)
    found = average_posterior(model, off(model, **change), x).differences()
    for name, (value, error) in found.items():
        if flagged is None:
            assert (np.abs(value) < 4.5 * error).all(), name
        elif name == flagged:
            assert (np.abs(value) > 4.5 * error).any()


@pytest.mark.stochastic
def test_stein_s_matrix_is_the_second_moment_of_a_gaussian_prior():
    """With W held at the maximum it flags the narrow guide by as much as the average posterior's variance falls."""
    model, x = ppca()
    for narrow in (1.0, 0.3):
        guide = off(model, narrow=narrow)
        matrix = stein_matrix(model, guide, x, num_samples=200)
        found = average_posterior(model, guide, x, num_samples=200).posterior
        second = found.covariance + np.outer(found.mean, found.mean)
        np.testing.assert_allclose(-matrix.value, second, atol=4.5 * matrix.error.max().item() + 1e-3)
        bias = (matrix.value + torch.eye(Z)).diagonal() / matrix.error.diagonal()
        assert (bias.abs() > 4.5).any() == (narrow < 1)


@pytest.mark.stochastic
def test_a_collapsed_layer_is_the_prior():
    model, x = ppca()

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(Z).double(), 1.0).to_event(1))

    for value, error in average_posterior(model, prior, x).differences().values():
        assert (np.abs(value) < 4.5 * error).all()


@pytest.mark.stochastic
def test_lower_layers_too():
    """z1 of a tree given exact inference of its own draws: the average is the model's marginal of z1."""
    model = GaussianTree(2)
    x = torch.from_numpy(sample(model, (torch.zeros(900, 2),), 900)["x"])
    found = average_posterior(model, Exact(model), x, "z1")
    assert found.prior_draws.shape == (20_000, 2)
    for value, error in found.differences().values():
        assert (np.abs(value) < 4.5 * error).all() and (error < 0.5).all()
    with pytest.raises(ValueError, match=r"give site=, one of \['z2', 'z1'\]"):
        average_posterior(model, Exact(model), x)


def test_a_cauchy_prior_has_no_moments():
    model = SparseLinear(X, 3, dist.Cauchy)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(x[:, :3], 1.0).to_event(1))

    found = average_posterior(model, guide, torch.randn(N, X), prior_samples=100)
    assert found.prior is None and "no finite variance" in found.table()
    with pytest.raises(ValueError, match=r"site 'z1'.*no finite variance"):
        found.differences()

    def common(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"site 'mu' is not in plate"):
        average_posterior(common, lambda x: pyro.sample("mu", dist.Normal(0.0, 1.0)), torch.zeros(4))


@pytest.mark.stochastic
def test_errors_are_the_spread_over_data_sets():
    rng = np.random.default_rng(0)
    mix = np.array([[1.0, 0.0], [0.6, 0.8]])
    runs = []
    for _ in range(80):
        data = rng.normal(size=(500, 2)) @ mix.T
        runs.append(moments(data + 0.3 * rng.normal(size=(7, 500, 2))))
    for name in ("mean", "covariance", "correlation", "kurtosis"):
        values = np.stack([getattr(r, name) for r in runs])
        errors = np.stack([getattr(r, f"{name}_error") for r in runs]).mean(0)
        spread, where = values.std(0, ddof=1), errors > 1e-9  # a correlation with itself has no error
        np.testing.assert_allclose(errors[where], spread[where], rtol=0.4)  # 80 runs know a spread to 8 %
