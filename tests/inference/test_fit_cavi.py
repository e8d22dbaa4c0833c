"""The driver, and the test that every closed form has to pass: the sampled ELBO equals the bound."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrarchy.guides import Conjugate
from pyrarchy.inference import BoundFellError, fit_cavi, isolated, trace_pair
from pyrarchy.zoo import BayesianPPCA, GaussianMixture, NormalGamma

RNG = np.random.default_rng(0)
ONE = torch.tensor(2.0 + 1.5 * RNG.standard_normal(11))
MANY = torch.tensor(RNG.standard_normal((23, 3)) + 4.0 * RNG.integers(0, 2, (23, 1)))
WIDE = torch.tensor(RNG.standard_normal((31, 2)) @ RNG.standard_normal((2, 5)) + 0.5 * RNG.standard_normal((31, 5)))
CASES = {
    "normal_gamma": (NormalGamma(0.4, 0.7, 1.9, 1.3), ONE),
    "mixture": (GaussianMixture(3, 4, concentration=0.8, loc=1.0, scale=2.0), MANY),
    "bayesian_ppca": (BayesianPPCA(5, 4, shape=1.5, rate=0.8), WIDE),
}


def log_weights(model, guide, x, draws):
    """log p(x, z) - log q(z) of whole data sets, (draws,)."""
    out = []
    with isolated(model, guide, seed=1), torch.no_grad():
        for _ in range(draws // 100):
            total = 0.0
            for trace, sign in zip(trace_pair(model, guide, (x,), num_particles=100), (1, -1), strict=True):
                for site in trace.nodes.values():
                    if site["type"] == "sample":
                        total = total + sign * site["fn"].log_prob(site["value"]).reshape(100, -1).sum(-1)
            out.append(total)
    return torch.cat(out).numpy()


def states(model, x):
    """Factors along the way, whose local ones are those that the guide computes: after the start and after sweeps."""
    return {f"sweep {n}": fit_cavi(model, x, steps=n, starts=1).q for n in (1, 2)} | {"start": model.start(x, seed=0)}


@pytest.mark.stochastic
@pytest.mark.parametrize("name", CASES)
def test_sampled_elbo_is_the_closed_form(name):
    """For factors at the start, on the way and at the end, within 4.5 standard errors."""
    model, x = CASES[name]
    found = states(model, x) | {"end": fit_cavi(model, x).q}
    for where, q in found.items():
        log_w = log_weights(model, Conjugate(model, q), x, 2000)
        error = log_w.std() / math.sqrt(len(log_w))
        bound = model.bound(x, q=q).item()
        assert abs(log_w.mean() - bound) < 4.5 * error, f"{where}: {log_w.mean()} +- {error}, closed form {bound}"
        assert error < 0.5, where


@pytest.mark.stochastic
@pytest.mark.parametrize("name", CASES)
def test_trace_elbo_agrees_too(name):
    """Pyro's own ELBO, which takes global and local sites together."""
    model, x = CASES[name]
    q = fit_cavi(model, x).q
    guide = Conjugate(model, q)
    with isolated(model, guide, seed=2), torch.no_grad():
        values = np.array([-Trace_ELBO().loss(model, guide, x) for _ in range(200)])
    assert abs(values.mean() - model.bound(x, q=q).item()) < 4.5 * values.std() / math.sqrt(200)


@pytest.mark.parametrize("name", CASES)
def test_bound_rises_at_every_block(name):
    """Watched from outside the driver, from three starts."""
    model, x = CASES[name]
    for seed in range(3):
        q = model.start(x, seed=seed)
        values = [model.bound(x, q=q).item()]
        for _ in range(10):
            for _, moved in model.coordinate_steps(x, q=q):
                values.append(model.bound(x, q=moved).item())
            q = moved
        assert np.diff(values).min() > -1e-9
        assert values[-1] > values[0] + 0.01


def slopes(model, x, q):
    """Largest slope of the bound in each of the guide's parameters."""
    guide = Conjugate(model, q)
    found = torch.autograd.grad(model.bound(x, q=guide.factors_for(x)), list(guide.parameters()))
    return {name: s.abs().max().item() for (name, _), s in zip(guide.named_parameters(), found, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_no_small_change_of_a_factor_raises_the_final_bound(name):
    """At convergence the bound is stationary in every global number of q: the updates climb *this* bound."""
    model, x = CASES[name]
    for parameter, slope in slopes(model, x, fit_cavi(model, x, tol=1e-13).q).items():
        assert slope < 1e-3, parameter  # a last gain of 1e-12 nats at a curvature of about 10 leaves slopes of 1e-5


class WrongExpectation(NormalGamma):
    """Forgets the variance of mu in the precision's rate. From the optimum a wrong step can only fall."""

    def start(self, x, seed=0):
        return fit_cavi(NormalGamma(self.loc, self.strength, self.shape, self.rate), x).q

    def coordinate_steps(self, x, q):
        steps = list(super().coordinate_steps(x, q))
        yield steps[0]
        q = steps[1][1]
        yield "tau", replace(q, rate=q.rate - 0.5 * (len(x) + self.strength) * q.scale**2)


class WrongBound(GaussianMixture):
    """Forgets that the means are uncertain, in bound and assignments alike: nothing falls, and it is no bound."""

    def _expected_joint(self, x, q):
        return super()._expected_joint(x, q) + 0.5 * self.x_dim / q.strength[:, 0]


def test_a_wrong_update_is_caught_by_the_fall():
    with pytest.raises(BoundFellError, match=r"WrongExpectation: block 'tau' of sweep \d+ lowered the bound from"):
        fit_cavi(WrongExpectation(0.4, 0.7, 1.9, 1.3), ONE)


class WrongButClimbing(WrongExpectation):
    """The same from the ordinary start: it climbs, to a wrong end."""

    def start(self, x, seed=0):
        return NormalGamma.start(self, x, seed)


def test_a_wrong_update_that_climbs_is_caught_by_the_slope_at_the_end():
    model = WrongButClimbing(0.4, 0.7, 1.9, 1.3)
    record = fit_cavi(model, ONE, tol=1e-13)
    assert record.converged
    assert slopes(model, ONE, record.q)["factors.rate_unconstrained"] > 0.1


@pytest.mark.stochastic
def test_a_wrong_bound_is_caught_by_the_sampled_elbo():
    model = WrongBound(3, 4, concentration=0.8, loc=1.0, scale=2.0)
    q = model.start(MANY)
    log_w = log_weights(model, Conjugate(model, q), MANY, 2000)
    assert abs(log_w.mean() - model.bound(MANY, q=q).item()) > 4.5 * log_w.std() / math.sqrt(2000)


def test_record():
    model, x = CASES["mixture"]
    record = fit_cavi(model, x.float(), starts=3, seed=5)
    assert record.converged and record.steps == len(record.bounds) - 1
    assert record.bound == max(record.start_values) and len(record.start_values) == 3
    assert record.bound_per_datum == pytest.approx(record.bound / 23)
    assert record.q.loc.dtype == torch.float32 and record.seconds > 0
    assert record.start_values == fit_cavi(model, x.float(), starts=3, seed=5).start_values
    short = fit_cavi(model, x.numpy(), steps=2)
    assert short.steps == 2 and not short.converged and len(short.start_values) == model.starts


@dataclass(frozen=True)
class Nothing:
    value: torch.Tensor


class NotFinite:
    def start(self, x, seed=0):
        return Nothing(x.mean())

    def coordinate_steps(self, x, q):
        yield "one", replace(q, value=q.value * float("nan"))

    def bound(self, x, q):
        return q.value


def test_misuse_is_named():
    with pytest.raises(TypeError, match="Linear has no start, coordinate_steps, bound"):
        fit_cavi(torch.nn.Linear(2, 2), ONE)
    with pytest.raises(ValueError, match="bound is nan at block 'one' of sweep 1"):
        fit_cavi(NotFinite(), ONE)
    with pytest.raises(ValueError, match="data argument 0 holds values that are not finite"):
        fit_cavi(NormalGamma(), ONE * float("nan"))
    with pytest.raises(ValueError, match="starts=0"):
        fit_cavi(NormalGamma(), ONE, starts=0)


def test_gradients_do_not_beat_coordinate_ascent():
    """The same family by SVI from the start ends where coordinate ascent does."""
    from pyrarchy.inference import ELBO, fit

    model, x = CASES["normal_gamma"]
    record = fit_cavi(model, x)
    guide = Conjugate(model, model.start(x))
    fit(model, guide, (x,), objective=ELBO(num_particles=64), optimizer=0.03, steps=300, seed=0)
    reached = model.bound(x, q=guide.q).item()
    assert record.bound - 0.05 < reached <= record.bound + 1e-9
