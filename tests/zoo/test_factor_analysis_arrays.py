import numpy as np
import pytest
import torch

from pyrarchy.zoo import PPCA, FactorAnalysis
from pyrarchy.zoo.factor_analysis_arrays import MIN_SCALE, FactorAnalysisArrays, raw_scale_of

MODELS = {False: FactorAnalysis, True: PPCA}


def rows(num=5000, dim=6, z_dim=2):
    rng = np.random.default_rng(0)
    z, loadings = rng.standard_normal((num, z_dim)), rng.standard_normal((z_dim, dim))
    x = z @ loadings + rng.standard_normal((num, dim)) * np.linspace(0.3, 1.5, dim) + 4.0
    return x.astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isotropic", [False, True])
def test_arrays_hold_what_the_model_would_and_the_same_log_p(isotropic, dtype):
    x = rows()
    arrays = FactorAnalysisArrays(6, 2, isotropic=isotropic, dtype=dtype)
    found = arrays.fit(x, seed=0)
    model = MODELS[isotropic](6, 2).to(getattr(torch, dtype))
    record = model.maximize_likelihood(model.statistics(x.astype(dtype)), seed=0)
    assert found.steps == record.steps and found.log_likelihood == record.log_likelihood
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(arrays.parameters[name], value.numpy())
        assert arrays.parameters[name].dtype == dtype
    assert set(arrays.parameters) == set(model.state_dict())
    with torch.no_grad():
        exact = model.double().log_marginal(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(arrays.log_marginal(x), exact, rtol=1e-12)


@pytest.mark.parametrize("isotropic", [False, True])
def test_log_p_is_the_normal_density_over_all_chunks(isotropic):
    x = rows()
    arrays = FactorAnalysisArrays(6, 2, isotropic=isotropic, dtype="float64")
    arrays.fit(x)
    mean, loadings, raw = (arrays.parameters[name] for name in ("mean", "loadings", "raw_scale"))
    scale = np.broadcast_to(np.log1p(np.exp(raw)) + MIN_SCALE, 6)
    covariance = torch.from_numpy(loadings @ loadings.T + np.diag(scale**2))
    normal = torch.distributions.MultivariateNormal(torch.from_numpy(mean), covariance)
    assert len(x) > 4096
    np.testing.assert_allclose(arrays.log_marginal(x), normal.log_prob(torch.from_numpy(x).double()), rtol=1e-10)


def test_the_noise_of_a_scale_comes_back_and_none_too_small_is_taken():
    scale = np.array([2e-6, 0.1, 30.0])
    np.testing.assert_allclose(np.logaddexp(0.0, raw_scale_of(scale)) + MIN_SCALE, scale, rtol=1e-9)
    with pytest.raises(ValueError, match="must be above 1e-06"):
        raw_scale_of(MIN_SCALE)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [((3, 3), "z_dim"), ((3, 0), "z_dim"), ((3, 1, 0.0), "noise_floor"), ((3, 1, 1.0), "noise_floor")],
)
def test_impossible_sizes_are_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        FactorAnalysisArrays(*sizes[:2], **({"noise_floor": sizes[2]} if sizes[2:] else {}))
