"""Batch normalisation as a part: values by hand, particles on the left, frozen in evaluation, coupled in training."""

import pyro
import pytest
import torch
from torch import nn

from pyrarchy.guides import Encoder, Ladder
from pyrarchy.inference import ELBO, check_pair
from pyrarchy.zoo import BatchNorm, MarkovHVAE, Normalised
from pyrarchy.zoo.networks import mlp

X, Z, H, B = 7, (4, 3), (9, 8), 6


def pair(seed=1):
    """A ladder normalised throughout, with running statistics that are not those it starts with."""
    pyro.set_rng_seed(seed)
    part = Normalised(nn.LeakyReLU)
    model = MarkovHVAE(X, Z, H, activation=part)
    guide = Ladder(model, Encoder(X, Z, H, activation=part))
    for module in [*model.modules(), *guide.modules()]:
        if isinstance(module, BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model, guide


def bits(n=B):
    return torch.bernoulli(torch.full((n, X), 0.5))


def test_values_by_hand_in_both_modes():
    part, h = BatchNorm(3), torch.randn(5, B, 3) * 2 + 1
    with torch.no_grad():
        part.weight.uniform_(0.5, 2.0)
        part.bias.normal_()
    flat = h.reshape(-1, 3)
    mean, variance = flat.mean(0), flat.var(0, correction=0)
    torch.testing.assert_close(part(h), part.weight * (h - mean) / (variance + part.eps).sqrt() + part.bias)
    torch.testing.assert_close(part.running_mean, 0.1 * mean)
    torch.testing.assert_close(part.running_var, 0.9 + 0.1 * flat.var(0))
    kept = part.running_mean.clone(), part.running_var.clone()
    part.eval()
    torch.testing.assert_close(part(h), part.weight * (h - kept[0]) / (kept[1] + part.eps).sqrt() + part.bias)
    assert torch.equal(part.running_mean, kept[0]) and torch.equal(part.running_var, kept[1])
    torch.testing.assert_close(part(h[2]), part(h)[2])
    assert torch.isfinite(part(h[:1, 0])).all()  # one row is no difficulty in evaluation


def test_a_single_row_has_no_variance():
    with pytest.raises(ValueError, match="at least two rows"):
        BatchNorm(3)(torch.zeros(1, 1, 3))


def test_it_stands_where_an_activation_does():
    """One part after each hidden layer, which then needs no bias; heads keep theirs, and plain networks are as before."""
    network = mlp((3, 5, 2), Normalised(nn.Tanh), last=False)
    assert [type(part) for part in network] == [nn.Linear, nn.Sequential, nn.Linear]
    assert network[0].bias is None and network[2].bias is not None
    assert all(part.bias is not None for part in mlp((3, 5, 2)) if isinstance(part, nn.Linear))
    model, guide = pair()
    assert sum(isinstance(m, BatchNorm) for m in model.modules()) == 4  # two layers below each z
    assert sum(isinstance(m, BatchNorm) for m in guide.modules()) == 4
    assert all(head.loc.bias is not None for head in guide.encoder.heads)
    model.train(), guide.train()
    ELBO(1).differentiable_loss(model, guide, bits()).backward()
    assert all(p.grad is not None and p.grad.any() for p in (*model.parameters(), *guide.parameters()))


def value_of_first(model, guide, x, k):
    pyro.set_rng_seed(5)
    return ELBO(k).value(model, guide, x)[0]


@pytest.mark.parametrize("k", [1, 3])
def test_no_datum_leans_on_another_in_evaluation_and_in_training_it_does(k):
    model, guide = pair()
    x = bits()
    others = torch.cat([x[:1], 1 - x[1:]])
    model.eval(), guide.eval()
    torch.testing.assert_close(value_of_first(model, guide, x, k), value_of_first(model, guide, others, k))
    check_pair(model, guide, x)
    model.train(), guide.train()
    moved = value_of_first(model, guide, x, k) - value_of_first(model, guide, others, k)
    assert moved.abs() > 0.05


def test_particles_are_rows_of_the_same_statistics_in_training_alone():
    """In evaluation a particle's value is what it is alone."""
    model, guide = pair()
    x = bits()
    model.eval(), guide.eval()
    terms = ELBO(4).terms(model, guide, x)
    z1, z2 = terms.values["z1"], terms.values["z2"]
    for i in range(4):
        torch.testing.assert_close(model.priors[0](z2[i]).log_prob(z1[i]), terms.log_p["z1"][i])
    model.train()
    assert not torch.allclose(model.priors[0](z2[0]).log_prob(z1[0]), terms.log_p["z1"][0], atol=0.05)
