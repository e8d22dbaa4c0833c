"""The marginal-KL objective is the ELBO and the information, so on PPCA it lies above log p(x) by the information."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrarchy.guides import Amortized, Encoder, Exact, Ladder
from pyrarchy.inference import ELBO, AggregatePosterior, MarginalKL, fit, surgery
from pyrarchy.inference.marginal_kl import _pairwise
from pyrarchy.objectives import make_objective
from pyrarchy.zoo import PPCA, VAE, MarkovHVAE

X, Z, N = 6, 3, 41


def ppca():
    x = 2 * torch.randn(N, Z, dtype=torch.float64) @ torch.randn(Z, X, dtype=torch.float64)
    x = x + 0.5 * torch.randn(N, X, dtype=torch.float64)
    model = PPCA(X, Z).double()
    model.maximize_likelihood(model.statistics(x))
    return model, Exact(model), x


def test_it_exceeds_log_p_by_the_information():
    """So it is no bound, and says so."""
    model, guide, x = ppca()
    information = surgery(model, guide, x, num_samples=400)
    with torch.no_grad():
        excess = MarginalKL(400).value(model, guide, x).mean() - model.log_marginal(x).mean()
    assert excess.item() == pytest.approx(information.information, abs=6 * information.errors[1])
    assert excess > 1.0 > 50 * information.errors[1]
    assert not MarginalKL.is_lower_bound and not make_objective("marginal:3").is_lower_bound
    assert not fit(
        model, Amortized(model, Encoder(X, (Z,), ((),)).double()), x, objective=MarginalKL(), steps=1
    ).is_lower_bound


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("diagonal", [True, False])
def test_the_batch_is_the_mixture(particles, diagonal):
    """Whether all pairs are scored at once or by turns: log q(z) is the aggregate posterior's."""
    model, guide, x = ppca()
    if diagonal:
        guide = Amortized(model, Encoder(X, (Z,), ((5,),)).double())
    bound = MarginalKL(particles)
    with torch.no_grad():
        terms = bound.terms(model, guide, x)
        expected = AggregatePosterior(model, guide, x).log_prob(terms.values["z1"]).reshape(particles, N)
        torch.testing.assert_close(bound.log_aggregate(terms, "z1"), expected)
        torch.testing.assert_close(
            _pairwise(terms.q["z1"], terms.values["z1"], particles, N)[:, :, 0], terms.log_q["z1"]
        )


@pytest.mark.stochastic
def test_a_weighted_minibatch_stands_for_all_data():
    """The weights make the mixture unbiased: averaged over minibatches that hold row 0, q(z) at its draw is all data's."""
    model, guide, x = ppca()
    q = guide.model.posterior(x)
    z = q.mean[0] + 0.1
    all_rows = AggregatePosterior(model, guide, x).log_prob(z).exp().item()
    bound, found = MarginalKL(num_data=N), []
    for _ in range(1200):
        rows = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(N - 1)[:6]])
        with torch.no_grad():
            terms = type("Fixed", (), {})()
            terms.q = {"z1": dist.MultivariateNormal(q.mean[rows], q.covariance_matrix[rows % 1])}
            terms.values = {"z1": z.expand(7, Z)}
            terms.layout = type("Layout", (), {"num_particles": 1, "batch": 7})
            found.append(bound.log_aggregate(terms, "z1")[0, 0].exp())
    found = torch.stack(found)
    error = found.std().item() / len(found) ** 0.5
    assert (
        abs(found.mean().item() - all_rows) < 4.5 * error + 1e-12 * all_rows
    )  # the other rows may be too far to count


def test_the_gradient_is_that_of_the_objective():
    """Against finite differences in float64, the noise held."""
    model = VAE(X, Z, (5,)).double()
    guide = Amortized(model, Encoder(X, (Z,), ((4,),)).double())
    x = torch.bernoulli(torch.full((9, X), 0.5)).double()

    def loss():
        torch.manual_seed(3)
        return MarginalKL(2).differentiable_loss(model, guide, x)

    loss().backward()
    for parameter in (guide.encoder.heads[0].loc.weight, guide.encoder.heads[0].raw_scale.bias):
        with torch.no_grad():
            slope = parameter.grad.flatten()[0].item()
            values = []
            for step in (1e-5, -2e-5):
                parameter.view(-1)[0] += step
                values.append(loss().item())
            parameter.view(-1)[0] += 1e-5
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_one_row_alone_is_the_elbo():
    """With one datum q(z) is q(z | x): the information is nil."""
    model, guide, x = ppca()
    torch.manual_seed(0)
    found = MarginalKL(5).value(model, guide, x[:1])
    torch.manual_seed(0)
    torch.testing.assert_close(found, ELBO(5).value(model, guide, x[:1]))


def test_what_it_refuses():
    model = MarkovHVAE(X, (4, 2), (7, 5))
    guide = Ladder(model, Encoder(X, (4, 2), (7, 5)))
    x = torch.bernoulli(torch.full((N, X), 0.5))
    with pytest.raises(ValueError, match=r"one latent .*\['z2', 'z1'\]"):
        MarginalKL().loss(model, guide, x)
    with pytest.raises(ValueError, match="num_data"):
        MarginalKL(num_data=0)
    ppca_model, exact, data = ppca()
    with pytest.raises(ValueError, match="fewer than the 41 rows"):
        MarginalKL(num_data=5).loss(ppca_model, exact, data)
    assert isinstance(ppca_model.loadings, nn.Parameter)
