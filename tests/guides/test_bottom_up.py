"""The bottom-up guide is an ordinary Pyro guide: its densities by hand, and what refuses it."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import BottomUp
from pyrarchy.inference import ELBO, AnalyticELBO, ImportanceWeighted, check_pair, evaluate, fit
from pyrarchy.zoo import MarkovHVAE

X, Z, B = 7, (4, 3, 2), 5
HIDDEN = ((9,), (8, 6), (5,))


def pair():
    mean = torch.linspace(0.1, 0.7, X)
    return MarkovHVAE(X, z_dims=Z, hidden=(9, 8, 5)), BottomUp(X, Z, HIDDEN, x_mean=mean)


def bits(rows=B):
    return torch.bernoulli(torch.full((rows, X), 0.5))


@pytest.mark.parametrize("k", [1, B, 6])
def test_every_layer_reads_the_sample_below(k):
    model, guide = pair()
    x = bits()
    terms = ELBO(k).terms(model, guide, x)
    below = x - torch.linspace(0.1, 0.7, X)
    for i, layer in enumerate(guide.layers, 1):
        z = terms.values[f"z{i}"]
        torch.testing.assert_close(terms.log_q[f"z{i}"], layer(below).log_prob(z).reshape(-1, B).expand(k, B))
        below = z
    z = terms.values
    log_p = {"z3": dist.Normal(0.0, 1.0).log_prob(z["z3"]).sum(-1)}
    log_p |= {f"z{i}": model.priors[i - 1](z[f"z{i + 1}"]).log_prob(z[f"z{i}"]) for i in (1, 2)}
    for name, value in log_p.items():
        torch.testing.assert_close(terms.log_p[name], value.reshape(k, B))
    torch.testing.assert_close(terms.log_lik, model.decoder(z["z1"]).log_prob(x).reshape(k, B))
    assert not terms.top_down


def test_it_trains_and_is_graded_but_has_no_closed_kl():
    model, guide = pair()
    x = bits(9)
    check_pair(model, guide, x, objective=ImportanceWeighted(3))
    record = fit(model, guide, x, objective=ImportanceWeighted(3), steps=60, optimizer=1e-2)
    assert sum(record.losses[-5:]) < sum(record.losses[:5])
    assert set(evaluate(model, guide, x, num_samples=8).rates) == {"z1", "z2", "z3"}
    with pytest.raises(ValueError, match=r"samples \['z1', 'z2', 'z3'\] but the model \['z3', 'z2', 'z1'\]"):
        fit(model, guide, x, objective=AnalyticELBO(), steps=1)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="z_dims and hidden"):
        BottomUp(X, Z, HIDDEN[:2])


def test_the_gradient_is_the_derivative_of_the_value():
    """Along a random direction through every parameter, by central differences at one seed: no path is cut."""
    model, guide = (m.double() for m in pair())
    x = bits().double()
    parameters = [*model.parameters(), *guide.parameters()]
    direction = [torch.randn_like(p) for p in parameters]

    def loss():
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        return ImportanceWeighted(3).differentiable_loss(model, guide, x)

    loss().backward()
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True)).item()
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(1e-6 * sign * d)
            ends.append(loss().item())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
