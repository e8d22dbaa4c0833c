"""Bayesian PCA: factors that the data do not need switch off; with a flat prior it is probabilistic PCA."""

import numpy as np
import pytest
import torch

from pyrarchy.inference import fit_cavi, fit_em
from pyrarchy.zoo import PPCA, BayesianPPCA


def simulated(n=300, d=9, k=3, noise=0.4):
    rng = np.random.default_rng(4)
    loadings = rng.standard_normal((d, k)) * np.array([3.0, 2.0, 1.0])
    x = 1.5 + rng.standard_normal((n, k)) @ loadings.T + noise * rng.standard_normal((n, d))
    return torch.tensor(x), loadings


def test_superfluous_factors_are_switched_off():
    """Of seven factors the three true ones survive, and they span the simulated directions."""
    x, loadings = simulated()
    q = fit_cavi(BayesianPPCA(9, 7), x).q
    size = q.loadings.square().sum(0).sqrt()
    assert (size > 0.5).sum() == 3 and (size[size <= 0.5] < 0.05).all()
    survivors = torch.linalg.qr(q.loadings[:, size > 0.5])[0].numpy()
    aligned = np.linalg.svd(survivors.T @ np.linalg.qr(loadings)[0], compute_uv=False)
    assert aligned.min() > 0.99
    noise = (q.tau_rate / q.tau_shape).sqrt().item()
    assert noise == pytest.approx(0.4, abs=4.5 * 0.4 / (2 * 300 * 6) ** 0.5)  # 6 columns' worth of noise degrees


def test_bound_lies_below_the_maximum_likelihood():
    """An integral over parameters is below the likelihood's maximum (times a prior of mass one): an upper limit that
    a bound with a missing term would break, and close to it only up to the price of the parameters."""
    x, _ = simulated()
    maximum = fit_em(PPCA(9, 3), x).log_likelihood
    record = fit_cavi(BayesianPPCA(9, 3), x)
    price = maximum - record.bound_per_datum
    parameters = 9 + 9 * 3 - 3 + 1  # mean, loadings up to rotation, noise: about log(N) / 2 nats each
    assert 0 < price < 3 * parameters * np.log(300) / 2 / 300


def test_right_number_of_factors_has_about_the_highest_bound():
    x, _ = simulated()
    bounds = [fit_cavi(BayesianPPCA(9, k), x).bound for k in (2, 3)]
    assert bounds[1] > bounds[0] + 100  # the third direction explains much more than it costs


def test_other_rows_get_codes_of_their_own():
    x, _ = simulated()
    model = BayesianPPCA(9, 4)
    q = fit_cavi(model, x, steps=30).q
    few = model.localise(x[5:9], q=q)
    torch.testing.assert_close(few.codes, q.codes[5:9], rtol=0, atol=1e-12)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="z_dim: 9 given for x_dim 9"):
        BayesianPPCA(9, 9)
    with pytest.raises(ValueError, match="mean_scale"):
        BayesianPPCA(9, 2, mean_scale=0.0)
