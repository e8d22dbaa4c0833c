"""The amortised guide and its encoder: one pass a call, one head a site, densities by hand."""

import pyro
import pytest
import torch
from torch import nn

from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import ELBO, check_pair
from pyrarchy.zoo import MarkovHVAE

X, Z, B = 7, (4, 3), 5


def pair():
    model = MarkovHVAE(X, z_dims=Z, hidden=(9, 8))
    return model, Amortized(model, Encoder(X, z_dims=Z, hidden=(9, (8, 6)), x_mean=torch.linspace(0.1, 0.7, X)))


@pytest.mark.parametrize("k", [1, B, 2])
def test_each_site_is_drawn_from_its_head(k):
    model, guide = pair()
    x = torch.bernoulli(torch.full((B, X), 0.5))
    calls = []
    guide.encoder.register_forward_hook(lambda *_: calls.append(1))
    terms = ELBO(k).terms(model, guide, x)
    assert len(calls) == 1  # once a pass, whatever the number of particles
    for name, q in guide.encoder(x).items():
        z = terms.values[name]
        torch.testing.assert_close(terms.log_q[name], q.log_prob(z).reshape(k, B))
    check_pair(model, guide, x)


def test_the_rows_do_not_mix():
    _, guide = pair()
    x = torch.rand(B, X)
    whole, one = guide.encoder(x), guide.encoder(x[2:3])
    for name in whole:
        torch.testing.assert_close(whole[name].mean[2:3], one[name].mean)
        torch.testing.assert_close(whole[name].stddev[2:3], one[name].stddev)


def test_the_path_up_is_a_chain_of_blocks_on_centred_data():
    _, guide = pair()
    encoder, x = guide.encoder, torch.rand(B, X)
    first = encoder.blocks[0](x - torch.linspace(0.1, 0.7, X))
    second = encoder.blocks[1](first)
    torch.testing.assert_close(encoder.features(x)[1], second)
    torch.testing.assert_close(encoder(x)["z2"].mean, encoder.heads[1](second).mean)
    assert [f.shape for f in encoder.features(x)] == [(B, 9), (B, 6)]
    assert "x_mean" in encoder.state_dict()


def test_a_site_without_a_head_is_named_and_sizes_are_checked():
    model = MarkovHVAE(X, z_dims=Z, hidden=(9, 8))
    guide = Amortized(model, Encoder(X, z_dims=(4,), hidden=(9,)))
    with pytest.raises(ValueError, match=r"'z2' \(it covers \['z1'\]\)"):
        ELBO().loss(model, guide, torch.zeros(B, X))
    wrong = Amortized(model, Encoder(X, z_dims=(4, 2), hidden=(9, 8)))
    with pytest.raises(ValueError, match=r"site 'z2'.*\(2,\).*\(3,\)"):
        ELBO().loss(model, wrong, torch.zeros(B, X))
    for bad in ({"z_dims": Z, "hidden": (9,)}, {"z_dims": (), "hidden": ()}):
        with pytest.raises(ValueError, match="z_dims and hidden"):
            Encoder(X, **bad)


def test_the_encoder_is_registered_and_the_model_is_not():
    model, guide = pair()
    names = {n for n, _ in guide.named_parameters()}
    assert len(names) == len(list(guide.encoder.parameters())) and all(n.startswith("encoder.") for n in names)
    ELBO().differentiable_loss(model, guide, torch.zeros(B, X)).backward()
    assert all(p.grad is not None for p in (*model.parameters(), *guide.parameters()))
    assert all(k.startswith(("guide.", "guide$$$", "model")) for k in pyro.get_param_store())
    assert isinstance(guide, nn.Module)
