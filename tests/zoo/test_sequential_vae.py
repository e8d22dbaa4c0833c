"""A linear sequential VAE has a dense Gaussian marginal: of its last image, whatever the images before it."""

import pytest
import torch
from torch import nn

from pyrarchy.inference import ELBO, evaluate
from pyrarchy.zoo import SequentialVAE, SharedSequentialVAE
from pyrarchy.zoo.likelihoods import GaussianPixels

D, B = 6, 4


def linear(kind, z_dims):
    torch.manual_seed(2)
    model = kind(D, z_dims, (), torch.rand(D), GaussianPixels, nn.Identity).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


@pytest.mark.parametrize(("kind", "z_dims"), [(SequentialVAE, (2, 1, 3)), (SharedSequentialVAE, (2, 2, 2))])
def test_the_linear_model_has_its_dense_marginal(kind, z_dims, linear_gaussian):
    model, x = linear(kind, z_dims), torch.randn(B, D, dtype=torch.float64)
    zero = [torch.zeros(z, dtype=torch.float64) for z in z_dims]
    scale = model.decode(zero)[-1].base_dist.scale[0].item()
    marginal, guide, loadings = linear_gaussian(lambda z: model.decode(z)[-1].mean, z_dims, scale)
    terms = ELBO(num_particles=3).terms(model, guide, x)
    assert list(terms.log_obs) == ["x"] and list(terms.log_aux) == ["x_stage1", "x_stage2"]
    torch.testing.assert_close(terms.log_w, marginal.log_prob(x).expand(3, B), rtol=0, atol=1e-9)
    found = evaluate(model, guide, x, num_samples=4)
    torch.testing.assert_close(torch.from_numpy(found.log_p), marginal.log_prob(x).detach(), rtol=0, atol=1e-9)
    # the loadings by the recursion, written out: the first step reads z3
    total, place = torch.zeros(D, sum(z_dims), dtype=torch.float64), sum(z_dims)
    for t, z_dim in enumerate(reversed(z_dims)):
        step, place = model.step(t), place - z_dim
        gate, weight = step.raw_gate.sigmoid()[:, None], step.network[0].weight
        new = weight[:, z_dim:] @ total
        new[:, place : place + z_dim] += weight[:, :z_dim]
        total = gate * total + (1 - gate) * new
    torch.testing.assert_close(loadings, total.detach(), rtol=0, atol=1e-10)


def test_the_first_image_is_the_training_mean():
    mean = torch.rand(D)
    model = SequentialVAE(D, (2, 3), (5,), mean)
    torch.testing.assert_close(model.likelihoods[0](model.first).mean, mean.clamp(1e-3, 1 - 1e-3))


def test_sharing_is_of_networks_alone():
    own, shared = SequentialVAE(D, (2, 2, 2), (5,)), SharedSequentialVAE(D, (2, 2, 2), (5,))
    count = sum(p.numel() for p in shared.parameters())
    assert sum(p.numel() for p in own.parameters()) == 3 * count
    assert own.step(0) is not own.step(2) and shared.step(0) is shared.step(2)
    with pytest.raises(ValueError, match=r"z_dims must be equal, not \(2, 3\)"):
        SharedSequentialVAE(D, (2, 3))
    with pytest.raises(ValueError, match="one entry a step"):
        SequentialVAE(D, ())
