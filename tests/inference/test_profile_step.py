"""The profile of a step: parts that sleep take as long as they sleep, all of them together the step, and nothing changes."""

import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import Batches, adam, fit, profile_step
from pyrarchy.inference.profile_step import PARTS, timed_pair

from .test_nothing_lost import vae_pair

NAP = 0.006


class SlowBackward(torch.autograd.Function):
    """The identity, whose gradient takes three naps."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(3 * NAP)
        return gradient


class SlowModel(PyroModule):
    """Its pass takes two naps, and the guide's is inside it."""

    def __init__(self):
        super().__init__("model")
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        time.sleep(2 * NAP)
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 + SlowBackward.apply(self.loc), 1.0).to_event(1), obs=x)


class SlowGuide(Amortized):
    """``posterior`` takes five naps."""

    def posterior(self, name, prior):
        time.sleep(5 * NAP)
        return super().posterior(name, prior)


def slow_transform(x):
    time.sleep(7 * NAP)
    return x


def slow_adam(tensors):
    optimizer = adam(1e-3)(tensors)
    step = optimizer.step
    optimizer.step = lambda: (time.sleep(4 * NAP), step())
    return optimizer


def test_parts_that_sleep_take_as_long_as_they_sleep():
    model = SlowModel()
    guide = SlowGuide(model, Encoder(2, z_dims=(2,), hidden=(3,)))
    batches = Batches(torch.randn(9, 2), 4, transform=slow_transform)
    found = profile_step(model, guide, batches, optimizer=slow_adam, steps=5)
    naps = {"data": 7, "guide": 5, "model": 2, "bound": 0, "backward": 3, "optimiser": 4}
    assert tuple(found.parts) == PARTS == tuple(naps)
    for name, number in naps.items():
        assert 1e3 * NAP * number <= found.parts[name] < 1e3 * NAP * (number + 4), (name, found)
    assert found.parts["bound"] < 4e3 * NAP
    assert sum(found.parts.values()) == pytest.approx(found.step, rel=0.02)


def test_a_pair_of_functions_and_one_of_pyro_s_own():
    def model(x):
        time.sleep(2 * NAP)
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        time.sleep(NAP)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(pyro.param("gain", torch.tensor(0.1)) * x, 1.0))

    found = profile_step(model, guide, torch.randn(5), steps=4)
    assert 1e3 * NAP <= found.parts["guide"] < 2e3 * NAP <= found.parts["model"]
    slow = SlowModel()
    found = profile_step(slow, AutoNormal(slow), torch.randn(5, 2), objective=Trace_ELBO(), steps=4)
    assert found.parts["guide"] > 0.1 and found.parts["backward"] >= 3e3 * NAP and found.parts["model"] >= 2e3 * NAP
    assert found.replay is None and "no tape: Trace_ELBO reads its value in Python" in found.table()


def test_the_table_names_all_parts_and_the_tape():
    model, guide, x = vae_pair()
    found = profile_step(model, guide, x, batch_size=5, steps=8)
    assert sum(found.parts.values()) == pytest.approx(found.step, rel=0.1)
    lines = found.table().splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert names == [*PARTS, "step", "replay", "guard"]
    shares = [float(line.split()[-2]) for line in lines if line.startswith("  ")]
    assert sum(shares[:6]) == pytest.approx(100, abs=10) and shares[6] == 100
    assert 0 < found.guard < found.replay < sum(found.parts.values())
    assert "no tape: tape=False" in profile_step(model, guide, x, steps=1, tape=False).table()


def test_nothing_changes():
    """Weights, generators, and what the pair is made of: a training behind it is the one that had been without it."""
    model, guide, x = vae_pair()
    before, spaces = torch.get_rng_state(), [dict(vars(m)) for m in (model, guide, torch.autograd)]
    weights = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
    profile_step(model, guide, x, batch_size=4, steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, w) for p, w in zip((*model.parameters(), *guide.parameters()), weights, strict=True))
    for owner, space in zip((model, guide, torch.autograd), spaces, strict=True):
        assert {k for k in vars(owner) if k not in space} <= {"trace"}
        assert all(vars(owner)[k] is v for k, v in space.items() if callable(v) or k == "_model")
    again = vae_pair()
    assert fit(model, guide, x, steps=3).losses == fit(*again, steps=3).losses


def test_an_error_leaves_the_pair_as_it_was():
    from pyrarchy.inference.profile_step import Clock

    model, guide, _ = vae_pair()
    grad = torch.autograd.grad
    with pytest.raises(ZeroDivisionError), timed_pair(Clock(), model, guide):
        assert torch.autograd.grad is not grad and "forward" in vars(model)
        raise ZeroDivisionError
    assert torch.autograd.grad is grad and "forward" not in vars(model) and "encode" not in vars(guide)
