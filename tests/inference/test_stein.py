"""Stein's identity at the maximum likelihood of sparse linear models, whose posteriors quadrature gives."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import Exact, Guide
from pyrarchy.inference import SteinMatrix, stein_matrix
from pyrarchy.zoo import PPCA, FixedScale, GaussianLinear, GaussianTree, SparseLinear, UnitNormDictionary

N, D, K = 60, 5, 2
EYE = torch.eye(K, dtype=torch.float64)


def grid():
    """Nodes (M, 2) and log-weights (M,) of Gauss-Legendre quadrature in panels that meet at the kinks z = 0."""
    x, w = np.polynomial.legendre.leggauss(6)
    left = np.arange(-14.0, 14.0, 1.0)
    nodes = (left[:, None] + 0.5 * (x + 1)).ravel()
    weights = np.log(np.tile(0.5 * w, len(left)))
    z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, K)
    return torch.tensor(z), torch.tensor((weights[:, None] + weights).ravel())


def log_joint(model, x, z):
    """log p(x_n, z_j), (N, M), by the definition."""
    atoms, code_scale = model.dictionary()
    log_prior = model.prior(torch.zeros(K).double(), code_scale).log_prob(z).sum(-1)
    residual, projected = x - model.mean, (x - model.mean) @ atoms
    distance = residual.square().sum(-1, keepdim=True) - 2 * projected @ z.mT + (z @ atoms.mT).square().sum(-1)
    return log_prior - 0.5 * distance / model.scale**2 - D * (model.scale * math.sqrt(2 * math.pi)).log()


def log_marginal(model, x):
    """log p(x), (N,), by quadrature."""
    z, log_weight = grid()
    return (log_joint(model, x, z) + log_weight).logsumexp(-1)


def exact_stein(model, x):
    """M and the posterior mean of |z|, by quadrature."""
    z, log_weight = grid()
    with torch.no_grad():
        weight = (log_joint(model, x, z) + log_weight).softmax(-1).mean(0)
        code_scale = model.dictionary()[1]
    z = z.requires_grad_()
    (score,) = torch.autograd.grad(model.prior(torch.zeros(K).double(), code_scale).log_prob(z).sum(), z)
    return torch.einsum("m,mi,mj->ij", weight, z.detach(), score), weight @ z.detach().abs()


def maximise(parameters, objective, steps=400):
    """L-BFGS to the optimum in float64; returns the largest gradient left."""
    parameters = list(parameters)
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        loss = -objective()
        loss.backward()
        return loss

    optimiser.step(closure)
    closure()
    return max(p.grad.abs().max().item() for p in parameters)


def simulated(prior):
    torch.manual_seed(3)
    atoms = torch.tensor([[1.2, 0.7], [-0.4, 0.2], [0.9, 0.6], [0.1, -0.4], [0.6, 0.2]]).double()
    x = prior.sample((N, K)).double().clamp(-5, 5) @ atoms.mT + 0.8 * torch.randn(N, D).double()
    return atoms, x


def fitted(prior, dictionary=None):
    """A model at the maximum of the likelihood by quadrature, and its data."""
    atoms, x = simulated(prior(0.0, 1.0))
    model = SparseLinear(D, K, prior, dictionary).double()
    with torch.no_grad():
        model.dictionary.weight.copy_(atoms)
    left = maximise(model.parameters(), lambda: log_marginal(model, x).mean())
    assert left < 1e-6
    return model, x


@pytest.fixture(scope="module")
def laplace():
    return fitted(dist.Laplace)


def test_identity_of_the_laplace_model_at_its_maximum_likelihood(laplace):
    """E|z_k| = b = 1 on the diagonal and nothing off it; the likelihood is above that of the truth behind the data."""
    model, x = laplace
    value, spread = exact_stein(model, x)
    torch.testing.assert_close(value, -EYE, atol=1e-6, rtol=0)
    torch.testing.assert_close(spread, torch.ones(K).double(), atol=1e-6, rtol=0)
    # Other moments may differ, and do: E z^2 = 2 under the prior.
    z, log_weight = grid()
    with torch.no_grad():
        weight = (log_joint(model, x, z) + log_weight).softmax(-1).mean(0)
    assert ((weight @ z.square()) - 2).abs().max() > 0.1


def test_quadrature_is_the_density():
    """The same sum on a Gaussian model is its closed form."""
    _, x = simulated(dist.Normal(0.0, 1.0))
    model = GaussianLinear(D, K, noise=FixedScale(0.9)).double()
    torch.testing.assert_close(log_marginal(model, x), model.log_marginal(x), rtol=1e-6, atol=0)


def test_identity_of_the_cauchy_model():
    """A prior without moments: E[2 z^2 / (1 + z^2)] = 1."""
    model, x = fitted(dist.Cauchy)
    torch.testing.assert_close(exact_stein(model, x)[0], -EYE, atol=1e-4, rtol=0)  # its tails end at the grid's edge


def test_unit_norm_columns_leave_the_trace_alone():
    """With one scale for all codes only the sum over k is at a maximum."""
    model, x = fitted(dist.Laplace, UnitNormDictionary(D, K))
    value, _ = exact_stein(model, x)
    assert value.trace().item() == pytest.approx(-K, abs=1e-6)
    assert (value.diagonal() + 1).abs().max() > 0.005


class MeanField(torch.nn.Module):
    """Normal(m_n, s_n) for every datum, with its ELBO under Laplace priors and its Stein matrix in closed form."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(0.5 * torch.randn(N, K).double())
        self.log_scale = torch.nn.Parameter(torch.full((N, K), -1.0).double())

    def elbo(self, model, x):
        atoms, m, s, noise = model.atoms, self.loc, self.log_scale.exp(), model.scale
        spread = s * math.sqrt(2 / math.pi) * (-0.5 * (m / s) ** 2).exp() + m * torch.erf(m / s / math.sqrt(2))
        distance = (x - model.mean - m @ atoms.mT).square().sum(-1) + s.square() @ atoms.square().sum(0)
        log_lik = -0.5 * distance / noise**2 - D * (noise * math.sqrt(2 * math.pi)).log()
        entropy = (self.log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
        return (log_lik - (math.log(2) + spread).sum(-1) + entropy).mean()

    def stein(self):
        m, s = self.loc.detach(), self.log_scale.detach().exp()
        sign = torch.erf(m / s / math.sqrt(2))
        value = -m.mT @ sign / N
        spread = s * math.sqrt(2 / math.pi) * (-0.5 * (m / s) ** 2).exp() + m * sign
        return value - value.diagonal().diag() - spread.mean(0).diag()


class Fixed(Guide):
    """The guide of a :class:`MeanField`."""

    def __init__(self, model, field):
        super().__init__(model)
        self.field = field

    def posterior(self, name, prior):
        return dist.Normal(self.field.loc, self.field.log_scale.exp()).to_event(1)


def test_a_mean_field_guide_trained_jointly_hides_on_the_diagonal_and_at_the_truth_it_does_not(laplace):
    model, x = laplace
    held = MeanField()
    assert maximise(held.parameters(), lambda: held.elbo(model, x)) < 1e-6
    at_truth = held.stein()
    assert held.elbo(model, x) < log_marginal(model, x).mean() - 0.01
    assert (at_truth.diagonal() + 1).abs().max() > 0.02  # the bias shows on the diagonal

    moved, field = fitted_copy(model), MeanField()
    both = [*moved.parameters(), *field.parameters()]
    assert maximise(both, lambda: field.elbo(moved, x), 2000) < 1e-6
    jointly = field.stein()
    torch.testing.assert_close(jointly.diagonal(), -torch.ones(K).double(), atol=1e-6, rtol=0)
    assert (jointly - jointly.diagonal().diag()).abs().max() > 0.02  # only off it
    # and at the jointly trained W the true posterior violates the identity, since W is not at the maximum likelihood
    assert (exact_stein(moved, x)[0] + EYE).abs().max() > 0.02

    # what the estimator says of these pairs is what the closed forms say
    for pair, q, exact in ((model, held, at_truth), (moved, field, jointly)):
        found = stein_matrix(pair, Fixed(pair, q), x, num_samples=1500, rows_per_pass=1500 * N)
        assert isinstance(found, SteinMatrix) and found.error.max() < 0.01
        assert ((found.value - exact).abs() < 4.5 * found.error).all()


def fitted_copy(model):
    copy = SparseLinear(D, K, model.prior).double()
    copy.load_state_dict(model.state_dict())
    return copy


@pytest.mark.stochastic
def test_gaussian_model_agrees_with_ppca():
    """L-BFGS reaches PPCA's closed form; there the average posterior has second moment I, elsewhere what it has."""
    _, x = simulated(dist.Normal(0.0, 1.0))
    ppca = PPCA(D, K).double()
    best = ppca.maximize_likelihood(ppca.statistics(x)).log_likelihood
    model = GaussianLinear(D, K).double()
    assert maximise(model.parameters(), lambda: model.log_marginal(x).mean()) < 1e-5
    assert model.log_marginal(x).mean().item() == pytest.approx(best, abs=1e-9)
    assert model.scale.item() == pytest.approx(ppca.scale.item(), rel=1e-6)
    q = model.posterior(x)
    second = q.covariance_matrix.mean(0) + q.mean.mT @ q.mean / N
    torch.testing.assert_close(second.detach(), EYE, atol=1e-6, rtol=0)
    found = stein_matrix(model, Exact(model), x, num_samples=700)
    assert ((found.value + EYE).abs() < 4.5 * found.error).all() and found.error.max() < 0.02

    with torch.no_grad():
        model.dictionary.weight.mul_(torch.tensor([1.5, 0.8]))
    q = model.posterior(x)
    second = (q.covariance_matrix.mean(0) + q.mean.mT @ q.mean / N).detach()
    found = stein_matrix(model, Exact(model), x, num_samples=700)
    assert ((found.value + second).abs() < 4.5 * found.error).all()
    assert ((found.value + EYE).abs() > 4.5 * found.error).any()


@pytest.mark.stochastic
def test_errors_are_those_of_the_draws():
    """The spread over seeds is the error that is reported, in one pass or in parts."""
    _, x = simulated(dist.Normal(0.0, 1.0))
    model = GaussianLinear(D, K).double()
    runs = [
        stein_matrix(model, Exact(model), x, num_samples=20, seed=s, rows_per_pass=(20 * N, 300)[s % 2])
        for s in range(60)
    ]
    spread = torch.stack([r.value for r in runs]).std(0)
    # the standard deviation of 60 draws is known to 1 / sqrt(120) = 9 %
    torch.testing.assert_close(spread, runs[0].error, rtol=0.4, atol=0)


def test_sites_for_which_it_is_not_defined():
    tree, x = GaussianTree(2), torch.zeros(9, 2)
    with pytest.raises(ValueError, match=r"site 'z1': its prior is not the same for all data"):
        stein_matrix(tree, Exact(tree), x, "z1")
    assert stein_matrix(tree, Exact(tree), x, "z2").value.shape == (1, 1)
    with pytest.raises(ValueError, match=r"no latent site 'z'; it has .*z1.*z2"):
        stein_matrix(tree, Exact(tree), x, "z")
    assert torch.isfinite(stein_matrix(tree, Exact(tree), x, "z2", num_samples=2).error).all()
    with pytest.raises(ValueError, match="at least 2"):
        stein_matrix(tree, Exact(tree), x, "z2", num_samples=1)

    def positive(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Exponential(1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Gamma(2.0, 1.0).expand([len(x)]))

    with pytest.raises(ValueError, match=r"site 'z1': its prior has support .*all of R"):
        stein_matrix(positive, guide, torch.zeros(7))

    def common(x):
        z = pyro.sample("z1", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def one(x):
        pyro.sample("z1", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"site 'z1' has event shape .* per datum"):
        stein_matrix(common, one, torch.zeros(7))
