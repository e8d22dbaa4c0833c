"""The three terms have closed forms on PPCA and on a Gaussian line; a collapsed layer has none of them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyrarchy.guides import IAF, Amortized, BottomUp, Encoder, Exact, Ladder, MeanField
from pyrarchy.inference import ais, evaluate, index_code_information, surgery
from pyrarchy.zoo import PPCA, VAE, EightSchoolsNonCentred, MarkovHVAE

X, Z, N = 6, 3, 250


def ppca():
    """PPCA at its maximum likelihood on data that are not Gaussian, and its exact guide."""
    x = torch.rand(N, Z, dtype=torch.float64).sign() + 3 * torch.rand(N, Z, dtype=torch.float64)
    x = x @ torch.randn(Z, X, dtype=torch.float64) + 0.5 * torch.randn(N, X, dtype=torch.float64)
    model = PPCA(X, Z).double()
    model.maximize_likelihood(model.statistics(x))
    return model, Exact(model), x


def line(centre, width, prior=1.0):
    """z ~ N(0, prior^2), q(z | x) = N(centre x, width^2), of one dimension."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(1).to(x), prior).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(centre * x, width).to_event(1))

    return model, guide


@pytest.mark.stochastic
def test_ppca_at_the_maximum_spends_half_the_log_determinant():
    """The average KL is -1/2 ln |C| exactly; the draws give it within their error, and the two parts add up to it."""
    model, guide, x = ppca()
    q = model.posterior(x)
    exact = -0.5 * torch.logdet(q.covariance_matrix[0]).item()
    prior = dist.MultivariateNormal(torch.zeros(Z).double(), torch.eye(Z).double())
    assert kl_divergence(q, prior).mean().item() == pytest.approx(exact, abs=1e-6)
    found = surgery(model, guide, x, num_samples=200)
    assert abs(found.average_kl - exact) < 4.5 * found.errors[0] < 0.05
    assert found.average_kl == pytest.approx(found.information + found.marginal_kl, abs=1e-9)
    assert found.average_kl == pytest.approx(evaluate(model, guide, x, num_samples=200).rates["z1"], abs=0.05)


@pytest.mark.stochastic
def test_many_gaussian_data_have_the_channel_s_information_and_a_gaussian_marginal():
    """As N grows, q(z) -> N(0, v) with v = c^2 + w^2: I = 1/2 ln(v / w^2), KL(q(z) || p(z)) that of two Gaussians."""
    centre, width, prior = 1.5, 0.6, 2.0
    x = dist.Normal(0.0, 1.0).icdf((torch.arange(3000).double() + 0.5) / 3000).unsqueeze(1)  # no noise of its own
    found = surgery(*line(centre, width, prior), x, num_samples=20)
    v = centre**2 + width**2
    assert found.information == pytest.approx(0.5 * math.log(v / width**2), abs=4.5 * found.errors[1] + 2e-3)
    exact = kl_divergence(dist.Normal(0.0, v**0.5), dist.Normal(0.0, prior)).item()
    assert found.marginal_kl == pytest.approx(exact, abs=4.5 * found.errors[2] + 2e-3)
    assert max(found.errors) < 0.01 and not found.near_cap and "is near" not in found.table()


@pytest.mark.stochastic
def test_two_far_codes_say_which_and_nothing_more():
    x = torch.tensor([[-1.0], [1.0]])
    found = surgery(*line(1.0, 0.01), x, num_samples=500)
    exact = kl_divergence(dist.Normal(1.0, 0.01), dist.Normal(0.0, 1.0)).item()
    assert found.information == pytest.approx(math.log(2), abs=1e-6) and found.near_cap
    assert found.marginal_kl == pytest.approx(exact - math.log(2), abs=4.5 * found.errors[2])
    assert "near ln N" in found.table() and found.figures()["cap"] == found.cap


@pytest.mark.stochastic
@pytest.mark.parametrize(("centre", "width", "marginal"), [(0.0, 1.0, 0.0), (0.0, 0.5, 0.318147)])
def test_a_layer_that_ignores_the_data_has_no_information(centre, width, marginal):
    """Collapsed onto the prior all three are zero; onto something else all of the KL is the marginal's."""
    found = surgery(*line(centre, width), torch.randn(N, 1), num_samples=50)
    assert found.information == pytest.approx(0.0, abs=1e-6)
    assert found.marginal_kl == pytest.approx(marginal, abs=4.5 * found.errors[2] + 1e-6)


@pytest.mark.stochastic
def test_errors_are_those_of_the_draws():
    model, guide, x = ppca()
    runs = [surgery(model, guide, x, num_samples=3, seed=s, rows_per_pass=(3 * N, 100)[s % 2]) for s in range(50)]
    spread = torch.tensor([[r.average_kl, r.information, r.marginal_kl] for r in runs]).std(0)
    # the standard deviation of 50 draws is known to 10 %, and so, nearly, is an error from 3 draws for each of 250 data
    torch.testing.assert_close(spread, torch.tensor(runs[0].errors), rtol=0.45, atol=0)


@pytest.mark.stochastic
def test_every_row_counts_once_in_parts_of_any_size():
    """One row far from the others, the first or the last: the average KL is the mean over all of them."""
    model, guide = line(1.0, 0.5)
    for far in (0, 4):
        x = torch.zeros(5, 1, dtype=torch.float64)
        x[far] = 8.0
        exact = (0.5 * (x.square() + 0.25 - 1) - math.log(0.5)).mean().item()
        for rows in (1, 60, 10_000):  # fewer than the draws of one row, two rows, all at once
            found = surgery(model, guide, x, num_samples=30, rows_per_pass=rows)
            assert found.average_kl == pytest.approx(exact, abs=4.5 * found.errors[0]) and found.errors[0] < 0.4


def test_flows_are_cut_too():
    model = VAE(X, Z, (5,))
    x = torch.bernoulli(torch.full((23, X), 0.5))
    found = surgery(model, IAF(model, Encoder(X, (Z,), ((7,),)), hidden=(8,)), x, num_samples=30)
    assert found.average_kl == pytest.approx(found.information + found.marginal_kl, abs=1e-6)
    assert -3 * found.errors[1] < found.information <= found.cap


def test_which_layers_of_a_hierarchy():
    model = MarkovHVAE(X, (4, 2), (7, 5))
    x = torch.bernoulli(torch.full((23, X), 0.5))
    encoder = Encoder(X, (4, 2), (7, 5))
    assert surgery(model, Ladder(model, encoder), x, "z2").site == "z2"
    with pytest.raises(ValueError, match=r"site 'z1': q depends on the samples"):
        surgery(model, Ladder(model, encoder), x, "z1")
    for guide in (Amortized(model, encoder), BottomUp(X, (4, 2), ((7, 7), (5, 5)))):
        with pytest.raises(ValueError, match=r"site 'z1': its prior is not the same for all data"):
            surgery(model, guide, x, "z1")
        value, error = index_code_information(model, guide, x, "z1")
        assert -3 * error < value <= math.log(23)
    with pytest.raises(ValueError, match=r"give site="):
        surgery(model, Ladder(model, encoder), x)
    with pytest.raises(ValueError, match=r"site 'z9' is no latent"):
        surgery(model, Ladder(model, encoder), x, "z9")
    with pytest.raises(ValueError, match="at least 2"):
        surgery(model, Ladder(model, encoder), x, "z2", num_samples=1)


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (None, r"the latents \['mu', 'tau', 'theta_std'\] lie outside .*evaluate, global_k_hat"),
        (
            "tau",
            r"site 'tau' lies outside plate 'data': there is one posterior for all data.*evaluate, global_k_hat, loo",
        ),
    ],
)
def test_global_latents_have_no_codes_and_the_message_says_what_to_ask_instead(site, words):
    args = torch.zeros(3), torch.ones(3)
    schools = EightSchoolsNonCentred()
    for cut in (surgery, index_code_information):
        with pytest.raises(ValueError, match=words):
            cut(schools, MeanField(schools, *args), args, site)


def test_mixed_and_scalar_latents_say_what_to_change():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    x = torch.randn(5)
    guide = MeanField(model, x)
    with pytest.raises(ValueError, match=r"site 'mu' lies outside .* Give site=, one of \['z1'\]"):
        surgery(model, guide, x, "mu")
    with pytest.raises(ValueError, match=r"site 'z1': its batch shape \(5,\) .* Make a number a vector of one"):
        surgery(model, guide, x, "z1")
    with pytest.raises(ValueError, match="Call the plate anything but 'data', and the whole data set is one datum"):
        ais(model, None, x)
