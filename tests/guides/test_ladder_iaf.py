"""Bidirectional inference: log p(x) against quadrature, the flow's density against autograd, roles of shared state."""

import importlib.util
from pathlib import Path

import pyro
import pytest
import torch

from pyrarchy.guides import BidirectionalGuide, LadderIAF
from pyrarchy.inference import ELBO, FreeBits, ImportanceWeighted, check_pair, fit
from pyrarchy.zoo import ConvResidualHVAE, DenseHVAE, MarkovHVAE, ResidualHVAE

_spec = importlib.util.spec_from_file_location("exact", Path(__file__).parents[1] / "zoo/test_residual_hvae.py")
exact = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(exact)
X, Z, W, B = 6, (3, 2), 7, 4


def pair(z_dims=Z, x_dim=X, steps=2, noise=0.0, seed=1):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = ResidualHVAE(x_dim, z_dims, W)
        guide = LadderIAF(model, torch.full((x_dim,), 0.4), steps, (8,))
        for p in guide.parameters():
            p.add_(noise * torch.randn_like(p))
    return model, guide


def images(x_dim=X, rows=B):
    return torch.bernoulli(torch.full((rows, x_dim), 0.5))


@pytest.mark.stochastic
def test_importance_weights_average_to_p_of_x():
    """E_q[p(x, z) / q(z | x)] = p(x) for every image of 3 bits, p(x) by quadrature."""
    model, guide = (m.double() for m in pair((2, 1), 3, noise=0.1))
    with torch.no_grad():
        for layer in guide.layers:  # wider than the posterior, so that the weights have light tails
            layer.head.raw_scale.bias.fill_(2.0)
    x, k = exact.bits(3, dtype=torch.float64), 40_000
    with torch.no_grad():
        log_w = ELBO(k).terms(model, guide, x).log_w
    ratio = (log_w - exact.quadrature(model, x)).exp()
    error = ratio.std(0) / k**0.5
    assert error.max() < 0.02
    assert ((ratio.mean(0) - 1).abs() < 4.5 * error + 2e-3).all()  # 2e-3: the quadrature's own error


@pytest.mark.parametrize("k", [1, B, 5])
def test_log_q_of_each_layer_is_its_base_over_the_jacobian(k):
    """The state is rebuilt by hand from the samples, the flow's log-determinant by autograd."""
    model, guide = (m.double() for m in pair(noise=0.3))
    x = images().double()
    terms = ELBO(k).terms(model, guide, x)
    z = {n: v.detach().reshape(k, B, -1) for n, v in terms.values.items()}
    states = {"z2": None, "z1": model.blocks[1](torch.zeros(W).double(), z["z2"]).expand(k, B, W)}
    features = guide.path(x)
    for i, name in enumerate(("z1", "z2")):
        q = guide.layers[i](features[i].expand(k, B, W), states[name])
        value = z[name].clone()  # a new object: the inverse is recomputed, one dimension after the other
        expected = q.log_prob(value)
        torch.testing.assert_close(terms.log_q[name], expected, rtol=1e-8, atol=1e-8)
        eps = value
        for step in reversed(q.transforms):
            eps = step.inv(eps)
        layer = guide.layers[i]
        for row in range(B):
            one = layer(features[i][row], None if i else states[name][0, row])

            def push(v, one=one):
                for step in one.transforms:
                    v = step(v)
                return v

            det = torch.linalg.slogdet(torch.autograd.functional.jacobian(push, eps[0, row]))[1]
            by_hand = one.base_dist.log_prob(eps[0, row]) - det
            torch.testing.assert_close(by_hand, expected[0, row], rtol=1e-8, atol=1e-8)


def test_the_guide_below_reads_the_samples_above():
    """Unlike the IAF guide's, q(z1 | x, z2) moves with z2, along the model's own path."""
    guide = pair(noise=0.3)[1]
    x, h = images(), torch.randn(2, B, W)
    q = guide.layers[0](guide.path(x)[0], h)
    assert not torch.allclose(q.base_dist.mean[0], q.base_dist.mean[1], atol=1e-3)
    top = guide.layers[1](guide.path(x)[1], h)
    assert top.base_dist.batch_shape == (B,)


def test_every_parameter_gets_a_gradient_and_trains():
    model, guide = pair(noise=0.1)
    x = images(rows=9)
    check_pair(model, guide, x, objective=ImportanceWeighted(3))
    ImportanceWeighted(3).differentiable_loss(model, guide, x).backward()
    assert not [n for m in (model, guide) for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
    fit(model, guide, x, steps=2, objective=FreeBits(0.25))
    after = (*model.parameters(), *guide.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.stochastic
@pytest.mark.parametrize("estimator", ["dreg", "stl"])
def test_estimators_agree_though_the_guide_reads_the_models_state(estimator):
    """The state is a function of the model's parameters in q's role too; plain and split gradients have one mean.

    STL at K = 1 and DReG at K = 2, along random directions through all parameters, over repeats of one batch.
    """
    model, guide = (m.double() for m in pair((2, 1), 3, steps=1, noise=0.2))
    x = images(3, 5).double().repeat(60, 1)
    parameters = [*model.parameters(), *guide.parameters()]
    directions = [torch.randn(5, *p.shape, dtype=p.dtype) for p in parameters]

    def slopes(estimator):
        out = []
        for seed in range(24):
            pyro.set_rng_seed(seed if estimator == "plain" else 1000 + seed)
            bound = ELBO(estimator=estimator) if "stl" in wanted else ImportanceWeighted(2, estimator=estimator)
            for p in parameters:
                p.grad = None
            bound.differentiable_loss(model, guide, x).backward()
            out.append(torch.stack([sum((p.grad * d[i]).sum() for p, d in zip(parameters, directions, strict=True))
                                    for i in range(5)]))  # fmt: skip
        out = torch.stack(out) / len(x)
        return out.mean(0), out.var(0) / len(out)

    wanted = estimator
    (mean, var), (other, other_var) = slopes("plain"), slopes(estimator)
    error = (var + other_var).sqrt()
    assert ((mean - other).abs() < 5 * error).all()  # Student's t of 23 degrees or more: beyond 5 once in 20,000
    assert (mean.abs() > 4 * error).any()  # there is something to agree on


def test_any_model_with_a_state_will_do():
    model = DenseHVAE(X, (3, 2, 2), hidden=(9, 8, 7))
    guide = LadderIAF(model, torch.full((X,), 0.4), 1, (5,))
    assert [layer.down and layer.down.in_features for layer in guide.layers] == [8, 7, None]
    check_pair(model, guide, images(), objective=ImportanceWeighted(3))


def test_misuse_is_named():
    model, guide = pair()
    markov = MarkovHVAE(X, Z, (7, 5))
    with pytest.raises(TypeError, match="MarkovHVAE"):
        LadderIAF(markov, torch.zeros(X))
    with pytest.raises(TypeError, match="use ConvLadderIAF"):
        LadderIAF(ConvResidualHVAE((4, 4)), torch.zeros(16))
    with pytest.raises(ValueError, match=r"site 'z3'.*\['z1', 'z2'\]"):
        BidirectionalGuide(ResidualHVAE(X, (3, 2, 2), W), guide.path, guide.layers)(images())
    with pytest.raises(ValueError, match="at least one step"):
        LadderIAF(model, torch.zeros(X), steps=-1)


def test_without_steps_it_is_gaussian():
    model, guide = pair(steps=0)
    assert all(layer.flow is None for layer in guide.layers)
    check_pair(model, guide, images())


def test_the_gradient_is_the_derivative_of_the_value():
    """Along a random direction through every parameter, by central differences at one seed: the state's path is not cut."""
    model, guide = (m.double() for m in pair(noise=0.3))
    x = images().double()
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
