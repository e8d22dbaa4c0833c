"""The table against densities written by hand, and every pair that has no table refused by name."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.nn import PyroModule

from pyrarchy.guides import Guide
from pyrarchy.inference import (
    ELBO,
    AnalyticELBO,
    FreeBits,
    ImportanceWeighted,
    Renyi,
    Terms,
    make_terms,
    trace_pair,
)
from pyrarchy.zoo import EightSchools, EightSchoolsNonCentred

B, M, K = 3, 4, 5
MASK = torch.tensor([[True, False, True, True]] * B)


def nested_model(x, mask=None):
    with pyro.plate("data", B, dim=-2):
        a = pyro.sample("a", dist.Normal(0.3, 1.2))
        pyro.factor("tilt", -0.1 * a**2)
        with pyro.plate("inner", M, dim=-1), poutine.mask(mask=torch.tensor(True) if mask is None else mask):
            b = pyro.sample("b", dist.Normal(a.unsqueeze(-1).expand(*a.shape, 2), 0.8).to_event(1))
            pyro.sample("x", dist.Normal(b.sum(-1), 0.5), obs=x)


def nested_guide(x, mask=None):
    with pyro.plate("data", B, dim=-2):
        pyro.sample("a", dist.Normal(x.mean(-1, keepdim=True), 0.6))
        with pyro.plate("inner", M, dim=-1), poutine.mask(mask=torch.tensor(True) if mask is None else mask):
            pyro.sample("b", dist.Normal(x.unsqueeze(-1).expand(B, M, 2) / 2, 0.7).to_event(1))


@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
@pytest.mark.parametrize("k", [1, K])
def test_nested_plates_masks_and_factors_equal_the_hand_formula(k, mask):
    x = torch.randn(B, M)
    terms = ELBO(k, plates=2).terms(nested_model, nested_guide, x, mask)
    a, b = (terms.values[n].reshape(k, B, *tail) for n, tail in (("a", (1,)), ("b", (M, 2))))
    on = torch.ones(B, M) if mask is None else mask.float()

    def normal(value, loc, scale):
        return -0.5 * ((value - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)

    expected = {
        "log_p a": normal(a, 0.3, 1.2).sum(-1),
        "log_q a": normal(a, x.mean(-1, keepdim=True), 0.6).sum(-1),
        "log_p b": (normal(b, a.unsqueeze(-1), 0.8).sum(-1) * on).sum(-1),
        "log_q b": (normal(b, x.unsqueeze(-1) / 2, 0.7).sum(-1) * on).sum(-1),
        "log_obs x": (normal(x, b.sum(-1), 0.5) * on).sum(-1),
        "log_obs tilt": -0.1 * (a**2).sum(-1),
    }
    for key, value in expected.items():
        table, site = key.split()
        got = getattr(terms, table)[site]
        assert got.shape == (k, B)
        torch.testing.assert_close(got, value, rtol=1e-5, atol=1e-5)
    lik = expected["log_obs x"] + expected["log_obs tilt"]
    log_w = lik + sum(v if "_p" in n else -v for n, v in expected.items() if "obs" not in n)
    torch.testing.assert_close(terms.log_lik, lik, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms.log_w, log_w, rtol=1e-5, atol=2e-5)
    assert list(terms.log_p) == ["a", "b"] and terms.top_down and terms.scale == 1.0 and not terms.temperature


@pytest.mark.stochastic
@pytest.mark.parametrize("k", [1, 4000])
def test_the_analytic_kl_obeys_masks(k):
    """A masked latent has no terms at all, so its KL must not appear either."""
    x = torch.randn(B, M)
    terms = AnalyticELBO(k, plates=2).terms(nested_model, nested_guide, x, MASK)
    analytic, sampled = AnalyticELBO(k, plates=2).reduce(terms), ELBO(k, plates=2).reduce(terms)
    inner = torch.distributions.kl_divergence(terms.q["b"].base_dist, terms.p["b"].base_dist).sum(-1)
    by_hand = terms.log_lik - (inner * MASK).sum(-1).reshape(k, B)
    outer = torch.distributions.kl_divergence(terms.q["a"], terms.p["a"]).sum(-1).reshape(-1, B)
    torch.testing.assert_close(analytic, (by_hand - outer).mean(0), rtol=1e-5, atol=1e-4)
    if k > 1:
        error = terms.log_w.std(0) / k**0.5
        assert ((analytic - sampled).abs() < 4.5 * error).all()


def test_plates_are_announced():
    with pytest.raises(ValueError, match=r"'a'.*'data' at dim -2.*plates=2"):
        ELBO().terms(nested_model, nested_guide, torch.randn(B, M))


@pytest.mark.parametrize("k", [1, K])
@pytest.mark.parametrize("model", [EightSchools, EightSchoolsNonCentred])
def test_global_latents_make_the_data_set_one_datum(model, k):
    model, y, sigma = model(), torch.randn(8), torch.rand(8) + 1
    low = "theta" if type(model) is EightSchools else "theta_std"

    class Free(Guide):
        def posterior(self, name, prior):
            if name == low:
                return dist.Normal(prior.loc + 0.1, 0.9)
            return dist.LogNormal(0.2, 0.4) if name == "tau" else dist.Normal(0.5, 2.0)

    terms = ImportanceWeighted(k).terms(model, Free(model), y, sigma)
    assert terms.log_w.shape == (k, 1) and terms.layout.data_dim is None
    mu, tau, theta = (terms.values[n].reshape(k, -1) for n in ("mu", "tau", low))
    mean = mu if type(model) is EightSchools else torch.zeros_like(mu)
    width = tau if type(model) is EightSchools else torch.ones_like(tau)
    effect = theta if type(model) is EightSchools else mu + tau * theta
    hand = dist.Normal(0, 5).log_prob(mu) + dist.HalfCauchy(torch.tensor(5.0)).log_prob(tau)
    hand = hand + dist.Normal(mean, width).log_prob(theta).sum(-1, keepdim=True)
    hand = hand + dist.Normal(effect, sigma).log_prob(y).sum(-1, keepdim=True)
    hand = hand - dist.Normal(0.5, 2.0).log_prob(mu) - dist.LogNormal(0.2, 0.4).log_prob(tau)
    locations = mean + 0.1
    hand = hand - dist.Normal(locations, 0.9).log_prob(theta).sum(-1, keepdim=True)
    torch.testing.assert_close(terms.log_w, hand, rtol=1e-5, atol=1e-4)
    assert ImportanceWeighted(k).value(model, Free(model), y, sigma).shape == (1,)


def simple_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def simple_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z1", dist.Normal(torch.zeros(2), 0.5).to_event(1))


def mixed_model(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z1", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def mixed_guide(x):
    pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z1", dist.Normal(0.0, 1.0))


def subsampled_global(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 9, subsample=torch.arange(len(x))):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def subsampled_other(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z1", dist.Normal(0.0, 1.0))
        with pyro.plate("inner", 8, subsample=torch.arange(2), dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, None].expand(-1, 2))


def global_guide(x):
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def left_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z1", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "guide", "plates", "message"),
    [
        (mixed_model, mixed_guide, 1, r"'mu'.*outside plate 'data'.*Trace_ELBO"),
        (subsampled_global, global_guide, 1, "'x'.*subsampled plate 'data'.*not common"),
        (subsampled_other, left_guide, 2, "'x'.*subsampled plate 'inner'.*not common"),
        (simple_model, lambda x: None, 1, r"does not sample.*'z1'"),
        (
            simple_model,
            lambda x: (simple_guide(x), pyro.sample("extra", dist.Normal(0, 1))),
            1,
            "'extra'.*does not have",
        ),
    ],
    ids=["mixed", "global subsampled", "inner subsampled", "forgotten", "invented"],
)
def test_what_has_no_table_is_refused_by_name(model, guide, plates, message):
    with pytest.raises(ValueError, match=message):
        ImportanceWeighted(2, plates=plates).loss(model, guide, torch.randn(3))


@pytest.mark.parametrize("k", [1, 2])
def test_a_missing_to_event_is_refused_by_name(k):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ torch.ones(2, x.shape[-1]), 1.0), obs=x)

    for shape in ((3, 4), (4, 4)):  # a square batch passes Pyro's own check
        with pytest.raises(ValueError, match=r"site '?x'?[: ]"):
            with pyro.validation_enabled(True):
                ELBO(k).loss(model, simple_guide, torch.randn(shape))


def test_a_density_on_an_auxiliary_site_counts_in_the_total_and_not_per_site():
    class Joint(PyroModule):
        def __init__(self):
            super().__init__("model")

        def forward(self, x):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    model, x = Joint(), torch.tensor([0.3, -0.8, 1.1])
    guide = AutoMultivariateNormal(model)
    guide(x)
    # the exact posterior of (a, b): precision [[2 + n, n - 1], [n - 1, 1 + n]], linear term (sum x, sum x)
    precision = torch.tensor([[5.0, 2.0], [2.0, 4.0]])
    covariance = precision.inverse()
    chol = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        guide.loc.copy_(covariance @ torch.full((2,), x.sum().item()))
    guide.scale, guide.scale_tril = chol.diagonal().clone(), chol / chol.diagonal()[:, None]
    design = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    x_covariance = torch.eye(3) + (torch.ones(3, 2) @ design @ design.T @ torch.ones(2, 3))
    log_p = dist.MultivariateNormal(torch.zeros(3), x_covariance).log_prob(x)
    pyro.clear_param_store()
    terms = ImportanceWeighted(4).terms(model, guide, x)
    torch.testing.assert_close(terms.log_w, log_p.expand(4, 1), rtol=0, atol=1e-4)
    for bound in (FreeBits(0.1), AnalyticELBO()):
        with pytest.raises(ValueError, match="auxiliary"):
            bound.loss(model, guide, x)


def test_temperatures_stand_beside_the_numbers_and_weights_refuse_them():
    x = torch.randn(3)
    for k in (1, 4):
        pyro.set_rng_seed(4)
        plain = ELBO(k).terms(simple_model, simple_guide, x)
        pyro.set_rng_seed(4)
        with poutine.scale(scale=0.25):
            scaled = ELBO(k).terms(simple_model, simple_guide, x)
        assert torch.equal(plain.log_w, scaled.log_w) and scaled.scale == 1.0
        assert set(scaled.temperature) == {"z1", "x"}
        torch.testing.assert_close(ELBO(k).reduce(scaled), 0.25 * ELBO(k).reduce(plain))
        assert torch.equal(ELBO(k).reduce(scaled.at_temperature_one()), ELBO(k).reduce(plain))
    for bound in (ImportanceWeighted(2), Renyi(0.5, 2)):
        with poutine.scale(scale=0.25), pytest.raises(ValueError, match=r"temperature.*'z1'"):
            bound.loss(simple_model, simple_guide, x)


def test_order_and_discreteness_are_seen():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def upward(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(pyro.sample("b", dist.Normal(x, 1.0)), 1.0))

    assert not ELBO().terms(model, upward, torch.randn(3)).top_down
    with pytest.raises(ValueError, match=r"samples \['b', 'a'\] but the model \['a', 'b'\]"):
        AnalyticELBO().loss(model, upward, torch.randn(3))

    def bits(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("bit", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def bits_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("bit", dist.Bernoulli(0.3))

    with pytest.raises(ValueError, match=r"'bit'.*no reparameterised sampler"):
        ELBO().differentiable_loss(bits, bits_guide, torch.randn(3))
    with torch.no_grad():  # a value needs no gradient
        assert ELBO().value(bits, bits_guide, torch.randn(3)).shape == (3,)
    with pytest.raises(ValueError, match=r"'a'.*no closed-form KL"):

        def cauchy(x):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Cauchy(0.0, 1.0))
                pyro.sample("b", dist.Normal(a, 1.0))

        AnalyticELBO().loss(model, cauchy, torch.randn(3))


def test_trace_pair_is_the_contract_of_the_other_files():
    traces = trace_pair(simple_model, simple_guide, (torch.randn(3),), num_particles=4)
    terms = make_terms(*traces, num_particles=4)
    assert isinstance(terms, Terms) and terms.values["z1"].shape == (4, 3, 2)
    assert trace_pair(simple_model, simple_guide, (torch.randn(3),))[0].nodes["z1"]["value"].shape == (3, 2)
