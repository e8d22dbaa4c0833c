"""The aggregate posterior is the mixture written by hand, and on PPCA its moments are known."""

import math
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyrarchy.guides import IAF, Amortized, BottomUp, Encoder, Exact, FullRank, Ladder
from pyrarchy.inference import AggregatePosterior
from pyrarchy.zoo import PPCA, VAE, MarkovHVAE, VampPrior

X, Z, N = 6, 3, 23


def vae(dtype=torch.float32):
    model = VAE(X, Z, (5,))
    guide = Amortized(model, Encoder(X, (Z,), ((7,),)))
    return model.to(dtype), guide.to(dtype)


def by_hand(q, z):
    """log (1/N) sum_n N(z; m_n, s_n), directly, in float64."""
    rows = [
        dist.Normal(m.double(), s.double()).log_prob(z.double()).sum(-1) for m, s in zip(q.mean, q.stddev, strict=True)
    ]
    return torch.logsumexp(torch.stack(rows), 0) - math.log(len(rows))


@pytest.mark.parametrize("batch_size", [1000, 10, 1])
def test_log_prob_is_the_mixture_by_hand(batch_size, monkeypatch):
    monkeypatch.setattr("pyrarchy.inference.aggregate.TABLE", 37)  # several blocks either way
    model, guide = vae()
    x = torch.bernoulli(torch.full((N, X), 0.5))
    got = AggregatePosterior(model, guide, x, batch_size=batch_size)
    z = torch.randn(4, 5, Z)
    assert got.site == "z1" and got.event_shape == (Z,) and got.batch_shape == ()
    torch.testing.assert_close(got.log_prob(z), by_hand(guide.encoder(x)["z1"], z).float())
    assert got.log_prob(torch.empty(0, Z)).shape == (0,)


def test_float32_data_lose_nothing_to_narrow_components():
    """Scales of 0.002 at means of +-30: the expanded square would lose all its digits in float32."""

    def narrow(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(30 * x.sign() + x, 0.002 + x.abs() / 1000).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(X), 1.0).to_event(1))

    x = torch.randn(N, X)
    got = AggregatePosterior(model, narrow, x)
    z = got.sample((50,))
    expected = by_hand(dist.Normal(30 * x.sign() + x, 0.002 + x.abs() / 1000), z)
    assert got.log_prob(z).dtype == torch.float32
    torch.testing.assert_close(got.log_prob(z).double(), expected, rtol=1e-6, atol=1e-4)


@pytest.mark.stochastic
def test_samples_and_moments():
    model, guide = vae(torch.float64)
    x = torch.bernoulli(torch.full((N, X), 0.5)).double()
    got = AggregatePosterior(model, guide, x)
    q = guide.encoder(x)["z1"]
    mean = q.mean.mean(0)
    covariance = q.variance.mean(0).diag() + torch.cov(q.mean.T, correction=0)
    torch.testing.assert_close(got.mean, mean)
    torch.testing.assert_close(got.covariance_matrix, covariance)
    torch.testing.assert_close(got.variance, covariance.diagonal())
    draws = got.sample((40_000,))
    error = (covariance.diagonal() / len(draws)).sqrt()
    assert draws.shape == (40_000, Z) and ((draws.mean(0) - mean).abs() < 4.5 * error).all()
    assert torch.allclose(torch.cov(draws.T), covariance, atol=0.05)
    # sampled and scored are one distribution: E_q[r / q] = 1, with a variance where r is the narrower
    far = dist.Normal(mean, 0.7 * covariance.diagonal().sqrt()).to_event(1)
    ratio = (far.log_prob(draws) - got.log_prob(draws)).exp()
    assert abs(ratio.mean().item() - 1) < 4.5 * ratio.std().item() / 200 < 0.1


def test_ppca_has_the_aggregate_of_the_closed_form():
    """Exact guide: moments from the data's own; under data from the model the aggregate becomes the prior."""
    model = PPCA(X, Z).double()
    loadings, sigma = torch.randn(X, Z, dtype=torch.float64), 0.6
    model.set_parameters(torch.zeros(X).numpy(), loadings.numpy(), sigma)
    z = torch.randn(20_000, Z, dtype=torch.float64)
    x = z @ loadings.T + sigma * torch.randn(20_000, X, dtype=torch.float64)
    got = AggregatePosterior(model, Exact(model), x)
    posterior = torch.linalg.inv(torch.eye(Z, dtype=torch.float64) + loadings.T @ loadings / sigma**2)
    gain = posterior @ loadings.T / sigma**2
    torch.testing.assert_close(got.mean, gain @ x.mean(0))
    torch.testing.assert_close(got.covariance_matrix, posterior + gain @ torch.cov(x.T, correction=0) @ gain.T)
    assert got.mean.abs().max() < 4.5 / 20_000**0.5
    assert (got.covariance_matrix - torch.eye(Z)).abs().max() < 4.5 * (2 / 20_000) ** 0.5
    few = AggregatePosterior(model, Exact(model), x[:N], batch_size=9)
    at = torch.randn(4, Z, dtype=torch.float64)
    rows = [dist.MultivariateNormal(gain @ row, posterior).log_prob(at) for row in x[:N]]
    torch.testing.assert_close(few.log_prob(at), torch.stack(rows).logsumexp(0) - math.log(N))
    draws = few.sample((20_000,))
    assert ((draws.mean(0) - few.mean).abs() < 4.5 * (few.variance / 20_000).sqrt()).all()
    assert torch.allclose(torch.cov(draws.T), few.covariance_matrix, atol=0.05)


def test_all_data_as_pseudo_inputs_make_the_aggregate_the_prior():
    x = torch.rand(N, X, dtype=torch.float64) * 0.9 + 0.05
    encoder = Encoder(X, (Z,), ((7,),))
    model = VAE(X, Z, (5,), top=VampPrior(encoder, x, "z1")).double()
    got = AggregatePosterior(model, Amortized(model, model.top.encode), x)
    z = torch.randn(9, Z, dtype=torch.float64)
    torch.testing.assert_close(got.log_prob(z), model.top(x).log_prob(z))


def test_it_can_stand_in_for_the_prior():
    """Sampling data from q(z) in place of p(z): the aggregate is a top layer like any other."""
    model, guide = vae()
    x = torch.bernoulli(torch.full((N, X), 0.5))
    q = AggregatePosterior(model, guide, x)
    model.top = lambda like: q
    trace = poutine.trace(poutine.uncondition(model)).get_trace(torch.zeros(11, X))
    trace.compute_log_prob()
    z = trace.nodes["z1"]
    assert z["value"].shape == (11, Z) and trace.nodes["x"]["value"].shape == (11, X)
    torch.testing.assert_close(z["log_prob"], q.log_prob(z["value"]))


@pytest.mark.stochastic
def test_a_flow_is_scored_at_foreign_values_and_has_no_closed_moments():
    model = VAE(X, Z, (5,))
    guide = IAF(model, Encoder(X, (Z,), ((7,),)), hidden=(8,))
    x = torch.bernoulli(torch.full((N, X), 0.5))
    got = AggregatePosterior(model, guide, x, batch_size=10)
    draws = got.sample((3000,))
    narrower = dist.Normal(draws.mean(0), 0.7 * draws.std(0)).to_event(1)
    ratio = (narrower.log_prob(draws) - got.log_prob(draws)).exp()
    assert abs(ratio.mean().item() - 1) < 4.5 * ratio.std().item() / 3000**0.5 < 0.3
    with pytest.raises(ValueError, match=r"site 'z1'.*no moments"):
        _ = got.mean


def test_which_sites_are_at_hand():
    model = MarkovHVAE(X, (4, 2), (7, 5))
    x = torch.bernoulli(torch.full((N, X), 0.5))
    encoder = Encoder(X, (4, 2), (7, 5))
    ladder = Ladder(model, encoder)
    top = AggregatePosterior(model, ladder, x, "z2")
    at = torch.randn(3, 2)
    torch.testing.assert_close(top.log_prob(at), by_hand(encoder(x)["z2"], at).float())
    with pytest.raises(ValueError, match=r"site 'z1': q depends on the samples"):
        AggregatePosterior(model, ladder, x, "z1")
    AggregatePosterior(model, Amortized(model, encoder), x, "z1")  # there it does not
    bottom_up = BottomUp(X, (4, 2), ((7, 7), (5, 5)))
    assert AggregatePosterior(model, bottom_up, x, "z1").event_shape == (4,)
    with pytest.raises(ValueError, match=r"site 'z2': q depends"):
        AggregatePosterior(model, bottom_up, x, "z2")
    with pytest.raises(ValueError, match=r"give site=, one of \['z2', 'z1'\]"):
        AggregatePosterior(model, ladder, x)
    with pytest.raises(ValueError, match="event shape"):
        top.log_prob(torch.zeros(3, 5))

    def free(x):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="site 'mu' lies outside plate 'data'"):
        AggregatePosterior(free, FullRank(free, torch.zeros(N, 2)), torch.zeros(N, 2), "mu")


def test_nothing_outside_is_moved():
    model, guide = vae()
    before = torch.get_rng_state()
    AggregatePosterior(model.train(), guide, torch.zeros(N, X))
    assert torch.equal(before, torch.get_rng_state()) and model.training


def test_sixty_thousand_components_are_scored_in_seconds():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(x, 0.5).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(40), 1.0).to_event(1))

    got = AggregatePosterior(model, guide, torch.randn(60_000, 40), batch_size=60_000)
    z = torch.randn(50, 40)
    began = time.process_time()
    values = got.log_prob(z)
    assert time.process_time() - began < 10  # 0.2 s alone; the loop over the data takes minutes
    print("SECONDS", time.process_time() - began)
    reference = torch.cdist(z.double(), got._loc.double()) ** 2 * -2.0 - 40 * math.log(0.5 * (2 * math.pi) ** 0.5)
    torch.testing.assert_close(values.double(), reference.logsumexp(1) - math.log(60_000), rtol=1e-6, atol=1e-4)
