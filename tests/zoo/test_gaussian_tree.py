import math

import pyro
import pytest
import torch
from pyro import poutine

from pyrarchy.zoo.gaussian_tree import GaussianTree

D, A, T, S = 3, 1.7, 0.6, 0.9


def tree():
    return GaussianTree(D, a=A, z1_scale=T, x_scale=S).double()


def dense_joint():
    """Covariance of (z2, z1, x), written from the linear map of independent noises."""
    noise = torch.diag(torch.tensor([1.0] + [T] * D + [S] * D, dtype=torch.float64))
    eye, zero = torch.eye(D, dtype=torch.float64), torch.zeros(D, D, dtype=torch.float64)
    column, row = torch.full((D, 1), A, dtype=torch.float64), torch.zeros(1, 2 * D, dtype=torch.float64)
    top = torch.cat([torch.ones(1, 1, dtype=torch.float64), row], 1)
    root = torch.cat([top, torch.cat([column, eye, zero], 1), torch.cat([column, eye, eye], 1)]) @ noise
    return root @ root.mT


def data(n=5):
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2


def test_marginal_equals_the_dense_gaussian():
    covariance = dense_joint()[1 + D :, 1 + D :]
    dense = torch.distributions.MultivariateNormal(torch.zeros(D, dtype=torch.float64), covariance)
    # a, t and s were float32 numbers
    torch.testing.assert_close(tree().log_marginal(data()), dense.log_prob(data()), rtol=1e-6, atol=1e-6)


def test_posterior_equals_dense_conditioning():
    joint, x = dense_joint(), data()
    latent, observed, cross = joint[: 1 + D, : 1 + D], joint[1 + D :, 1 + D :], joint[: 1 + D, 1 + D :]
    gain = cross @ observed.inverse()
    dense = torch.distributions.MultivariateNormal(x @ gain.mT, latent - gain @ cross.mT)
    z = torch.randn(4, 5, 1 + D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q = tree().posterior(x)
    z2, z1 = z[..., :1], z[..., 1:]
    given = q["z1"]({"z2": z2})
    torch.testing.assert_close(q["z2"].log_prob(z2) + given.log_prob(z1), dense.log_prob(z), rtol=1e-6, atol=1e-6)
    assert given.batch_shape == (4, 5) and given.event_shape == (D,)


def test_bayes_rule_holds_on_the_traced_density():
    model, x = tree(), data()
    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    joint = sum(trace.nodes[name]["log_prob"] for name in ("z2", "z1", "x"))
    q, z2 = model.posterior(x), trace.nodes["z2"]["value"]
    conditional = q["z2"].log_prob(z2) + q["z1"]({"z2": z2}).log_prob(trace.nodes["z1"]["value"])
    torch.testing.assert_close(joint - conditional, model.log_marginal(x), rtol=1e-10, atol=1e-10)


def test_the_best_diagonal_guides_miss_by_the_reference_gaps():
    """The exact posterior of d = 2, t^2 = 0.1, s^2 = 1: mean-field misses 1.004215 nats."""
    model = GaussianTree(2).double()
    q = model.posterior(torch.zeros(1, 2, dtype=torch.float64))
    above = [q["z1"]({"z2": torch.tensor([[value]], dtype=torch.float64)}) for value in (0.0, 1.0)]
    slope, scale = (above[1].mean - above[0].mean)[0], above[0].stddev[0]
    precision = torch.zeros(3, 3, dtype=torch.float64)
    precision[0, 0] = q["z2"].variance.reciprocal().squeeze() + ((slope / scale) ** 2).sum()
    precision[0, 1:] = precision[1:, 0] = -slope / scale**2
    precision[1:, 1:] = torch.diag(scale**-2)
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert float(gap) == pytest.approx(1.004215, abs=1e-5)


@pytest.mark.stochastic
def test_runs_as_a_pyro_model_with_particles_on_the_left():
    x = torch.zeros(4, D)
    model = GaussianTree(D, a=A, z1_scale=T, x_scale=S)
    pyro.set_rng_seed(0)
    with pyro.plate("particles", 6000, dim=-2):
        trace = poutine.trace(poutine.uncondition(model)).get_trace(x)
    shapes = {name: tuple(trace.nodes[name]["value"].shape) for name in ("z2", "z1", "x")}
    assert shapes == {"z2": (6000, 4, 1), "z1": (6000, 4, D), "x": (6000, 4, D)}
    draws = trace.nodes["x"]["value"].reshape(-1, D)
    # covariance of two leaves: a^2, with standard error sqrt((v^2 + a^4) / n)
    n, variance = len(draws), A**2 + T**2 + S**2
    error = math.sqrt((variance**2 + A**4) / n)
    assert float((draws[:, 0] * draws[:, 1]).mean()) == pytest.approx(A**2, abs=4 * error)


def test_refuses_scales_that_are_not_positive():
    with pytest.raises(ValueError, match="x_scale"):
        GaussianTree(2, x_scale=0.0)
