"""The hierarchy along one state: densities by hand, and log p(x) by quadrature."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyrarchy.zoo import ResidualHVAE

X, Z, W, B = 7, (5, 4, 3), 9, 6


def model():
    pyro.set_rng_seed(1)
    return ResidualHVAE(X, Z, W)


def quadrature(model, x, points=24):
    """log p(x) by Gauss-Hermite nodes over all latents of a small hierarchy; (B,)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    e = torch.tensor(list(itertools.product(nodes, repeat=sum(model.z_dims))), dtype=x.dtype)
    log_w = torch.tensor(list(itertools.product(np.log(weights / weights.sum()), repeat=sum(model.z_dims)))).sum(-1)
    h, z = model.start(x), []
    for i, part in reversed(list(enumerate(e.split(model.z_dims, -1), 1))):
        prior = model.prior(i, h)
        z.insert(0, prior.mean + prior.stddev * part)
        h = model.blocks[i - 1](h, z[0])
    p = model.generate(z)
    return torch.stack([torch.logsumexp(log_w + p.log_prob(row), 0) for row in x]).detach()


def bits(dim, **kwargs):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=dim)), **kwargs)


@pytest.mark.parametrize("lead", [(), (4,)], ids=["one", "particles"])
def test_densities_by_hand(lead):
    m, x = model(), torch.bernoulli(torch.full((B, X), 0.4))
    z = {f"z{i}": torch.randn(*lead, B, d) for i, d in enumerate(Z, 1)}
    given = poutine.condition(m, z)
    if lead:
        given = pyro.plate("particles", lead[0], dim=-2)(given)
    trace = poutine.trace(given).get_trace(x)
    trace.compute_log_prob()
    assert [n for n in trace.nodes if n[0] == "z"] == ["z3", "z2", "z1"]
    h2 = m.blocks[2](torch.zeros(W), z["z3"])
    h1 = m.blocks[1](h2, z["z2"])
    h0 = m.blocks[0](h1, z["z1"])
    expected = {
        "z3": dist.Normal(0.0, 1.0).log_prob(z["z3"]).sum(-1),
        "z2": m.priors[1](h2).log_prob(z["z2"]),
        "z1": m.priors[0](h1).log_prob(z["z1"]),
        "x": m.decoder(h0).log_prob(x),
    }
    for name, value in expected.items():
        assert value.shape == (*lead, B)
        torch.testing.assert_close(trace.nodes[name]["log_prob"], value)
    torch.testing.assert_close(m.generate([z[f"z{i}"] for i in (1, 2, 3)]).log_prob(x), expected["x"])


def test_every_layer_reaches_the_data_and_all_layers_below():
    """What Markov layers lack: with z1 and z2 held, x still depends on z3, and so does the prior of z1."""
    m = model().double()
    z3 = torch.randn(Z[2], dtype=torch.float64)
    fixed = [torch.randn(d, dtype=torch.float64) for d in Z[:2]]
    jacobian = torch.autograd.functional.jacobian(lambda v: m.generate([*fixed, v]).base_dist.logits, z3)
    assert (jacobian != 0).all()

    def prior(v):
        h = m.start(v)
        for i, z in ((3, v), (2, fixed[1])):
            h = m.blocks[i - 1](h, z)
        return m.prior(1, h).mean

    assert (torch.autograd.functional.jacobian(prior, z3) != 0).all()


def test_quadrature_sums_to_one_over_all_images():
    pyro.set_rng_seed(2)
    m = ResidualHVAE(4, (1, 1), 8).double()
    assert quadrature(m, bits(4, dtype=torch.float64)).logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)
    # the kink of ELU slows convergence
    few, many = (quadrature(m, bits(4, dtype=torch.float64), n) for n in (24, 60))
    torch.testing.assert_close(few, many, rtol=0, atol=2e-3)


def test_every_parameter_is_reached_and_the_state_is_gone():
    m, x = model(), torch.ones(B, X)
    poutine.trace(m).get_trace(x).log_prob_sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in m.parameters())
    assert m.state is None
    m.decoder[1].logits = torch.nn.Linear(W + 1, X)
    with pytest.raises(RuntimeError, match="shapes"):
        m(x)
    assert m.state is None


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="at least one layer"):
        ResidualHVAE(X, ())
