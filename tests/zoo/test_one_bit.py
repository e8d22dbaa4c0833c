"""One latent reaches its exact optimum; a second comes below what one can reach."""

import math

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import integrate, optimize

import pyrarchy
from pyrarchy.fit_plan import cosine
from pyrarchy.inference import ELBO, fit, isolated
from pyrarchy.run_folder import prepare
from pyrarchy.zoo import OneBit
from pyrarchy.zoo.one_bit import normal_quadrature, one_bit_optimum

OPTIMA = {1: 0.69315, 2: 0.90756, 5: 1.06579, 10: 1.15371}


@pytest.mark.parametrize("bits", OPTIMA)
def test_the_optimum_by_another_quadrature(bits):
    """Adaptive integration and a simplex search, from where z is used and from where it is not."""

    def loss(raw):
        mu, s = raw[0], math.exp(raw[1])

        def integrand(e):
            return np.logaddexp(0, -2 * mu * (mu + s * e) / s**2) * math.exp(-(e**2) / 2) / math.sqrt(2 * math.pi)

        value = integrate.quad(integrand, -12, 12, points=[-mu / s], epsabs=1e-11)[0]
        return bits * value + 0.5 * (mu**2 + s**2 - 1) - math.log(s)

    found = min(optimize.minimize(loss, start, method="Nelder-Mead").fun for start in ((1.0, -1.0), (0.05, 0.0)))
    assert one_bit_optimum(bits)[0] == pytest.approx(found, abs=1e-7)
    assert found == pytest.approx(OPTIMA[bits], abs=6e-6)
    assert found >= math.log(2) - 1e-12


def one_latent_loss(model, guide, x):
    """The loss by quadrature over z, nats per datum."""
    q = guide.encoder(x)["z1"].base_dist
    nodes, weights = (t.float() for t in normal_quadrature(200))
    z = q.loc + q.scale * nodes.reshape(-1, 1, 1)  # (nodes, 2, 1)
    log_lik = (weights.unsqueeze(-1) * model.decoder(z).log_prob(x)).sum(0)
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    return (kl - log_lik).mean().item()


def trained(name, bits, steps, particles, seed=0):
    pair = pyrarchy.get_pair(name)
    data, _ = prepare(pair, pyrarchy.load_data(pair.data), {"bits": bits})
    model, guide = pair(data, bits=bits, seed=seed)
    x = torch.from_numpy(data.train)
    assert x.shape == (2, bits) and x.sum() == bits
    schedule = lambda step: cosine(step / steps, pair.training.decay)  # noqa: E731
    fit(model, guide, x, objective=ELBO(particles), optimizer=5e-3, steps=steps, schedule=schedule, seed=seed)
    return model, guide, x


def test_a_short_training_comes_near_the_optimum_of_two_bits():
    model, guide, x = trained("one_bit", 2, 1500, 100)
    with torch.no_grad():
        loss = one_latent_loss(model, guide, x)
    assert OPTIMA[2] - 1e-5 < loss < OPTIMA[2] + 0.02
    with isolated(model, guide, seed=1):  # the quadrature is the bound
        log_w = ELBO(20_000).terms(model, guide, x).log_w.detach()
    assert abs(loss + log_w.mean()) < 4.5 * log_w.mean(1).std() / len(log_w) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("bits", OPTIMA)
def test_one_latent_reaches_the_exact_optimum(bits):
    model, guide, x = trained("one_bit", bits, 5000, 500)
    with torch.no_grad():
        assert OPTIMA[bits] - 1e-5 < one_latent_loss(model, guide, x) < OPTIMA[bits] + 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "seed"), [(5, 0), (10, 0), (100, 1)])  # of 100 bits, seed 0 stays with one latent
def test_two_latents_come_close_to_the_entropy(bits, seed):
    model, guide, x = trained("one_bit_two", bits, 5000, 500, seed)
    with isolated(model, guide, seed=1), torch.no_grad():
        log_w = ELBO(50_000).terms(model, guide, x).log_w
    loss, error = -log_w.mean().item(), log_w.std().item() / log_w.numel() ** 0.5
    assert math.log(2) - 4 * error < loss < 0.76


@pytest.mark.parametrize("layers", [1, 2])
def test_rows_are_data_and_columns_bits(layers):
    model, x = OneBit(3, layers), torch.ones(5, 3)
    sites = poutine.trace(model).get_trace(x).nodes
    assert sites["data"]["value"].shape == (5,) and sites["z1"]["value"].shape == (5, 1)
    assert sites["x"]["fn"].batch_shape == (5,) and sites["x"]["fn"].event_shape == (3,)


def test_what_is_refused():
    with pytest.raises(ValueError, match="layers must be 1 or 2"):
        OneBit(10, 3)
    pair = pyrarchy.get_pair("one_bit")
    with pytest.raises(ValueError, match="bits=101: one_bit has 100 columns"):
        prepare(pair, pyrarchy.load_data(pair.data), {"bits": 101})
