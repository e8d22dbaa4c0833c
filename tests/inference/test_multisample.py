"""Bounds of M K weights and their derivatives: corners to the last bit, orderings, closed forms, invariances."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.inference import (
    CIWAE,
    ELBO,
    MIWAE,
    PIWAE,
    FreeBits,
    ImportanceWeighted,
    Jackknife,
    Renyi,
    Thermodynamic,
    VRMax,
    WeightFunction,
)
from pyrarchy.inference.estimators import ESTIMATORS
from pyrarchy.inference.weight_bound import log_mean_exp

M = 2
SIX = [
    ELBO(6),
    ImportanceWeighted(6),
    MIWAE(2, 3),
    MIWAE(3, 2),
    MIWAE(6, 1),
    MIWAE(1, 6),
    PIWAE(2, 3),
    PIWAE(1, 6),
    CIWAE(0.3, 6),
    Renyi(0.5, 6),
    Renyi(-1.5, 6),
    Renyi(0.999, 6),
    Renyi(2.0, 6),
    Jackknife(6),
    Thermodynamic(1, 6),
    Thermodynamic(5, 6),
    Thermodynamic(5, 6, upper=True),
    VRMax(6),
]


def weights(k=6, batch=50, spread=2.0, offset=0.0, dtype=torch.float64):
    noise = torch.randn(k, batch, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return (spread * noise + offset).to(dtype)


def derivative(bound, log_w):
    leaf = log_w.clone().requires_grad_()
    value = bound.of_weights(leaf)
    return value, torch.autograd.grad(value.sum(), leaf)[0]


CORNERS = [
    (MIWAE(6, 1), ELBO(6)),
    (MIWAE(1, 6), ImportanceWeighted(6)),
    (CIWAE(1, 6), ELBO(6)),
    (CIWAE(0, 6), ImportanceWeighted(6)),
    (PIWAE(1, 6), ImportanceWeighted(6)),
    (Renyi(1.0, 6), ELBO(6)),
    (Renyi(0.0, 6), ImportanceWeighted(6)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize(("bound", "corner"), CORNERS, ids=[str(b) for b, _ in CORNERS])
def test_corners_to_the_last_bit(bound, corner, dtype):
    log_w = weights(dtype=dtype, offset=-90.0)
    for a, b in zip(derivative(bound, log_w), derivative(corner, log_w), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(bound.of_weights_for_guide(log_w), corner.of_weights_for_guide(log_w))
    eps = torch.finfo(dtype).eps
    for guide in (False, True):
        torch.testing.assert_close(bound.gradient(log_w, guide), corner.gradient(log_w, guide), rtol=0, atol=4 * eps)
    torch.testing.assert_close(bound.curvature(log_w), corner.curvature(log_w), rtol=0, atol=4 * eps)


def test_one_interval_is_the_elbo_and_one_sample_of_everything():
    log_w = weights()
    torch.testing.assert_close(Thermodynamic(1, 6).of_weights(log_w), log_w.mean(0), rtol=0, atol=1e-14)
    one = weights(k=1, dtype=torch.float32, offset=-90.0)
    for bound in (ImportanceWeighted(1), MIWAE(1, 1), PIWAE(1, 1), CIWAE(0.3, 1), Renyi(0.4, 1), VRMax(1)):
        torch.testing.assert_close(bound.of_weights(one), one[0], rtol=2e-7, atol=0)
    for intervals in (2, 7):
        torch.testing.assert_close(Thermodynamic(intervals, 1).of_weights(one), one[0], rtol=3e-7, atol=0)
        betas = Thermodynamic(intervals, 2).betas
        assert betas[0] == 0 and betas[-1] == 1 and len(betas) == intervals + 1 and sorted(betas) == betas


def test_what_is_a_lower_bound():
    lower = {str(b): b.is_lower_bound for b in (*SIX, FreeBits(0.1), Renyi(0.0, 6))}
    above = {str(b) for b in (VRMax(6), Renyi(-1.5, 6), Jackknife(6), Thermodynamic(5, 6, upper=True), FreeBits(0.1))}
    assert {name for name, is_lower in lower.items() if not is_lower} == above


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("intervals", [1, 2, 5, 40])
def test_riemann_sums_enclose_the_importance_weighted_bound(intervals, spread):
    log_w = weights(spread=spread)
    exact = log_mean_exp(log_w, 0)
    low = Thermodynamic(intervals, 6).of_weights(log_w)
    high = Thermodynamic(intervals, 6, upper=True).of_weights(log_w)
    slack = 1e-13 * (1 + log_w.abs().amax(0))
    assert (log_w.mean(0) - slack <= low).all() and (low <= exact + slack).all() and (exact <= high + slack).all()
    if intervals == 40 and spread <= 1:
        assert (high - low).max() < 0.25 * (exact - log_w.mean(0)).max() + 0.1


def test_order_of_the_bounds_on_every_table():
    log_w = weights(spread=3.0)
    elbo, tight, middle = log_w.mean(0), log_mean_exp(log_w, 0), MIWAE(2, 3).of_weights(log_w)
    mixed = CIWAE(0.3, 6).of_weights(log_w)
    assert (elbo <= middle).all() and (middle <= tight).all() and (elbo <= mixed).all() and (mixed <= tight).all()
    torch.testing.assert_close(mixed, 0.3 * elbo + 0.7 * tight)
    by_hand = (log_mean_exp(log_w[:3], 0) + log_mean_exp(log_w[3:], 0)) / 2
    torch.testing.assert_close(middle, by_hand)
    left = torch.stack([log_mean_exp(torch.cat([log_w[:k], log_w[k + 1 :]]), 0) for k in range(6)])
    torch.testing.assert_close(Jackknife(6).of_weights(log_w), 6 * tight - 5 * left.mean(0))


@pytest.mark.parametrize("bound", [b for b in SIX if not b.kinked], ids=str)
@pytest.mark.parametrize(("spread", "offset"), [(1.0, 0.0), (4.0, -40.0)])
def test_derivatives_equal_autograd_and_the_generic_ones(bound, spread, offset):
    log_w = weights(batch=4, spread=spread, offset=offset)
    for guide, function in ((False, bound.of_weights), (True, bound.of_weights_for_guide)):
        leaf = log_w.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf, create_graph=True)
        torch.testing.assert_close(bound.gradient(log_w, guide), slope.detach(), rtol=1e-10, atol=1e-12)
        generic = WeightFunction.gradient(bound, log_w, guide)
        torch.testing.assert_close(bound.gradient(log_w, guide), generic, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(bound.curvature(log_w), WeightFunction.curvature(bound, log_w), rtol=1e-9, atol=1e-11)
    hessian = torch.autograd.functional.hessian(lambda v: bound.of_weights_for_guide(v).sum(), log_w)
    by_torch = torch.stack([hessian[i, :, i, :].diagonal() for i in range(6)])
    torch.testing.assert_close(bound.curvature(log_w), by_torch, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bound", SIX, ids=str)
def test_rows_do_not_mix_and_a_shift_is_a_shift(bound):
    log_w = weights(batch=6)  # as many rows as particles
    value = bound.of_weights(log_w)
    assert value.shape == (6,)
    for b in range(6):
        torch.testing.assert_close(bound.of_weights(log_w[:, [b]]), value[[b]], rtol=1e-12, atol=1e-12)
    for shift in (40.0, -40.0, 800.0):
        torch.testing.assert_close(bound.of_weights(log_w + shift), value + shift, rtol=0, atol=1e-9)
        single = bound.of_weights((log_w + shift).float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), value + shift, rtol=0, atol=1e-3)


@pytest.mark.parametrize("bound", SIX, ids=str)
def test_weights_40_nats_apart_stay_finite(bound):
    log_w = torch.tensor([[0.0, -90.0], [-40.0, -50.0], [-80.0, -90.0], [-3.0, -400.0], [0.0, -90.0], [1.0, -7.0]])
    for parts in (derivative(bound, log_w), (bound.gradient(log_w, guide=True), bound.gradient(log_w))):
        assert all(torch.isfinite(part).all() for part in parts)
    assert torch.isfinite(bound.curvature(log_w)).all()


class Gaussian(PyroModule):
    """z ~ N(0, I), x ~ N(z, I) in two dimensions; the guide is off by d in the mean and has variance v."""

    def __init__(self, name, d=0.0, v=0.5):
        super().__init__(name)
        self.shift, self.v = nn.Parameter(torch.full((2,), d, dtype=torch.float64)), v

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            if self._pyro_name == "guide":
                pyro.sample("z1", dist.Normal(x / 2 + self.shift, self.v**0.5).to_event(1))
            else:
                z = pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def gaps(makes, rows=6000, d=0.2, v=0.7):
    """(gap, its standard error) to log p(x) per bound, with mean(w)/Z - 1 (mean zero) as control; and chi2."""
    x = torch.randn(1, 2, dtype=torch.float64).expand(rows, 2)
    pyro.set_rng_seed(1)
    log_w = ImportanceWeighted(64).terms(Gaussian("model"), Gaussian("guide", d, v), x).log_w.detach()
    log_w = log_w - dist.Normal(0.0, 2**0.5).expand([2]).to_event(1).log_prob(x)
    control = log_w.exp().mean(0) - 1
    found = [control - bound.of_weights(log_w) for bound in makes]
    chi2 = (v / math.sqrt(0.5 * (2 * v - 0.5))) ** 2 * math.exp(2 * d**2 / (2 * v - 0.5)) - 1
    return [(g.mean().item(), g.std().item() / rows**0.5) for g in found], chi2


@pytest.mark.stochastic
def test_the_gap_is_chi2_over_2k_and_the_jackknife_removes_it():
    (tight, grouped, jack), chi2 = gaps([ImportanceWeighted(64), MIWAE(4, 16), Jackknife(64)])
    assert 64 * tight[0] == pytest.approx(chi2 / 2, rel=0.12)
    assert 4.5 * 64 * tight[1] < 0.12 * chi2 / 2
    assert 16 * grouped[0] == pytest.approx(chi2 / 2, rel=0.25)  # of order 1 / K^2 more at K = 16
    assert abs(jack[0]) + 4.5 * jack[1] < 0.3 * tight[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MIWAE(0, 3), "m must be a positive integer"),
        (lambda: MIWAE(-2, -3), "m must be a positive integer"),
        (lambda: PIWAE(2, 1.5), "k must be a positive integer"),
        (lambda: CIWAE(1.2, 3), "beta must lie in"),
        (lambda: CIWAE(math.nan, 3), "beta must lie in"),
        (lambda: Jackknife(1), "at least 2"),
        (lambda: Thermodynamic(0, 3), "intervals must be"),
        (lambda: Thermodynamic(2.5, 3), "intervals must be"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("k", "rows"), [(1, 1), (1, 4), (4, 4), (3, 1), (2, 5)])
def test_a_batch_is_the_sum_of_singles_at_every_shape(k, rows):
    """Through the whole pair, with the exact posterior: every weight is p(x), so that each row's bound is log p(x)."""
    x = torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = dist.Normal(torch.zeros(2, dtype=torch.float64), 2**0.5).to_event(1).log_prob(x)
    for bound in (MIWAE(M, k), PIWAE(M, k), CIWAE(0.4, k), Jackknife(k + 1), Thermodynamic(3, k)):
        for estimator in ("plain", "dreg"):
            bound.estimator = ESTIMATORS[estimator]()
            loss = bound.differentiable_loss(Gaussian("model"), Gaussian("guide"), x)
            assert loss.item() == pytest.approx(-exact.sum().item(), abs=1e-9)
        value = bound.value(Gaussian("model"), Gaussian("guide"), x)
        torch.testing.assert_close(value, exact, rtol=0, atol=1e-9)
