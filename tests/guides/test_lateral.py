"""The lateral guide reads the model's own state, live, at every site."""

import copy
import math

import pytest
import torch

from pyrarchy.guides import Features, Lateral
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair
from pyrarchy.zoo import DenseHVAE, MarkovHVAE

X, Z, H, B = 7, (4, 3, 2), (9, 8, 5), 6


def pair():
    return (m := DenseHVAE(X, Z, H)), Lateral(m, Features(X, (10, 11, 12)), (6, 13, 14))


def bits():
    return torch.bernoulli(torch.full((B, X), 0.5))


@pytest.mark.parametrize("k", [1, B, 5])
def test_each_layer_reads_features_and_the_models_state(k):
    model, guide = pair()
    x = bits()
    terms = ELBO(k).terms(model, guide, x)
    features, z = guide.features(x), terms.values
    h2 = model.blocks[2](z["z3"])
    h1 = model.blocks[1](torch.cat([z["z2"], h2], -1))
    for i, parts in {3: (), 2: (h2,), 1: (h1,)}.items():
        lead = (k, B) if k > 1 else (B,)
        q = guide.heads[f"z{i}"](torch.cat([p.expand(*lead, p.shape[-1]) for p in (features[f"z{i}"], *parts)], -1))
        torch.testing.assert_close(terms.log_q[f"z{i}"], q.log_prob(z[f"z{i}"]).reshape(-1, B).expand(k, B))
    check_pair(model, guide, x)
    copy.deepcopy((model, guide))  # the state of the pass is gone with it


def test_where_the_head_is_the_models_own_the_rate_is_zero():
    """A guide that reads the state alone, through the model's own heads, is the prior: exact when x says nothing."""
    model = DenseHVAE(X, Z, H)
    guide = Lateral(model, Features(X, (10, 11, 12)), H)
    with torch.no_grad():
        model.likelihood.logits.weight.zero_()
        for i, head in enumerate([*model.heads, None]):
            mine = guide.heads[f"z{i + 1}"]
            width = guide.features.widths[i]
            linear, normal = mine[0][0], mine[1]
            if head is None:  # N(0, I) at the top
                for part in (normal.loc, normal.raw_scale):
                    part.weight.zero_()
                normal.raw_scale.bias.fill_(math.log(math.expm1(1 - normal.floor)))
                continue
            linear.weight.zero_()
            linear.weight[: H[i + 1], width:] = torch.eye(H[i + 1])  # shifted to where the leaky rectifier is linear
            linear.bias.fill_(50.0)
            for mine_, theirs in ((normal.loc, head.loc), (normal.raw_scale, head.raw_scale)):
                mine_.weight.zero_()
                mine_.weight[:, : H[i + 1]] = theirs.weight
                mine_.bias.copy_(theirs.bias - 50.0 * theirs.weight.sum(1))
    x = bits()
    terms = ImportanceWeighted(4).terms(model, guide, x)
    log_p = -X * math.log(2.0)
    torch.testing.assert_close(terms.log_w, torch.full((4, B), log_p), rtol=0, atol=2e-3)


def test_the_guides_gradient_reaches_the_models_path():
    """log q depends on the state, so the model's blocks get a gradient from it."""
    model, guide = pair()
    terms = ELBO(1).terms(model, guide, bits())
    terms.log_q["z1"].sum().backward()
    assert model.blocks[1][0].weight.grad.any() and guide.heads["z1"][0][0].weight.grad.any()
    ELBO(1).differentiable_loss(model, guide, bits()).backward()
    assert all(p.grad is not None and p.grad.any() for p in (*model.parameters(), *guide.parameters()))


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_the_two_tables_agree(estimator):
    """The frozen pass sets a state of its own: log q is held constant there with no parameter left in it."""
    model, guide = pair()
    loss = ImportanceWeighted(3, estimator=estimator).differentiable_loss(model, guide, bits())
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad is not None for p in model.parameters())


def test_a_model_without_a_state_is_refused():
    with pytest.raises(TypeError, match="MarkovHVAE has no deterministic state"):
        Lateral(MarkovHVAE(X, Z, H), Features(X, H), H)
    with pytest.raises(ValueError, match="each of the model's 3 layers, not 2 and 3"):
        Lateral(DenseHVAE(X, Z, H), Features(X, H), H[:2])


def test_a_state_of_maps_is_refused():
    from pyrarchy.zoo import ConvResidualHVAE

    with pytest.raises(TypeError, match=r"ConvResidualHVAE has maps.*ConvLadderIAF"):
        Lateral(ConvResidualHVAE((4, 4)), None, (3, 3))
