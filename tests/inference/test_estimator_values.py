"""The value that a bound prints is the bound, whatever the estimator; and which bounds an estimator refuses."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import IAF, Amortized, BottomUp, Encoder, Ladder
from pyrarchy.inference import (
    CIWAE,
    ELBO,
    MIWAE,
    PIWAE,
    AnalyticELBO,
    Bound,
    Estimator,
    ImportanceWeighted,
    Jackknife,
    Renyi,
    Thermodynamic,
    VRMax,
)
from pyrarchy.inference.estimators import ESTIMATORS
from pyrarchy.inference.weight_bound import log_mean_exp
from pyrarchy.zoo import VAE, MarkovHVAE

K, M = 3, 2


def hierarchies():
    pyro.set_rng_seed(3)
    deep = MarkovHVAE(5, z_dims=(3, 2), hidden=(6, 4))
    yield deep, Ladder(deep, Encoder(5, z_dims=(3, 2), hidden=(6, 4))), ()
    yield deep, IAF(deep, Encoder(5, z_dims=(3, 2), hidden=(6, 4))), ()
    yield deep, BottomUp(5, (3, 2), (6, 4)), ()
    flat = VAE(5, 3, hidden=(6,))
    yield flat, Amortized(flat, Encoder(5, z_dims=(3,), hidden=(6,))), ()
    yield Minibatch("model"), Minibatch("guide"), (3,)


class Minibatch(PyroModule):
    """Two layers, on rows drawn at random."""

    def __init__(self, name):
        super().__init__(name)
        self.a = nn.Parameter(torch.tensor(0.6))

    def forward(self, x, size):
        with pyro.plate("data", len(x), subsample_size=size, dim=-1) as rows:
            own = self._pyro_name == "guide"
            z2 = pyro.sample("z2", dist.Normal(self.a * x[rows].sum(-1) if own else self.a, 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.7))
            if not own:
                pyro.sample("x", dist.Normal(z1.unsqueeze(-1) + torch.zeros(5), 1.0).to_event(1), obs=x[rows])


@pytest.mark.parametrize("pair", range(5), ids=["ladder", "iaf", "bottom-up", "vae", "subsampled"])
def test_the_estimator_never_changes_the_printed_value(pair):
    model, guide, args = list(hierarchies())[pair]
    x = torch.rand(4, 5, generator=torch.Generator().manual_seed(2)).round()
    makes = [ELBO, ImportanceWeighted, Jackknife, lambda k, **e: MIWAE(M, k, **e), lambda k, **e: PIWAE(M, k, **e)]
    makes += [
        lambda k, **e: CIWAE(0.4, k, **e),
        lambda k, **e: Renyi(0.5, k, **e),
        lambda k, **e: Thermodynamic(4, k, **e),
    ]
    checked = 0
    for make in makes:
        values = {}
        for name in ESTIMATORS:
            bound = make(K, estimator=name)
            if (name in ("wake", "rws-dreg", "vimco") and not bound.normalised) or (name == "sleep" and args):
                continue
            pyro.clear_param_store()
            pyro.set_rng_seed(9)
            loss = bound.differentiable_loss(model, guide, x, *args)
            pyro.set_rng_seed(9)
            with torch.no_grad():
                terms = bound.terms(model, guide, x, *args)
            assert loss.item() == (-terms.scale * bound.reduce(terms).sum()).item()
            pyro.set_rng_seed(9)
            assert bound.loss(model, guide, x, *args) == loss.item()
            values[name] = loss.item()
            checked += 1
        assert len(set(values.values())) == 1, values
    assert checked >= 40


class WrongAxis(ImportanceWeighted):
    def of_weights(self, log_w):
        return log_mean_exp(log_w, 1)


class LogSum(ImportanceWeighted):
    def of_weights(self, log_w):
        return log_w.logsumexp(0)


class Joint(ImportanceWeighted):
    def of_weights(self, log_w):
        return (log_mean_exp(log_w.sum(1), 0) / log_w.shape[1]).expand(log_w.shape[1])


class ScaleInside(ImportanceWeighted):
    def reduce(self, terms):
        return log_mean_exp(terms.scale * terms.log_w, 0) / terms.scale


class SurrogateShown(Bound):
    """Prints the surrogate in place of the bound."""

    def followed(self, terms, run):
        return self.estimator.surrogate(self, terms, run)


class Shown(SurrogateShown, ImportanceWeighted):
    pass


def check_value(bound):
    """The printed loss against a loop over rows and particles in plain Python, on a minibatch of 3 out of 4."""
    model, guide, args = list(hierarchies())[4]
    x = torch.rand(4, 5, generator=torch.Generator().manual_seed(2))
    pyro.clear_param_store()
    pyro.set_rng_seed(9)
    loss = bound.differentiable_loss(model, guide, x, *args).item()
    pyro.set_rng_seed(9)
    log_w = bound.terms(model, guide, x, *args).log_w
    rows = [math.log(sum(math.exp(v) for v in row) / len(row)) for row in log_w.T.tolist()]
    assert loss == pytest.approx(-4 / 3 * sum(rows), rel=1e-5)


@pytest.mark.parametrize("mutant", [WrongAxis, LogSum, Joint, ScaleInside, Shown])
def test_mutants_are_caught(mutant):
    for estimator in ("plain", "dreg"):
        check_value(ImportanceWeighted(K + 1, estimator=estimator))
    with pytest.raises((AssertionError, RuntimeError)):
        check_value(mutant(K + 1, estimator="dreg"))


def run(bound):
    model, guide, args = next(hierarchies())
    return bound.differentiable_loss(model, guide, torch.rand(4, 5).round(), *args)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (VRMax(3, estimator="dreg"), "jump"),
        (AnalyticELBO(3, estimator="stl"), "no function of the weights alone"),
        (ELBO(3, estimator="wake"), "needs L_K or MIWAE"),
        (CIWAE(0.5, 3, estimator="rws-dreg"), "needs L_K or MIWAE"),
        (MIWAE(3, 1, estimator="vimco"), "needs L_K or MIWAE"),
        (ImportanceWeighted(1, estimator="wake"), "K >= 2"),
        (ELBO(1, estimator="score"), "K >= 2"),
    ],
    ids=str,
)
def test_estimators_refuse_bounds_for_which_they_are_wrong(bound, message):
    with pytest.raises(ValueError, match=message):
        run(bound)


def test_estimators_by_name():
    with pytest.raises(ValueError, match=r"'nope'; there are plain, stl, dreg"):
        ELBO(estimator="nope")
    assert all(ImportanceWeighted(2, estimator=name).estimator.name == name for name in ESTIMATORS)
    with pytest.raises(TypeError, match="must override surrogate"):
        run(ELBO(estimator=Estimator()))
