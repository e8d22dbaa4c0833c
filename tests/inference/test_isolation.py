"""Nothing is left behind: store, generators and modes are as before, whatever happens inside."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from pyrarchy import get_pair
from pyrarchy.inference import ELBO, fit, isolated
from pyrarchy.inference.isolation import isolated_store, root_modules


class Model(PyroModule):
    def __init__(self, name="model"):
        super().__init__(name)
        self.scale = PyroParam(torch.tensor(2.0), constraint=constraints.positive)
        self.net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)


def guide(x):
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        pyro.sample("z1", dist.Normal(loc, 1.0).to_event(1))


def draws():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("seed", [None, 7])
def test_generators_modes_and_store_are_restored(raises, seed):
    model, x = Model(), torch.randn(4, 3)
    model.net[1].eval()  # a mixed state must come back mixed
    pyro.param("other", torch.ones(1))
    pyro.set_rng_seed(3)
    expected = draws()
    pyro.set_rng_seed(3)
    grad = torch.is_grad_enabled()
    try:
        with isolated(model, guide, seed=seed, train=raises):
            assert model.training is model.net[1].training is raises
            ELBO().loss(model, guide, x)
            draws()
            if raises:
                raise KeyError
    except KeyError:
        pass
    assert draws() == expected and torch.is_grad_enabled() is grad
    assert model.training and not model.net[1].training
    assert set(pyro.get_param_store()) == {"other", "loc"}  # the module's keys went, the free parameter stayed


def test_a_seed_fixes_what_is_inside_and_none_continues():
    model, x = Model(), torch.randn(4, 3)

    def value(seed):
        with isolated(model, guide, seed=seed):
            return ELBO().loss(model, guide, x)

    assert value(1) == value(1) != value(2)
    pyro.set_rng_seed(1)
    assert value(None) == value(1)


def test_a_module_wins_over_what_the_store_holds_of_another():
    """Trap: a store that knows 'model$$$net...' or 'model.scale' overwrites a freshly loaded module."""
    x = torch.randn(4, 3)
    first, second = Model(), Model()
    second.scale = torch.tensor(5.0)
    ELBO().loss(first, guide, x)  # outside: the store now holds the first model's tensors
    kept = dict(pyro.get_param_store().named_parameters())
    with isolated(second, guide):
        ELBO().loss(second, guide, x)
        assert second.scale.item() == pytest.approx(5.0)
    assert second.scale_unconstrained.exp().item() == pytest.approx(5.0)
    assert dict(pyro.get_param_store().named_parameters()) == kept  # the same tensors, not copies


def test_free_parameters_live_on_with_their_constraints():
    def model(x):
        width = pyro.param("width", torch.tensor(3.0), constraint=constraints.positive)
        pyro.sample("x", dist.Normal(0.0, width), obs=x)

    with isolated(model, lambda x: None):
        poutine.trace(model).get_trace(torch.tensor(1.0))
        pyro.get_param_store()["width"] = torch.tensor(4.0)
    assert pyro.param("width").item() == pytest.approx(4.0)
    unconstrained = dict(pyro.get_param_store().named_parameters())["width"]
    assert unconstrained.item() == pytest.approx(np.log(4.0))
    with isolated_store(model, lambda x: None):
        assert pyro.param("width").item() == pytest.approx(4.0)


def test_unnamed_roots_own_what_their_attributes_name():
    model = Model("")
    with isolated(model, guide):
        ELBO().loss(model, guide, torch.randn(4, 3))
    assert set(pyro.get_param_store()) == {"loc"}


def test_root_modules_sees_bound_methods_and_handlers():
    model = Model()
    wrapped = poutine.scale(poutine.mask(model, mask=torch.tensor(True)), scale=0.5)
    assert root_modules(model, guide, model.forward, wrapped) == [model, model, model]
    with isolated(wrapped, guide):
        ELBO().loss(wrapped, guide, torch.randn(4, 3))
        assert not model.training
    assert model.training and set(pyro.get_param_store()) == {"loc"}


def test_frozen_parameters_train_and_evaluate_in_silence():
    """A model frozen by requires_grad_(False) says nothing (warnings are errors here), and its guide alone learns."""
    model, guide = get_pair("vae")(z_dim=3, hidden=(5, 4))
    model.requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    fit(model, guide, torch.bernoulli(torch.full((6, 64), 0.5)), steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
