"""The fast path of a single Gaussian site against the two-table path, and where it must not be taken."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import IAF, Amortized, BottomUp, Encoder, Guide, Ladder, precision_weighted
from pyrarchy.inference import (
    CIWAE,
    ELBO,
    MIWAE,
    PIWAE,
    ImportanceWeighted,
    Jackknife,
    Renyi,
    Thermodynamic,
    estimators,
)
from pyrarchy.zoo import VAE, MarkovHVAE

ROWS, DIM = 5, 4


class Model(PyroModule):
    """One site of two dimensions, with a learnt prior and scale; optional mask and minibatch."""

    def __init__(self, prior=dist.Normal):
        super().__init__("model")
        self.prior = prior
        self.loc, self.spread = nn.Parameter(torch.tensor([0.3, -0.2])), nn.Parameter(torch.tensor(0.1))
        self.decoder = nn.Linear(2, DIM)

    def forward(self, x, mask=None, size=None):
        with pyro.plate("data", len(x), subsample_size=size, dim=-1) as rows:
            batch = x if size is None else x[rows]
            with poutine.mask(mask=True if mask is None else mask):
                z = pyro.sample("z1", self.prior(self.loc, self.spread.exp()).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z).sin(), 0.8).to_event(1), obs=batch)


class Plain(PyroModule):
    def __init__(self):
        super().__init__("guide")
        self.encoder = nn.Linear(DIM, 4)

    def forward(self, x, mask=None, size=None):
        with pyro.plate("data", len(x), subsample_size=size, dim=-1) as rows:
            h = self.encoder(x if size is None else x[rows])
            with poutine.mask(mask=True if mask is None else mask):
                pyro.sample("z1", dist.Normal(h[..., :2], h[..., 2:].exp()).to_event(1))


class Tied(Guide):
    """Multiplies the model's own prior, whose parameters thereby have two roles."""

    def __init__(self, model):
        super().__init__(model)
        self.encoder = nn.Linear(DIM, 4)

    def encode(self, x, mask=None, size=None):
        return self.encoder(x)

    def posterior(self, name, prior):
        h = self.evidence
        return precision_weighted(prior, dist.Normal(h[..., :2], h[..., 2:].exp()).to_event(1))


def pair(kind, dtype=torch.float64):
    pyro.set_rng_seed(2)
    if kind == "vae":
        model = VAE(DIM, 3, hidden=(5,))
        guide = Amortized(model, Encoder(DIM, z_dims=(3,), hidden=(5,)))
    else:
        model = Model()
        guide = Tied(model) if kind == "tied" else Plain()
    return model.to(dtype), guide.to(dtype)


def data(rows=ROWS, dtype=torch.float64, far=1.0):
    return torch.rand(rows, DIM, dtype=dtype, generator=torch.Generator().manual_seed(1)).round() * far


def gradients(bound, model, guide, args):
    pyro.clear_param_store()
    parameters = [*model.parameters(), *guide.parameters()]
    for p in parameters:
        p.grad = None
    pyro.set_rng_seed(11)
    loss = bound.differentiable_loss(model, guide, *args)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in parameters])


def both_ways(monkeypatch, bound, model, guide, args):
    """(loss, gradient) by the fast path and by two tables, and how often the fast path was taken."""
    taken, single_site = [], estimators.single_site

    def spy(terms, watch):
        taken.append(single_site(terms, watch))
        return taken[-1]

    monkeypatch.setattr(estimators, "single_site", spy)
    fast = gradients(bound, model, guide, args)
    monkeypatch.setattr(estimators, "single_site", lambda terms, watch: None)
    slow = gradients(bound, model, guide, args)
    monkeypatch.setattr(estimators, "single_site", single_site)
    return fast, slow, taken


BOUNDS = [
    ELBO(1, estimator="stl"),
    ELBO(3, estimator="dreg"),
    ImportanceWeighted(3, estimator="stl"),
    ImportanceWeighted(3, estimator="dreg"),
    ImportanceWeighted(3, estimator="rws-dreg"),
    MIWAE(2, 3, estimator="stl"),
    MIWAE(2, 3, estimator="dreg"),
    MIWAE(2, 3, estimator="rws-dreg"),
    PIWAE(2, 3),
    PIWAE(2, 3, estimator="stl"),
    PIWAE(2, 3, estimator="dreg"),
    PIWAE(2, 3, estimator="rws-dreg"),
    CIWAE(0.3, 3, estimator="dreg"),
    Renyi(0.5, 3, estimator="dreg"),
    Jackknife(3, estimator="dreg"),  # its weights can be negative
    Thermodynamic(4, 3, estimator="dreg"),
]


@pytest.mark.parametrize("kind", ["vae", "plain", "tied"])
@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_equals_two_tables(monkeypatch, bound, kind):
    model, guide = pair(kind)
    (loss, fast), (other, slow), taken = both_ways(monkeypatch, bound, model, guide, (data(),))
    assert taken == ["z1"]
    assert loss == other
    assert (fast - slow).abs().max() < 1e-12 * slow.abs().max()


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_equals_two_tables_under_a_mask(monkeypatch, bound):
    model, guide = pair("plain")
    mask = torch.tensor([True, False, True, True, False])
    (loss, fast), (other, slow), taken = both_ways(monkeypatch, bound, model, guide, (data(), mask))
    assert taken == ["z1"] and loss == other
    assert (fast - slow).abs().max() < 1e-12 * slow.abs().max()
    # a masked row has no say at all
    x = data()
    x[1] += 3.0
    _, moved = gradients(bound, model, guide, (x, mask))
    torch.testing.assert_close(moved, fast, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bound", [PIWAE(2, 3), ImportanceWeighted(3, estimator="dreg"), ELBO(1, estimator="stl")])
def test_equals_two_tables_on_a_random_minibatch(monkeypatch, bound):
    """The rows are drawn once and kept for the second table; the scale 7 / 3 is outside."""
    model, guide = pair("plain")
    (loss, fast), (other, slow), taken = both_ways(monkeypatch, bound, model, guide, (data(7), None, 3))
    assert taken == ["z1"] and loss == other
    assert (fast - slow).abs().max() < 1e-12 * slow.abs().max()


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_single_precision_and_weights_that_underflow(monkeypatch, bound):
    """Far data leave all but one weight at zero; the path's weight in another group must not go with it."""
    for dtype, far in ((torch.float32, 1.0), (torch.float32, 60.0), (torch.float64, 150.0)):
        model, guide = pair("plain", dtype)
        with torch.no_grad():
            guide.encoder.weight.mul_(0.3 / far**0.5)
            model.decoder.bias += far
        (_, fast), (_, slow), taken = both_ways(monkeypatch, bound, model, guide, (data(dtype=dtype, far=far),))
        assert taken == ["z1"] and torch.isfinite(fast).all()
        assert (fast - slow).abs().max() < 200 * torch.finfo(dtype).eps * slow.abs().max()


def test_piwae_needs_the_floor():
    """The case above is one in which the joint weight underflows and the group's does not."""
    log_w = torch.tensor([[0.0], [-1.0], [-200.0], [-203.0]])
    assert (PIWAE(2, 2).gradient(log_w)[2:] == 0).all()
    assert (PIWAE(2, 2).gradient(log_w, guide=True)[2:] > 0.02).all()


def not_taken(kind):
    pyro.set_rng_seed(2)
    if kind == "hierarchy":
        model = MarkovHVAE(DIM, z_dims=(3, 2), hidden=(5, 6))
        return model, Ladder(model, Encoder(DIM, z_dims=(3, 2), hidden=(5, 6)))
    if kind == "bottom-up":
        return MarkovHVAE(DIM, z_dims=(3, 2), hidden=(5, 6)), BottomUp(DIM, (3, 2), (5, 6))
    if kind == "flow":
        model = VAE(DIM, 3, hidden=(5,))
        return model, IAF(model, Encoder(DIM, z_dims=(3,), hidden=(5,)), hidden=(7,))
    return Model(prior=dist.Laplace), Plain()


@pytest.mark.parametrize("kind", ["hierarchy", "bottom-up", "flow"])
def test_is_not_taken_where_it_would_be_wrong(monkeypatch, kind):
    model, guide = (m.double() for m in not_taken(kind))
    bound = ImportanceWeighted(3, estimator="dreg")
    (loss, fast), (other, slow), taken = both_ways(monkeypatch, bound, model, guide, (data(),))
    assert taken == [None] and loss == other
    assert torch.equal(fast, slow)


def test_a_prior_of_another_family_gives_the_same_gradient(monkeypatch):
    model, guide = (m.double() for m in not_taken("laplace"))
    (_, fast), (_, slow), _ = both_ways(monkeypatch, ImportanceWeighted(3, estimator="dreg"), model, guide, (data(),))
    assert (fast - slow).abs().max() < 1e-12 * slow.abs().max()


def test_the_path_stands_on_its_own_in_one_pass():
    """Dropout is no obstacle where one pass makes both roles: the value is that of the pass."""
    model, guide = pair("plain")
    guide.encoder = nn.Sequential(nn.Dropout(0.5), guide.encoder)
    loss, gradient = gradients(ImportanceWeighted(3, estimator="dreg"), model, guide, (data(),))
    assert loss == gradients(ImportanceWeighted(3), model, guide, (data(),))[0]
    assert torch.isfinite(gradient).all()
