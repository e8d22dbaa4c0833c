"""NUTS against exact posteriors, what it refuses, what it leaves behind, and its chains as ArviZ opens them."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.inference import to_inference_data
from pyrarchy.inference.groups import load, pack, save
from pyrarchy.inference.mcmc import mcmc_inference_data, run_nuts
from pyrarchy.inference.summary_table import summary
from pyrarchy.zoo import EightSchoolsNonCentred

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

SCHOOLS = (torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]))
# By quadrature over (mu, log tau): tests/zoo/test_eight_schools.py finds the same.
EXACT = {"mu": (4.396821, 3.317704), "tau": (3.597706, 3.219958)}
EXACT_THETA = [6.21188, 4.94018, 3.92700, 4.75710, 3.61548, 4.04261, 6.29672, 4.85425]
N = 7


# mu ~ N(0, 2), y_i ~ N(mu, 1): posterior N(m, v) with 1/v = 1/4 + N and m = v sum(y).
def conjugate(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    pyro.deterministic("twice", 2 * mu)
    with pyro.plate("obs", len(y), dim=-1):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def conjugate_guide(y):
    v = 1 / (0.25 + len(y))
    pyro.sample("mu", dist.Normal(v * y.sum(), v**0.5))


Y = torch.linspace(-1, 3, N)


@pytest.fixture(scope="module")
def chains():
    return run_nuts(conjugate, Y, num_samples=300, warmup=100, chains=2, seed=1)


def test_conjugate_normal_is_exact(chains):
    idata = mcmc_inference_data(conjugate, (Y,), chains)
    v = 1 / (0.25 + N)
    mu = idata["posterior"]["mu"]
    assert mu.dims == ("chain", "draw") and mu.shape == (2, 300)
    row = summary(idata).loc["mu"]
    assert row["ess_bulk"] > 60 and row["r_hat"] < 1.05
    assert abs(row["mean"] - v * Y.sum().item()) < 4 * row["mcse_mean"]
    assert abs(row["sd"] - v**0.5) < 4 * row["mcse_sd"]
    np.testing.assert_allclose(idata["posterior"]["twice"].values, 2 * mu.values, rtol=1e-6)
    log_lik = idata["log_likelihood"]["y"]
    assert log_lik.dims == ("chain", "draw", "obs")
    expected = -0.5 * (Y.numpy() - mu.values[..., None]) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_lik.values, expected, atol=1e-5)
    prior = -0.5 * (mu.values / 2) ** 2 - np.log(2) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(idata["sample_stats"]["lp"].values, expected.sum(-1) + prior, atol=1e-4)
    predictive = idata["posterior_predictive"]["y"].values
    assert predictive.shape == (2, 300, N)
    # 600 correlated draws of mu, fresh noise: the noise's variance is (1 + v) / 600 for each datum
    assert abs(predictive.mean() - mu.values.mean()) < 4 / (600 * N) ** 0.5
    np.testing.assert_array_equal(idata["observed_data"]["y"].values, Y.numpy())


def test_sample_stats_are_those_of_the_chains(chains):
    stats = mcmc_inference_data(conjugate, (Y,), chains, groups=["sample_stats"])["sample_stats"]
    assert set(stats.data_vars) == {"lp", "diverging", "acceptance_rate"}
    np.testing.assert_array_equal(stats["diverging"].values, chains.diverging)
    accept = stats["acceptance_rate"].values
    np.testing.assert_array_equal(accept, chains.accept)
    assert accept.shape == (2, 300) and (accept >= 0).all() and (accept <= 1).all()
    assert 0.75 < accept.mean() <= 1 and accept.std() > 0  # adapted to .9
    assert chains.step_size.shape == (2,) and (chains.num_chains, chains.num_samples) == (2, 300)


def check_eight_schools(result, largest_error):
    idata = mcmc_inference_data(EightSchoolsNonCentred(), SCHOOLS, result, coords={"school": list("ABCDEFGH")})
    posterior, table = idata["posterior"], summary(idata)
    assert posterior["theta"].dims == ("chain", "draw", "school")
    by_hand = posterior["mu"] + posterior["tau"] * posterior["theta_std"]
    np.testing.assert_allclose(posterior["theta"].values, by_hand.values, atol=1e-4)
    for name, (mean, sd) in EXACT.items():
        row = table.loc[name]
        assert row["mcse_mean"] < largest_error  # or the next lines would pass whatever the chains say
        assert abs(row["mean"] - mean) < 4 * row["mcse_mean"]
        assert abs(row["sd"] - sd) < 4 * row["mcse_sd"]
    theta = table.loc[[f"theta[{s}]" for s in "ABCDEFGH"]]
    assert (abs(theta["mean"] - EXACT_THETA) < 4 * theta["mcse_mean"]).all()
    assert result.diverging.mean() < 0.02
    return table


def test_eight_schools_against_quadrature():
    model = EightSchoolsNonCentred()
    result = run_nuts(model, *SCHOOLS, num_samples=120, warmup=80, chains=2, target_accept=0.8)
    table = check_eight_schools(result, largest_error=0.6)
    assert (table["r_hat"] < 1.05).all()


@pytest.mark.slow
def test_eight_schools_with_the_defaults():
    table = check_eight_schools(run_nuts(EightSchoolsNonCentred(), *SCHOOLS), largest_error=0.09)
    assert (table["r_hat"] < 1.01).all() and (table["ess_bulk"] > 1000).all()


def nested(x):
    shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("outer", 3, dim=-2):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("inner", 5, dim=-1):
            scale = pyro.sample("scale", dist.Gamma(3.0, 3.0))
            pyro.sample("x", dist.Normal(a + shift.sum(-1), scale), obs=x)


def test_nested_plates_keep_their_axes():
    x = torch.linspace(-2, 2, 15).reshape(3, 5)
    result = run_nuts(nested, x, num_samples=5, warmup=4, chains=2)
    assert result.samples["scale"].shape == (2, 5, 3, 5) and (result.samples["scale"] > 0).all()
    idata = mcmc_inference_data(nested, (x,), result, plates=2)
    posterior = idata["posterior"]
    assert posterior["shift"].dims == ("chain", "draw", "shift_dim_0")
    assert posterior["a"].dims == ("chain", "draw", "outer")
    assert posterior["scale"].dims == ("chain", "draw", "outer", "inner")
    loc = posterior["a"].values[..., None] + posterior["shift"].values.sum(-1)[..., None, None]
    scale = posterior["scale"].values
    expected = -0.5 * ((x.numpy() - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(idata["log_likelihood"]["x"].values, expected, atol=1e-4)
    one_by_one = mcmc_inference_data(nested, (x,), result, plates=None, groups=["log_likelihood"])
    np.testing.assert_allclose(one_by_one["log_likelihood"]["x"].values, expected, atol=1e-4)


class Linear(PyroModule):
    """z ~ N(0, 1), y ~ N(net(z), 1): a network that must not move, with dropout that must be off."""

    def __init__(self):
        super().__init__("model")
        self.net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.9))

    def forward(self, y):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        offset = pyro.param("offset", torch.tensor(0.5))
        pyro.sample("y", dist.Normal(self.net(z).squeeze(-1) + offset, 1.0), obs=y)


def test_nothing_is_left_behind_and_parameters_stay():
    model = Linear()
    model.net[0].weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    pyro.param("other", torch.tensor(2.0))
    y, state = torch.tensor(1.5), (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    result = run_nuts(model, y, num_samples=6, warmup=5, chains=2, seed=3)
    mcmc_inference_data(model, (y,), result, plates=0)
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    assert set(pyro.get_param_store()) == {"other", "offset"}  # free parameters live in the store, modules' own do not
    assert pyro.param("offset").item() == 0.5 and pyro.param("other").item() == 2.0
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert model.training and not model.net[0].weight.requires_grad and model.net[0].bias.requires_grad


def test_same_seed_same_draws_and_a_chain_depends_on_its_own_number_alone():
    settings = dict(num_samples=8, warmup=6)
    one = run_nuts(conjugate, Y, chains=1, seed=5, **settings).samples["mu"]
    torch.randn(3)
    two = run_nuts(conjugate, Y, chains=2, seed=5, **settings).samples["mu"]
    assert torch.equal(one[0], two[0])
    assert not torch.equal(two[0], two[1])
    assert not torch.equal(one, run_nuts(conjugate, Y, chains=1, seed=6, **settings).samples["mu"])
    with torch.no_grad():
        assert torch.equal(one, run_nuts(conjugate, Y, chains=1, seed=5, **settings).samples["mu"])


def wall():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("wall", torch.where(z > 1.0, -1e6, 0.0))


def test_divergences_are_found_where_they_are_due(chains):
    """A wall without a gradient: each trajectory that crosses it diverges, and no draw lies behind it."""
    result = run_nuts(wall, num_samples=60, warmup=40, chains=1)
    assert 0 < result.diverging.sum() < 60 and result.diverging.shape == (1, 60)
    assert (result.samples["z"] <= 1).all()
    idata = mcmc_inference_data(wall, (), result)
    assert set(idata["posterior"].data_vars) == {"z"}
    z = result.samples["z"].numpy()
    np.testing.assert_allclose(idata["sample_stats"]["lp"], -0.5 * z**2 - 0.5 * np.log(2 * np.pi), atol=1e-5)
    assert not chains.diverging.any()


def discrete(y):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    count = pyro.sample("count", dist.Poisson(rate))
    pyro.sample("y", dist.Normal(count, 1.0), obs=y)


def subsampled(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=3) as index:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[index])


def nothing(y):
    pyro.sample("y", dist.Normal(0.0, 1.0).expand(y.shape).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (discrete, {}, r"\['count'\] are discrete"),
        (subsampled, {}, "'y' lies in the subsampled plate 'rows'"),
        (nothing, {}, "no latent site"),
        (conjugate, {"num_samples": 0}, "num_samples must be"),
        (conjugate, {"chains": 1.0}, "chains must be"),
        (conjugate, {"target_accept": 1.0}, "target_accept must lie"),
    ],
)
def test_refusals_name_what_is_wrong(model, settings, message):
    with pytest.raises(ValueError, match=message):
        run_nuts(model, Y, **{"num_samples": 2, "warmup": 2, "chains": 1, **settings})


def test_other_models_and_arguments_than_the_chains_are_refused(chains):
    def renamed(y):
        mu = pyro.sample("nu", dist.Normal(0.0, 2.0))
        pyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)

    def wider(y):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        pyro.sample("y", dist.Normal(mu.sum(-1, keepdim=True), 1.0).expand(y.shape).to_event(1), obs=y)

    for model in (renamed, wider):
        with pytest.raises(ValueError, match="site 'mu'"):
            mcmc_inference_data(model, (Y,), chains)
    with pytest.raises(ValueError, match="unknown group"):
        mcmc_inference_data(conjugate, (Y,), chains, groups=["prior"])
    with pytest.raises(TypeError, match="write"):
        mcmc_inference_data(conjugate, Y, chains)
    with pytest.raises(ValueError, match="byte_limit"):
        mcmc_inference_data(conjugate, (Y,), chains, byte_limit=100)


def test_r_hat_and_ess_are_for_chains_alone(chains, tmp_path):
    ours = load(save(mcmc_inference_data(conjugate, (Y,), chains), tmp_path / "nuts.nc"))
    table = summary(ours)
    assert list(table.columns[-3:]) == ["ess_bulk", "ess_tail", "r_hat"]
    data = ours["posterior"]["mu"].astype(float).to_dataset()  # in single precision ranks have ties
    assert table["r_hat"]["mu"] == pytest.approx(float(arviz.rhat(data)["mu"]))
    assert table["ess_tail"]["mu"] == pytest.approx(float(arviz.ess(data, method="tail")["mu"]))
    guide = load(save(to_inference_data(conjugate, conjugate_guide, (Y,), num_samples=40), tmp_path / "guide.nc"))
    assert list(summary(guide).columns[-2:]) == ["mcse_mean", "mcse_sd"]
    with pytest.raises(ValueError, match="guide's independent draws"):
        summary(guide, independent=False)
    assert "r_hat" not in summary(ours, independent=True)


def test_summary_sees_chains_that_disagree():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2, 200, 3))
    draws[1, :, 2] += 3
    table = summary(pack({"posterior": {"w": draws.reshape(400, 3)}}, chains=2))
    assert (table["r_hat"][:2] < 1.05).all() and table["r_hat"].iloc[2] > 1.5
    assert table["ess_bulk"].iloc[2] < 20 < table["ess_bulk"].iloc[0]
    one = summary(pack({"posterior": {"w": draws[0]}}, chains=1))
    assert one["r_hat"].isna().all() and (one["ess_bulk"] > 20).all()
    with pytest.raises(ValueError, match="not 3 equal chains"):
        pack({"posterior": {"w": draws.reshape(400, 3)}}, chains=3)
