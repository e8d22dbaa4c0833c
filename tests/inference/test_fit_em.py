from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine

from pyrarchy.inference.fit_em import LikelihoodFellError, exact_em, fit_em
from pyrarchy.zoo.factor_analysis import FactorAnalysis
from pyrarchy.zoo.factor_analysis_em import HeywoodWarning
from pyrarchy.zoo.ppca import PPCA


def standardised(load):
    x = load().data
    return (x - x.mean(0)) / x.std(0)


def test_fit_em_finds_the_better_maximum_of_breast_cancer():
    x = standardised(load_breast_cancer)
    model = FactorAnalysis(30, 3)
    with pytest.warns(HeywoodWarning):
        record = fit_em(model, x)
    assert record.log_likelihood == pytest.approx(-20.4566, abs=1e-4)
    assert record.converged and record.noise_floor == 1e-4 and len(record.start_values) == 8
    assert model.double().log_marginal(torch.tensor(x)).mean().item() == pytest.approx(record.log_likelihood, abs=1e-3)


def test_exact_em_on_rows_agrees_with_the_statistics():
    x = standardised(load_wine)
    torch.manual_seed(0)
    model = FactorAnalysis(13, 2)
    rows = exact_em(model, x, tol=1e-11)
    fast = fit_em(FactorAnalysis(13, 2), x, tol=1e-11)
    assert rows.converged and rows.log_likelihood == pytest.approx(fast.log_likelihood, abs=1e-7)
    assert np.diff(rows.log_likelihoods).min() > -1e-10
    assert len(rows.log_likelihoods) == rows.steps + 1
    assert model.mean.dtype == torch.float32  # its own precision again


def test_exact_em_of_ppca_reaches_the_closed_form():
    x = standardised(load_wine) + 3.0
    torch.manual_seed(1)
    rows = exact_em(PPCA(13, 2), x, tol=1e-12)
    assert rows.log_likelihood == pytest.approx(fit_em(PPCA(13, 2), x).log_likelihood, abs=1e-8)


def test_steps_bound_the_run():
    record = exact_em(FactorAnalysis(13, 2), standardised(load_wine), steps=3)
    assert record.steps == 3 and not record.converged


class BrokenStep(FactorAnalysis):
    def maximize(self, x, q):
        super().maximize(x, q)
        self.set_parameters(self.mean, -0.9 * self.loadings, 1.3 * self.scale)


def test_a_broken_m_step_is_flagged():
    x = standardised(load_wine)
    model = BrokenStep(13, 2)
    fit_em(model, x)  # from the maximum a wrong step can only fall
    with pytest.raises(LikelihoodFellError, match=r"BrokenStep: EM step 1 lowered"):
        exact_em(model, x)
    assert model.mean.dtype == torch.float32


class Falling:
    """A model whose maximum likelihood says that its second step fell."""

    def statistics(self, data):
        return data

    def maximize_likelihood(self, statistics, **options):
        return SimpleNamespace(trace=[-3.0, -2.0, -2.5], start_values=[-2.5], steps=2, converged=True, noise_floor=None)


def test_the_step_that_fell_is_named():
    with pytest.raises(LikelihoodFellError, match=r"Falling: EM step 2 lowered the log-likelihood from -2 to -2.5"):
        fit_em(Falling(), None)


class OnlyRows(torch.nn.Module):
    """A normal with unknown mean: closed forms, no statistics. EM is done after one step."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(2))

    def posterior(self, x):
        return None

    def log_marginal(self, x):
        return -0.5 * ((x - self.mean) ** 2 + np.log(2 * np.pi)).sum(-1)

    def maximize(self, x, q):
        self.mean.copy_(x.mean(0))


def test_a_model_without_statistics_is_fitted_on_its_rows():
    x = torch.tensor([[1.0, 5.0], [3.0, 7.0], [2.0, 6.0]])
    model = OnlyRows()
    record = fit_em(model, x)
    assert record.steps == 2 and record.converged and model.mean.tolist() == [2.0, 6.0]
    assert record.log_likelihood == pytest.approx(-0.5 * 2 * (np.log(2 * np.pi) + 2 / 3))
    with pytest.raises(ValueError, match="log-likelihood is nan at EM step 0"):
        fit_em(model, x * float("nan"))
    with pytest.raises(TypeError, match="posterior, log_marginal, maximize"):
        fit_em(torch.nn.Linear(2, 2), x)
