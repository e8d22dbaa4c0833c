"""The hierarchy of feature maps: densities by hand, and sizes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyrarchy.zoo import ConvResidualHVAE

B = 5


def model():
    pyro.set_rng_seed(1)
    return ConvResidualHVAE((4, 8), channels=(3, 2), width=6, x_mean=torch.linspace(0.1, 0.9, 32))


def test_sizes_follow_the_image():
    m = model()
    assert m.map_shapes == ((3, 2, 4), (2, 1, 2)) and m.z_dims == (24, 4)
    wide = ConvResidualHVAE((28, 28), channels=(2, 4), width=5)
    assert wide.z_dims == (2 * 14 * 14, 4 * 7 * 7)
    torch.testing.assert_close(torch.sigmoid(m.decoder.bias), torch.linspace(0.1, 0.9, 32))


@pytest.mark.parametrize("lead", [(), (4,)], ids=["one", "particles"])
def test_densities_by_hand(lead):
    m, x = model(), torch.bernoulli(torch.full((B, 32), 0.4))
    z = {"z2": torch.randn(*lead, B, 4), "z1": torch.randn(*lead, B, 24)}
    given = poutine.condition(m, z)
    if lead:
        given = pyro.plate("particles", lead[0], dim=-2)(given)
    trace = poutine.trace(given).get_trace(x)
    trace.compute_log_prob()
    h1 = m.blocks[1](torch.zeros(6, 1, 2), z["z2"])
    h0 = m.blocks[0](h1, z["z1"])
    assert h1.shape == (*lead, B, 6, 2, 4) and h0.shape == (*lead, B, 6, 4, 8)
    expected = {
        "z2": dist.Normal(0.0, 1.0).log_prob(z["z2"]).sum(-1),
        "z1": m.priors[0](h1).log_prob(z["z1"]),
        "x": m.decoder(h0).log_prob(x),
    }
    for name, value in expected.items():
        assert value.shape == (*lead, B)
        torch.testing.assert_close(trace.nodes[name]["log_prob"], value)


def test_the_map_of_a_sample_keeps_its_place():
    """A unit of z1 in one corner moves pixels near that corner alone: maps are not mixed up by flattening."""
    m = model().double()
    z = [torch.randn(24, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    jacobian = torch.autograd.functional.jacobian(lambda v: m.generate([v, z[1]]).base_dist.logits, z[0])
    moved = (jacobian != 0).reshape(4, 8, 3, 2, 4)
    assert moved[0, 0, :, 0, 0].all() and moved[3, 7, :, 1, 3].all()
    assert not moved[:, 7, :, :, 0].any() and not moved[:, 0, :, :, 3].any()


def test_every_parameter_is_reached():
    m = model()
    poutine.trace(m).get_trace(torch.ones(B, 32)).log_prob_sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in m.parameters())


@pytest.mark.parametrize("shape", [None, (6, 8), (8, 10)])
def test_images_that_do_not_divide_are_refused(shape):
    with pytest.raises(ValueError, match="divide by 4"):
        ConvResidualHVAE(shape)
