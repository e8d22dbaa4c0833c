"""The one-layer models: densities by hand, particles on the left, priors as the bits' means say."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyrarchy.zoo import VAE, GaussianVAE, MarkovHVAE

X, Z, B = 7, 3, 5


def scored(model, x, z, lead=()):
    """Log-probabilities of the sites at a given z1, particles on the left."""
    given = poutine.condition(model, {"z1": z})
    if lead:
        given = pyro.plate("particles", lead[0], dim=-2)(given)
    trace = poutine.trace(given).get_trace(x)
    trace.compute_log_prob()
    return {n: s["log_prob"] for n, s in trace.nodes.items() if n in ("z1", "x")}


@pytest.mark.parametrize("lead", [(), (4,)], ids=["one", "particles"])
def test_densities_by_hand(lead):
    z = torch.randn(*lead, B, Z)
    bits, real = torch.bernoulli(torch.full((B, X), 0.4)), torch.randn(B, X)
    model = VAE(X, z_dim=Z, hidden=(6, 8))
    got = scored(model, bits, z, lead)
    torch.testing.assert_close(got["z1"], dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
    logits = model.decoder[1].logits(model.decoder[0](z))
    by_hand = (bits * logits - torch.nn.functional.softplus(logits)).sum(-1)
    torch.testing.assert_close(got["x"], by_hand, rtol=1e-5, atol=1e-5)
    model = GaussianVAE(X, z_dim=Z, hidden=(6, 8), floor=0.2)
    q = model.decoder(z)
    assert q.stddev.min() > 0.2
    torch.testing.assert_close(scored(model, real, z, lead)["x"], q.log_prob(real))


@pytest.mark.stochastic
def test_a_fresh_model_draws_bits_at_their_training_means():
    mean = torch.linspace(0.05, 0.9, X)
    model = VAE(X, z_dim=Z, hidden=(6,), x_mean=mean)
    with torch.no_grad():
        model.decoder[1].logits.weight.zero_()
    prior = Predictive(poutine.uncondition(model), num_samples=1, return_sites=["x"])
    drawn = prior(torch.zeros(6000, X))["x"].squeeze(0)
    error = 4.5 * (mean * (1 - mean) / 6000).sqrt()
    assert ((drawn.mean(0) - mean).abs() < error).all()


def test_one_markov_layer_is_the_vae():
    names = {n: p.shape for n, p in MarkovHVAE(X, z_dims=(Z,), hidden=(6,)).named_parameters()}
    assert names == {n: p.shape for n, p in VAE(X, z_dim=Z, hidden=(6, 6)).named_parameters()}


@pytest.mark.parametrize("model", [VAE(X, z_dim=Z, hidden=(6,)), GaussianVAE(X, z_dim=Z, hidden=(6,))])
def test_root_names_and_double_precision(model):
    assert model._pyro_name == "model"
    model = model.double()
    x = torch.ones(B, X, dtype=torch.float64)
    trace = poutine.trace(model).get_trace(x)
    assert trace.nodes["z1"]["value"].dtype == torch.float64 and trace.nodes["z1"]["value"].shape == (B, Z)
    model.float()


def test_a_scale_on_its_floor_is_remarked_upon():
    model = GaussianVAE(X, z_dim=Z, hidden=(6,), floor=0.1)
    z = torch.randn(50, Z)
    assert model.remarks(z) == []
    with torch.no_grad():
        model.decoder[1].raw_scale.weight.zero_()
        model.decoder[1].raw_scale.bias[:2] = -20.0
    (remark,) = model.remarks(z)
    assert "2 of 7" in remark and "0.1" in remark
    with pytest.raises(ValueError, match="floor must be > 0"):
        GaussianVAE(X, floor=0.0)
