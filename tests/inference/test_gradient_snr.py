"""Gradient SNR: moments against closed forms and a loop, and the slopes in K and M of Rainforth et al. (2018)."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import IAF, BottomUp, Encoder, Guide, Ladder
from pyrarchy.inference import ELBO, MIWAE, ImportanceWeighted
from pyrarchy.inference.gradient_snr import gradient_snr, slope
from pyrarchy.zoo import MarkovHVAE


class Toy(PyroModule):
    """z ~ N(mu, I), x | z ~ N(z, I)."""

    def __init__(self, mu):
        super().__init__("model")
        self.mu = torch.nn.Parameter(mu)

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z1", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class ToyGuide(Guide):
    """q(z | x) = N(x / 2 + b, 2/3 I)."""

    def __init__(self, model, b):
        super().__init__(model)
        self.b = torch.nn.Parameter(b)

    def encode(self, x):
        return x / 2 + self.b

    def posterior(self, name, prior):
        return dist.Normal(self.evidence, (2 / 3) ** 0.5).to_event(1)


def toy(dim=2, rows=32, offset=0.4):
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(dim, generator=generator)
    x = mu + 2**0.5 * torch.randn(rows, dim, generator=generator)
    model = Toy(x.mean(0) + offset * torch.randn(dim, generator=generator))
    return model, ToyGuide(model, x.mean(0) / 2 + offset * torch.randn(dim, generator=generator)), x


@pytest.mark.stochastic
def test_moments_of_the_elbo_s_gradient_in_closed_form():
    """At K = 1: d/db = -(d/s) summed over rows, with variance N v (1/s)^2 ... of the reparameterised draw."""
    model, guide, x = toy()
    found = gradient_snr(model, guide, x, ELBO(), draws=4000)
    with torch.no_grad():
        loc = x / 2 + guide.b
        # log p(z) + log p(x | z) - log q: d/db = -(z - mu) - (z - x), the entropy being constant
        mean = (-(2 * loc - model.mu - x)).sum(0).numpy()
    variance = len(x) * 4 * 2 / 3
    error = np.sqrt(variance / 4000)
    assert (np.abs(found.mean["guide.b"] - mean) < 4.5 * error).all()
    assert found.variance["guide.b"] == pytest.approx(variance, rel=0.12)
    assert found.mean["model.mu"] == pytest.approx((loc - model.mu).sum(0).detach().numpy(), abs=4.5 * error)


@pytest.mark.stochastic
@pytest.mark.parametrize("family", [Ladder, IAF, BottomUp])
def test_vectorised_draws_equal_a_loop(family):
    """Mean and variance over vmap's draws agree with autograd's, one by one, for shared modules and flows too."""
    with (
        torch.random.fork_rng()
    ):  # one problem for all seeds: some of those that chance makes have gradients of heavy tails
        torch.manual_seed(0)
        model, x = MarkovHVAE(5, (3, 2), (6, 4)), torch.bernoulli(torch.full((3, 5), 0.5))
        guide = BottomUp(5, (3, 2), (6, 4)) if family is BottomUp else family(model, Encoder(5, (3, 2), (6, 4)))
    pyro.set_rng_seed(1)
    bound, draws = ImportanceWeighted(3), 300
    found = gradient_snr(model, guide, x, bound, draws=draws)
    name, weight = "model.priors.0.1.loc.weight", model.priors[0][1].loc.weight
    loop = []
    for _ in range(draws):
        (g,) = torch.autograd.grad(-bound.differentiable_loss(model, guide, x), [weight])
        loop.append(g.double().numpy())
    loop = np.stack(loop)
    error = np.sqrt(found.variance[name] / draws + loop.var(0) / draws)
    assert (np.abs(found.mean[name] - loop.mean(0)) < 4.8 * error + 1e-9).all()
    # two samples of 300 differ by a factor of 1.6 once in 10,000: bootstrap of 12,000 gradients, of the ladder
    assert 0.5 < found.variance[name].sum() / loop.var(0).sum() < 2.0


def test_slopes_in_k_and_m():
    """log-log slopes of the SNR: theta +.5, phi -.5, DReG's phi +.5 in K; both +.5 in M; each within .15."""
    model, guide, x = toy()

    def ratios(bounds):
        found = [gradient_snr(model, guide, x, bound, draws=1000) for bound in bounds]
        return [np.median(f.snr("model.mu")) for f in found], [np.median(f.snr("guide.b")) for f in found]

    sizes = [4, 16, 64]
    theta, phi = ratios([ImportanceWeighted(k) for k in sizes])
    assert slope(sizes, theta) == pytest.approx(0.5, abs=0.15)
    assert slope(sizes, phi) == pytest.approx(-0.5, abs=0.15)
    _, phi = ratios([ImportanceWeighted(k, estimator="dreg") for k in sizes])
    assert slope(sizes, phi) == pytest.approx(0.5, abs=0.15)
    sizes = [1, 4, 16]
    theta, phi = ratios([MIWAE(m, 4) for m in sizes])
    assert slope(sizes, theta) == pytest.approx(0.5, abs=0.15)
    assert slope(sizes, phi) == pytest.approx(0.5, abs=0.15)


def test_parameters_and_generators_are_left_alone():
    model, guide, x = toy()
    before, state = {n: p for n, p in model.named_parameters()}, torch.get_rng_state()
    first = gradient_snr(model, guide, x, ELBO(), draws=5)
    assert {n: p for n, p in model.named_parameters()} == before and torch.equal(torch.get_rng_state(), state)
    again = gradient_snr(model, guide, x, ELBO(), draws=5)
    assert (again.mean["guide.b"] == first.mean["guide.b"]).all()
    assert first.average("guide")[0] == pytest.approx(first.snr("guide.b").mean())
    with pytest.raises(ValueError, match="no parameter of the"):
        first.average("nobody")


def test_a_sampler_that_cannot_be_vectorised_is_named():
    def gamma(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Free(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.rate = torch.nn.Parameter(torch.ones(()))

        def posterior(self, name, prior):
            return dist.Gamma(2.0, self.rate)

    with pytest.raises(ValueError, match=r"site 'z1' \(Gamma\)"):
        gradient_snr(gamma, Free(gamma), torch.ones(3), ELBO(), draws=4)
