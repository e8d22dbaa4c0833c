"""The exact posterior and evidence, and what the factorised posterior loses to them: KL(q || p), digit by digit."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma, gammaln

from pyrarchy import load_data
from pyrarchy.guides import Exact
from pyrarchy.inference import ELBO, fit_cavi, isolated
from pyrarchy.zoo import NormalGamma

X = torch.tensor([1.3, -0.2, 0.7, 2.9, 1.1], dtype=torch.float64)
PRIOR = {"loc": 0.4, "strength": 0.7, "shape": 1.9, "rate": 1.3}


def test_evidence_is_the_integral_over_mean_and_precision():
    """mu integrates to a Gaussian with covariance (I + 1 1' / strength) / tau by hand; tau by quadrature."""
    x, n = X.numpy() - PRIOR["loc"], len(X)
    inverse = np.linalg.inv(np.eye(n) + 1 / PRIOR["strength"])
    log_det = math.log(1 + n / PRIOR["strength"])

    def integrand(tau):
        log_lik = 0.5 * (n * math.log(tau / (2 * math.pi)) - log_det - tau * x @ inverse @ x)
        a, b = PRIOR["shape"], PRIOR["rate"]
        return math.exp(log_lik + a * math.log(b) - gammaln(a) + (a - 1) * math.log(tau) - b * tau)

    evidence, error = quad(integrand, 0, np.inf, epsabs=0, epsrel=1e-11)
    assert error < 1e-9 * evidence
    assert NormalGamma(**PRIOR).log_evidence(X).item() == pytest.approx(math.log(evidence), abs=1e-9)


def test_every_weight_of_the_exact_posterior_is_the_evidence():
    model = NormalGamma(**PRIOR)
    guide = Exact(model)
    with isolated(model, guide, seed=0):
        log_w = ELBO(num_particles=7).terms(model, guide, X).log_w
    assert log_w.shape == (7, 1)
    torch.testing.assert_close(log_w, model.log_evidence(X).expand(7, 1), rtol=0, atol=1e-9)


def kl_to_exact(model, x, q):
    """KL(q(mu) q(tau) || p(mu, tau | x)), written out from the Gamma and Gaussian integrals."""
    loc, strength, a, b = (float(v) for v in model.update(x))
    m, s, c, d = (float(v) for v in (q.loc, q.scale, q.shape, q.rate))
    tau, log_tau = c / d, digamma(c) - math.log(d)
    kl_tau = (c - a) * digamma(c) - gammaln(c) + gammaln(a) + a * math.log(d / b) + c * (b - d) / d
    expected = 0.5 * (math.log(strength / (2 * math.pi)) + log_tau - strength * tau * ((m - loc) ** 2 + s**2))
    return kl_tau - 0.5 * math.log(2 * math.pi * math.e * s**2) - expected


def test_gap_of_mean_field_is_the_divergence_in_closed_form():
    """At the optimum, at the start, and at a q that is neither."""
    model = NormalGamma(**PRIOR)
    fitted = fit_cavi(model, X).q
    for q in (fitted, model.start(X), type(fitted)(*(torch.tensor(v).double() for v in (0.1, 0.8, 2.2, 0.9)))):
        gap = (model.log_evidence(X) - model.bound(X, q=q)).item()
        assert gap == pytest.approx(kl_to_exact(model, X, q), abs=1e-10)
        assert gap > 0


def test_moments_of_mean_field():
    """E[mu] is exact. At the fixed point E[tau] = (a_N + 1/2) / (b_N + 1 / (2 E[tau])), so E[tau] = a_N / b_N, exact too;
    the variance of mu falls short of the exact b_N / ((a_N - 1) lambda_N)."""
    model = NormalGamma(**PRIOR)
    q = fit_cavi(model, X, tol=1e-14).q
    loc, strength, a, b = (float(v) for v in model.update(X))
    assert q.loc.item() == pytest.approx(loc, abs=1e-12)
    assert (q.shape / q.rate).item() == pytest.approx(a / b, rel=1e-7)
    assert q.scale.item() ** 2 < b / ((a - 1) * strength)


def test_newcomb():
    (x,) = load_data("newcomb").train
    x = torch.from_numpy(x).double()
    record = fit_cavi(NormalGamma(strength=0.01, shape=0.01, rate=0.01), x)
    assert record.q.loc.item() == pytest.approx(x.sum().item() / 66.01, abs=1e-9)
    assert x.mean().item() == pytest.approx(26.2121, abs=1e-4) and x.min() == -44  # Stigler's figures
    assert len(x) == record.num_data == 66
    assert record.bound_per_datum == pytest.approx(record.bound / 66)


@pytest.mark.parametrize("name", ["strength", "shape", "rate"])
def test_hyperparameters_are_positive(name):
    with pytest.raises(ValueError, match=f"{name}: 0.0 given"):
        NormalGamma(**{name: 0.0})
