"""The hierarchy: each layer is given the one above it, alone."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyrarchy.zoo import MarkovHVAE

X, Z, B = 7, (5, 4, 3), 6


def model():
    pyro.set_rng_seed(1)
    return MarkovHVAE(X, z_dims=Z, hidden=(8, 9, 10))


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
    expected = {
        "z3": dist.Normal(0.0, 1.0).log_prob(z["z3"]).sum(-1),
        "z2": m.priors[1](z["z3"]).log_prob(z["z2"]),
        "z1": m.priors[0](z["z2"]).log_prob(z["z1"]),
        "x": m.decoder(z["z1"]).log_prob(x),
    }
    for name, value in expected.items():
        assert value.shape == (*lead, B)
        torch.testing.assert_close(trace.nodes[name]["log_prob"], value)


def test_every_parameter_is_reached():
    m, x = model(), torch.ones(B, X)
    poutine.trace(m).get_trace(x).log_prob_sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in m.parameters())


@pytest.mark.parametrize("bad", [{"z_dims": Z, "hidden": (8, 9)}, {"z_dims": (), "hidden": ()}])
def test_sizes_are_checked(bad):
    with pytest.raises(ValueError, match="one entry a layer"):
        MarkovHVAE(X, **bad)
