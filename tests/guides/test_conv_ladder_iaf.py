"""The convolutional ladder: the density of its flow against autograd, and weights that average to p(x)."""

import itertools

import pyro
import pytest
import torch

from pyrarchy.guides import ConvLadderIAF
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair
from pyrarchy.zoo import ConvResidualHVAE, ResidualHVAE

B = 3


def pair(shape=(4, 4), channels=(3, 2), steps=2):
    pyro.set_rng_seed(1)
    model = ConvResidualHVAE(shape, channels, 6).double()
    guide = ConvLadderIAF(model, torch.full((shape[0] * shape[1],), 0.4), steps, 7).double()
    with torch.no_grad():
        for p in guide.parameters():
            p.add_(0.15 * torch.randn_like(p))
    return model, guide


def images(dim, rows=B):
    return torch.bernoulli(torch.full((rows, dim), 0.5)).double()


@pytest.mark.stochastic
def test_importance_weights_average_to_p_of_x():
    """Against p(x) by draws from the prior, for images of 2 x 2 bits, to within both standard errors."""
    model, guide = pair((2, 2), (2,))
    with torch.no_grad():
        guide.layers[0].head.net.bias[2:] = 2.0  # wider than the posterior: light tails
        x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).double()
        k = 3_000
        ratio = ELBO(k).terms(model, guide, x).log_w.exp()
        prior = model.generate([torch.randn(10_000, 1, 2).double()]).log_prob(x).exp()
    error = (ratio.var(0) / k + prior.var(0) / len(prior)).sqrt()
    assert (error / prior.mean(0)).max() < 0.06
    assert ((ratio.mean(0) - prior.mean(0)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("k", [1, 2])
def test_log_q_is_the_base_over_the_jacobian(k):
    model, guide = pair()
    x = images(16)
    terms = ELBO(k).terms(model, guide, x)
    z = {n: v.detach().reshape(k, B, -1) for n, v in terms.values.items()}
    states, features = {"z2": None, "z1": model.blocks[1](model.start(x), z["z2"])}, guide.path(x)
    for i, name in enumerate(("z1", "z2")):
        fresh = guide.layers[i](features[i].expand(k, *features[i].shape), states[name])
        expected = fresh.log_prob(z[name].clone())  # a new object: the inverse is recomputed, entry after entry
        torch.testing.assert_close(terms.log_q[name], expected, rtol=1e-8, atol=1e-8)
        one = guide.layers[i](features[i][1], None if i else states[name][0, 1])
        eps = z[name][0, 1]
        for step in reversed(one.transforms):
            eps = step.inv(eps)

        def push(v, one=one):
            for step in one.transforms:
                v = step(v)
            return v

        det = torch.linalg.slogdet(torch.autograd.functional.jacobian(push, eps))[1]
        torch.testing.assert_close(one.base_dist.log_prob(eps) - det, expected[0, 1], rtol=1e-8, atol=1e-8)
        assert fresh.event_shape == (model.z_dims[i],)


def test_every_parameter_gets_a_gradient():
    model, guide = pair()
    x = images(16)
    check_pair(model, guide, x, objective=ImportanceWeighted(3))
    ImportanceWeighted(3).differentiable_loss(model, guide, x).backward()
    assert not [n for m in (model, guide) for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]


def test_large_images_pass():
    model, guide = pair((28, 28), (2, 2))
    loss = ELBO().loss(model, guide, images(784, 2))
    assert loss == loss


def test_another_model_is_refused():
    with pytest.raises(TypeError, match="ResidualHVAE"):
        ConvLadderIAF(ResidualHVAE(16), torch.zeros(16))
