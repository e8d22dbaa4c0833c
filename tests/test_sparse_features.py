"""The benchmark of sparse models: its annealing against exact log p(x), its tails against known ones, its table."""

import json

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from benchmarks import sparse_features
from benchmarks.sparse_features import anneal, tails
from pyrarchy import load_data
from pyrarchy.guides import Ridge
from pyrarchy.zoo import GaussianLinear, SparseLinear


@pytest.mark.stochastic
def test_annealing_is_unbiased_for_p_of_x():
    """From a guide that is far off, with moves at other step sizes than the best: mean weights are p(x)."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        model = GaussianLinear(5, 3)
        guide = Ridge(model, 4)
        guide.gain.fill_(0.6)
        x = torch.randn(6, 5)
    log_w, _, accepted = anneal(model, guide, x, [0.3] * 31, chains=2000, temperatures=30)
    weights = (log_w - model.log_marginal(x).detach()).exp()
    error = weights.std(0) / 2000**0.5
    assert error.max() < 0.1 and 0.3 < accepted < 1
    assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()


def test_step_sizes_are_tuned_to_the_acceptance():
    torch.manual_seed(3)
    model = SparseLinear(5, 3, dist.Cauchy)
    guide, x = Ridge(model, 4), torch.randn(80, 5)
    _, steps, _ = anneal(model, guide, x, temperatures=150, leapfrogs=2)
    assert len(steps) == 151 and steps[-1] != steps[0]
    _, _, accepted = anneal(model, guide, x, steps, temperatures=150, leapfrogs=2)
    assert accepted == pytest.approx(0.8, abs=0.05)


def test_tails_of_known_densities():
    rng = np.random.default_rng(0)
    kurtosis, ratio = tails(rng.standard_normal((200_000, 2)))
    assert kurtosis == pytest.approx(3, abs=0.06) and ratio == pytest.approx(1.95996 / 0.67449, abs=0.02)
    kurtosis, ratio = tails(rng.laplace(size=(200_000, 2)))
    assert kurtosis == pytest.approx(6, abs=0.4) and ratio == pytest.approx(np.log(20) / np.log(2), abs=0.04)


def test_smoke_run_writes_the_table(tmp_path, monkeypatch):
    """One row that is there, unfitted, and two that are not."""
    monkeypatch.setattr(sparse_features, "TEMPERATURES", 3)
    monkeypatch.setattr(
        sparse_features, "closed_forms", lambda data: {"full Gaussian": np.arange(len(data.test)) * 1.0}
    )
    data = load_data("sparse_dictionary")
    model = GaussianLinear(144, 20)
    (tmp_path / "sparse_gaussian").mkdir()
    sparse_features.grade(model, Ridge(model, 4), data, tmp_path / "sparse_gaussian")
    figures = json.loads((tmp_path / "sparse_gaussian" / "features.json").read_text())
    assert set(figures) >= {"elbo", "noise", "used", "edges", "annealed_less_exact"}
    text = sparse_features.table(tmp_path, data)
    assert "| sparse_gaussian |" in text and "sparse_laplace" not in text and "of 20 |" in text
