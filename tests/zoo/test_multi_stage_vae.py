"""A linear multi-stage VAE has a dense Gaussian marginal, that of the refined image."""

import pytest
import torch
from torch import nn

from pyrarchy.inference import ELBO, evaluate, reconstruct, sample
from pyrarchy.zoo import MultiStageVAE
from pyrarchy.zoo.likelihoods import Bits, GaussianPixels, LaplacePixels

D, B, Z = 6, 4, 3


def linear():
    torch.manual_seed(3)
    kinds = (LaplacePixels, GaussianPixels)  # the coarse one enters no density, so it need not be Gaussian
    model = MultiStageVAE(D, Z, ((5,), ()), torch.rand(D), kinds, nn.Identity).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def test_the_linear_model_has_its_dense_marginal(linear_gaussian):
    model, x = linear(), torch.randn(B, D, dtype=torch.float64)
    scale = model.decode(torch.zeros(Z, dtype=torch.float64))[1].base_dist.scale[0].item()
    marginal, guide, loadings = linear_gaussian(lambda z: model.decode(z[0])[1].mean, (Z,), scale)
    terms = ELBO(num_particles=3).terms(model, guide, x)
    assert list(terms.log_obs) == ["x"] and list(terms.log_aux) == ["x_stage1"]
    torch.testing.assert_close(terms.log_w, marginal.log_prob(x).expand(3, B), rtol=0, atol=1e-9)
    found = evaluate(model, guide, x, num_samples=4)
    torch.testing.assert_close(torch.from_numpy(found.log_p), marginal.log_prob(x).detach(), rtol=0, atol=1e-9)
    coarse = model.coarse[2].weight @ model.coarse[0].weight
    torch.testing.assert_close(loadings, (coarse + model.refiner[0].weight @ coarse).detach(), rtol=0, atol=1e-10)
    # what a reader gets of the images: the coarse one first, x last
    z1 = (x - marginal.mean) @ loadings @ (torch.eye(Z) * scale**2 + loadings.T @ loadings).inverse()
    images = reconstruct(model, guide, x)
    assert list(images) == ["x_stage1", "x"]
    torch.testing.assert_close(torch.from_numpy(images["x"]), model.decode(z1)[1].mean.detach(), rtol=0, atol=0.2)
    draws = sample(model, (x,), 20000, seed=1)
    assert list(draws) == ["z1", "x_stage1", "x"]
    covariance = torch.from_numpy(draws["x"]).T.cov()
    worst = marginal.covariance_matrix.diagonal().max().item()
    torch.testing.assert_close(
        covariance, marginal.covariance_matrix.detach(), rtol=0, atol=5 * worst * (2 / 20000) ** 0.5
    )


def test_the_refiner_adds_to_the_coarse_image():
    model = MultiStageVAE(D, Z, ((5,), (7,)))
    for p in model.refiner.parameters():
        p.data.zero_()
    coarse, fine = model.decode(torch.randn(B, Z))
    torch.testing.assert_close(coarse.mean, fine.mean, rtol=0, atol=0)


def test_stages_are_two():
    with pytest.raises(ValueError, match="one entry a stage"):
        MultiStageVAE(D, Z, ((5,), (7,)), likelihoods=(Bits,))
