"""Flows of zuko as guides: densities against autograd, gradients, curved targets, and a clear word without the package."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch

from pyrarchy.guides import Encoder, JointZukoFlow, ZukoFlow, masked_autoregressive, neural_spline
from pyrarchy.guides.zuko_flow import moved
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair, fit
from pyrarchy.zoo import MarkovHVAE

_spec = importlib.util.spec_from_file_location("flow_targets", Path(__file__).with_name("flow_targets.py"))
targets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(targets)
X, Z, B = 6, (3, 2), 4
FLOWS = {
    "spline": partial(neural_spline, transforms=2, hidden=(32,)),
    "masked": partial(masked_autoregressive, transforms=3, hidden=(32,)),
}


def encoder():
    return Encoder(X, Z, hidden=(7, 5))


def images(rows=B):
    return torch.bernoulli(torch.full((rows, X), 0.5))


@pytest.fixture
def zuko():
    return pytest.importorskip("zuko")


def pair(flow, z_dims=Z):
    pyro.set_rng_seed(3)
    model = MarkovHVAE(X, z_dims, hidden=(8, 7))
    return model, ZukoFlow(model, Encoder(X, z_dims, hidden=(7, 5)), FLOWS[flow])


def test_without_zuko_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    for build in (lambda: ZukoFlow(None, encoder()), lambda: JointZukoFlow(targets.banana)):
        with pytest.raises(ImportError, match=r"pip install 'pyrarchy\[flows\]'"):
            build()


@pytest.mark.parametrize("flow", FLOWS)
def test_the_density_is_the_bases_over_the_jacobian(zuko, flow):
    made, d = FLOWS[flow](3, 2).double(), 3
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    context, loc, scale = torch.randn(B, 2).double(), torch.randn(B, d).double(), torch.rand(B, d).double() + 0.3
    q = moved(made(context), loc, scale)
    assert q.batch_shape == (B,) and q.event_shape == (d,)
    z = q()
    own, foreign = q.log_prob(z), q.log_prob(z.view_as(z))
    torch.testing.assert_close(own, foreign, rtol=1e-6, atol=1e-6)
    for i in range(B):
        one = made(context[i])

        def to_base(v, one=one, i=i):
            return one.transform((v - loc[i]) / scale[i])

        jacobian = torch.autograd.functional.jacobian(to_base, z[i].detach())
        base = torch.distributions.Normal(0.0, 1.0).log_prob(to_base(z[i])).sum()
        torch.testing.assert_close(own[i], base + torch.linalg.slogdet(jacobian)[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("z_dims", [(3, 2), (3, 1)])
def test_every_parameter_gets_a_gradient_and_trains(zuko, flow, z_dims):
    model, guide = pair(flow, z_dims)
    x = images()
    check_pair(model, guide, x, objective=ImportanceWeighted(3))
    ImportanceWeighted(3).differentiable_loss(model, guide, x).backward()
    assert not [n for n, p in guide.named_parameters() if p.grad is None or not p.grad.any()]
    before = [p.clone() for p in guide.parameters()]
    fit(model, guide, x, steps=2, objective=ImportanceWeighted(2, estimator="dreg"))
    assert not any(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("k", [1, B, 5])
def test_the_table_holds_the_flows_density(zuko, flow, k):
    model, guide = pair(flow)
    x = images()
    terms = ELBO(k).terms(model, guide, x)
    evidence = guide.encode(x)
    for name, (gaussian, context) in evidence.items():
        z = terms.values[name].detach().reshape(k, B, -1).clone()
        q = moved(guide.flows[name](context), gaussian.base_dist.loc, gaussian.base_dist.scale)
        torch.testing.assert_close(terms.log_q[name], q.expand((k, B)).log_prob(z), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("target", [targets.banana, targets.funnel], ids=lambda t: t.__name__)
@pytest.mark.slow
def test_curved_targets_are_reached(zuko, flow, target):
    pyro.set_rng_seed(0)
    kl, error = targets.fitted_kl(target, JointZukoFlow(target, flow=FLOWS[flow]))
    assert error < 0.002 and -4 * error < kl < 0.1
    assert kl < targets.BEST_MEAN_FIELD[target.__name__] / 3


def test_a_fresh_joint_flow_has_gradients_and_checks_its_scale(zuko):
    guide = JointZukoFlow(targets.banana, flow=FLOWS["spline"])
    ELBO(5).differentiable_loss(targets.banana, guide).backward()
    assert not [n for n, p in guide.named_parameters() if p.grad is None or not p.grad.any()]
    with pytest.raises(ValueError, match="init_scale"):
        JointZukoFlow(targets.banana, init_scale=0.0)


def test_a_site_without_a_head_is_named(zuko):
    guide = ZukoFlow(MarkovHVAE(X, (3, 2, 2), (8, 7, 6)), encoder(), FLOWS["spline"])
    with pytest.raises(ValueError, match=r"'z3'.*\['z1', 'z2'\]"):
        guide(images())
