"""Rates per unit against closed forms, and the words for what a layer carries: a used one, a collapsed one, an idle unit."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import Exact
from pyrarchy.inference import describe_layer, evaluate
from pyrarchy.inference.rates import unit_kl
from pyrarchy.zoo.factor_analysis import FactorAnalysis

N, UNITS, TOP = 31, 3, 2
GAIN = torch.tensor([1.5, 0.0, -0.5])


def model(x):
    with pyro.plate("data", x.shape[0], dim=-1):
        top = pyro.sample("z2", dist.Normal(torch.zeros(TOP), 1.0).to_event(1))
        z = pyro.sample("z1", dist.Normal(top.sum(-1, keepdim=True).expand(*top.shape[:-1], UNITS), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    """z2 is the prior, whatever x is; z1's unit 1 is the prior too, the other two are moved by x."""
    with pyro.plate("data", x.shape[0], dim=-1):
        top = pyro.sample("z2", dist.Normal(torch.zeros(TOP), 1.0).to_event(1))
        pyro.sample("z1", dist.Normal(top.sum(-1, keepdim=True) + GAIN * x, 1.0).to_event(1))


def test_the_rate_of_a_unit_is_its_kl_and_a_collapsed_layer_is_named():
    x = torch.randn(N, UNITS)
    graded = evaluate(model, guide, x, num_samples=200)
    np.testing.assert_allclose(graded.unit_rates["z1"], (0.5 * (GAIN * x) ** 2).mean(0), atol=1e-6)
    np.testing.assert_allclose(graded.unit_rates["z2"], 0.0, atol=1e-7)
    assert graded.unit_rates["z1"].sum() == pytest.approx(graded.rates["z1"], abs=4.5 * 3 / (N * 200) ** 0.5)
    words = graded.layers()
    assert list(words) == ["z2", "z1"]
    assert words["z2"] == "z2 carries nothing: rate 0.00 nats, 0 of 2 units active. It has collapsed to the prior."
    assert "z1 is used" in words["z1"] and words["z1"].endswith("1 unit carries nothing (below 0.01 nats): z1[1].")


def test_a_full_covariance_gives_the_rates_of_its_marginals():
    pyro.set_rng_seed(2)
    fa = FactorAnalysis(5, 2)
    x = torch.randn(N, 5)
    graded = evaluate(fa, Exact(fa), x, num_samples=30)
    q = fa.posterior(x)
    exact = 0.5 * (q.variance + q.mean**2 - 1 - q.variance.log()).mean(0).detach()
    np.testing.assert_allclose(graded.unit_rates["z1"], exact, rtol=1e-4)
    assert graded.unit_rates["z1"].sum() <= graded.rates["z1"] + 0.05  # what is left is the units' total correlation


def test_a_flow_gives_them_by_its_draws_and_leaves_the_other_figures_alone(monkeypatch):
    pyro.set_rng_seed(1)
    x = torch.randn(9, UNITS)
    shear = dist.transforms.LowerCholeskyAffine(
        torch.zeros(UNITS), torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 0.5]])
    )

    def flow(x):
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z2", dist.Normal(torch.zeros(TOP), 1.0).to_event(1))
            base = dist.Normal(x, 1.0).to_event(1)
            pyro.sample("z1", dist.TransformedDistribution(base, [shear]))

    graded = evaluate(model, flow, x, num_samples=40, rows_per_pass=90)
    # unit 2 is N(x / 2, 1/4) under q, and N(s, 1) with s ~ N(0, 2) under p given z2
    exact = 0.5 * (0.25 + (0.5 * x[:, 2]) ** 2 + 2 - 1 - np.log(0.25)).mean().item()
    assert graded.unit_rates["z1"].shape == (UNITS,) and graded.unit_rates["z1"][2] == pytest.approx(exact, rel=0.2)
    monkeypatch.setattr("pyrarchy.inference.weigh.rate_sums", lambda terms, joint: {})
    blind = evaluate(model, flow, x, num_samples=40, rows_per_pass=90)
    np.testing.assert_array_equal(blind.log_p, graded.log_p)
    assert blind.unit_rates == {}


def test_samples_stand_in_where_there_is_no_closed_form_and_a_joint_prior_has_none():
    q, p = dist.Normal(torch.zeros(4000, 2), 0.5).to_event(1), dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1)
    kl = unit_kl(q, p, q.sample()).mean(0)
    assert kl.shape == (2,) and (kl > 0.1).all()
    assert unit_kl(q, dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), q.sample()) is None
    bits = unit_kl(dist.Bernoulli(torch.tensor([0.5, 1.0])).to_event(1), dist.Bernoulli(0.5), torch.ones(2))
    np.testing.assert_allclose(bits, [0.0, np.log(2)], atol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("z3", 0.01, 0, 4), "z3 carries nothing: rate 0.01 nats, 0 of 4 units active."),
        (("z3", 4.0, 0, 4), "Its q does not depend on x, and is not the prior."),
        (("z2", 0.05, 1, 8), "z2 carries little: rate 0.05 nats, 1 of 8 units active."),
        (("z1", 7.0, None, None), "z1 is used: rate 7.00 nats."),
        (("z1", -0.002, None, None), "rate 0.00 nats"),
        (("z1", float("nan"), 1, 2), "not a number"),
        (("z1", 7.0, 20, 40, [0.0] * 20 + [0.35] * 20), "20 units carry nothing (below 0.01 nats): z1[0], "),
    ],
)
def test_the_words_for_a_layer(given, words):
    assert words in describe_layer(*given)
