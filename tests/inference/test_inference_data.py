"""to_inference_data against exact answers, on local, global, mixed, nested, discrete and masked pairs."""

import warnings
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal, AutoNormalMessenger

from pyrarchy.guides.base import Guide
from pyrarchy.inference.groups import load, save
from pyrarchy.inference.inference_data import GROUPS, to_inference_data
from pyrarchy.inference.summary_table import summary

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

N, D, S = 7, 5, 400  # data, pixels, draws: pairwise different


def groups_of(idata):
    return set(idata.children) if hasattr(idata, "children") else set(idata.groups())


def with_log_likelihood(*pair, record=None, **options):
    """Every group, log_likelihood too, which has to be asked for."""
    groups = [g for g in GROUPS if g != "fit" or record is not None]
    return to_inference_data(*pair, record=record, groups=groups, **options)


# mu ~ N(0, 2), y_i ~ N(mu, 1): posterior N(m, v) with 1/v = 1/4 + N and m = v sum(y).
def global_model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("obs", len(y), dim=-1):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def global_guide(y):
    v = 1 / (0.25 + len(y))
    pyro.sample("mu", dist.Normal(v * y.sum(), v**0.5))


def local_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z1", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pixels = pyro.deterministic("mean", z @ WEIGHT)
        pyro.sample("x", dist.Normal(pixels, 0.5).to_event(1), obs=x)


WEIGHT = torch.linspace(-1, 1, 3 * D).reshape(3, D).cos()
PRECISION = torch.eye(3) + WEIGHT @ WEIGHT.T / 0.25
COVARIANCE = torch.linalg.inv(PRECISION)


class LocalGuide(Guide):
    """The exact posterior of local_model."""

    def encode(self, x):
        return x @ WEIGHT.T @ COVARIANCE / 0.25

    def posterior(self, name, prior):
        return dist.MultivariateNormal(self.evidence, covariance_matrix=COVARIANCE)


def data(n=N):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, D, generator=generator)


@pytest.mark.stochastic
def test_global_conjugate_model_is_exact():
    y = torch.linspace(-1, 3, N)
    idata = with_log_likelihood(global_model, global_guide, (y,), num_samples=4000)
    v = 1 / (0.25 + N)
    mu = idata["posterior"]["mu"]
    assert mu.dims == ("chain", "draw") and mu.shape == (1, 4000)
    table = summary(idata).loc["mu"]
    assert abs(table["mean"] - v * y.sum().item()) < 4 * table["mcse_mean"]
    assert abs(table["sd"] - v**0.5) < 4 * table["mcse_sd"]
    covariance = torch.eye(N) + 4.0
    log_z = dist.MultivariateNormal(torch.zeros(N), covariance_matrix=covariance).log_prob(y).item()
    stats = idata["sample_stats"]
    np.testing.assert_allclose(stats["log_weight"].values, log_z, atol=1e-4)
    assert stats["k_hat"].dims == () and stats["k_hat"] < 0.5
    assert "log_weight_local" not in stats
    np.testing.assert_allclose(stats["log_weight"], stats["lp"] - stats["log_q"])
    log_lik = idata["log_likelihood"]["y"]
    assert log_lik.dims == ("chain", "draw", "obs")
    expected = -0.5 * (y.numpy() - mu.values[..., None]) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_lik.values, expected, atol=1e-5)
    predictive = idata["posterior_predictive"]["y"].values[0]
    assert abs(predictive.mean() - v * y.sum().item()) < 4 * (v + 1 / N) ** 0.5 / 4000**0.5
    assert np.allclose(predictive.var(0), 1 + v, rtol=6 * (2 / 4000) ** 0.5)
    prior = idata["prior"]["mu"].values
    assert abs(prior.std() - 2) < 4 * 2 / 8000**0.5
    assert np.allclose(idata["prior_predictive"]["y"].values.var(), 5, rtol=0.1)
    np.testing.assert_array_equal(idata["observed_data"]["y"].values, y.numpy())


def test_local_model_has_weights_per_datum():
    x = data()
    idata = with_log_likelihood(local_model, LocalGuide(local_model), (x,), num_samples=S)
    posterior = idata["posterior"]
    assert set(posterior.data_vars) == {"z1", "mean"}
    assert posterior["z1"].dims == ("chain", "draw", "data", "z1_dim_0") and posterior["z1"].shape == (1, S, N, 3)
    assert posterior["mean"].dims == ("chain", "draw", "data", "mean_dim_0")
    assert idata["log_likelihood"]["x"].dims == ("chain", "draw", "data")
    assert idata["posterior_predictive"]["x"].shape == (1, S, N, D)
    assert idata["observed_data"]["x"].dims == ("data", "x_dim_0")
    assert "constant_data" not in groups_of(idata) and "fit" not in groups_of(idata)
    np.testing.assert_allclose(posterior["mean"].values, posterior["z1"].values @ WEIGHT.numpy(), atol=1e-5)
    log_px = dist.MultivariateNormal(torch.zeros(D), WEIGHT.T @ WEIGHT + 0.25 * torch.eye(D)).log_prob(x)
    stats = idata["sample_stats"]
    assert stats["log_weight_local"].dims == ("chain", "draw", "data") and stats["k_hat"].dims == ("data",)
    np.testing.assert_allclose(stats["log_weight_local"].values[0] - log_px.numpy(), 0, atol=2e-4)
    np.testing.assert_allclose(stats["log_weight"].values, log_px.sum().item(), atol=1e-3)


def test_an_overconfident_guide_has_a_large_k_hat():
    class Narrow(LocalGuide):
        def posterior(self, name, prior):
            return dist.MultivariateNormal(self.evidence, covariance_matrix=COVARIANCE / 9)

    idata = to_inference_data(local_model, Narrow(local_model), (data(),), num_samples=2000)
    assert (idata["sample_stats"]["k_hat"] > 0.7).all()


def test_posterior_predictive_is_not_the_data():
    """Pyro's Predictive with a guide returns the observed x (trap 9); freeing the named site does not."""
    x, guide = data(), LocalGuide(local_model)
    trap = Predictive(local_model, guide=guide, num_samples=3)(x)["x"]
    assert (trap == x).all()
    drawn = to_inference_data(local_model, guide, (x,), num_samples=2000)["posterior_predictive"]["x"].values[0]
    assert (drawn != x.numpy()).all()
    expected = x @ WEIGHT.T @ COVARIANCE / 0.25 @ WEIGHT
    assert np.abs(drawn.mean(0) - expected.numpy()).max() < 5 * 0.6 / 2000**0.5


def test_predictive_replays_the_same_draws():
    """With almost no noise the predictive x is the deterministic mean, draw by draw."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            mean = pyro.deterministic("mean", 3 * z)
            pyro.sample("x", dist.Normal(mean, 1e-4), obs=x)

    idata = to_inference_data(model, AutoNormalMessenger(model), (torch.zeros(N),), num_samples=S)
    for prefix in ("posterior", "prior"):
        x = idata[f"{prefix}_predictive"]["x"].values
        np.testing.assert_allclose(x, idata[prefix]["mean"].values, atol=1e-3)
        assert x.std() > 0.1


def nested_model(y):
    with pyro.plate("school", 4, dim=-2):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("pupil", 6, dim=-1):
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("y", dist.Normal(b[..., None].expand(*b.shape, 2), 1.0).to_event(1), obs=y)


def test_nested_plates_and_a_mixed_guide():
    y = torch.randn(4, 6, 2)
    idata = with_log_likelihood(nested_model, AutoNormal(nested_model), (y,), num_samples=50, plates=2)
    assert idata["posterior"]["a"].dims == ("chain", "draw", "school") and idata["posterior"]["a"].shape == (1, 50, 4)
    assert idata["posterior"]["b"].dims == ("chain", "draw", "school", "pupil")
    assert idata["log_likelihood"]["y"].dims == ("chain", "draw", "school", "pupil")
    stats = idata["sample_stats"]
    assert stats["log_weight_local"].dims == ("chain", "draw", "school")  # the plate around every site
    np.testing.assert_allclose(stats["log_weight_local"].sum("school"), stats["log_weight"], rtol=1e-5)
    with pytest.raises(ValueError, match="plates=2"):
        with_log_likelihood(nested_model, AutoNormal(nested_model), (y,), num_samples=50)


def test_mixed_global_and_local_latents():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    idata = to_inference_data(model, AutoNormalMessenger(model), (torch.linspace(0, 1, N),), num_samples=50)
    assert idata["posterior"]["mu"].dims == ("chain", "draw", "mu_dim_0")
    assert idata["posterior"]["z1"].shape == (1, 50, N, 2)
    assert idata["sample_stats"]["k_hat"].dims == () and "log_weight_local" not in idata["sample_stats"]


SIGMA = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
EFFECT = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])


def schools(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.LogNormal(1.0, 1.0))
    with pyro.plate("school", len(y), dim=-1):
        standard = pyro.sample("theta_std", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * standard)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def test_auto_guide_keeps_auxiliary_sites_out():
    guide = AutoMultivariateNormal(schools, init_scale=0.1)
    names = list("ABCDEFGH")
    args = (EFFECT, SIGMA)
    idata = to_inference_data(schools, guide, args, num_samples=300, coords={"school": names})
    posterior = idata["posterior"]
    assert set(posterior.data_vars) == {"mu", "tau", "theta_std", "theta"}
    assert posterior["mu"].dims == posterior["tau"].dims == ("chain", "draw")
    assert posterior["theta"].dims == ("chain", "draw", "school")
    np.testing.assert_allclose(
        posterior["theta"], posterior["mu"] + posterior["tau"] * posterior["theta_std"], atol=1e-4
    )
    assert list(idata["constant_data"].data_vars) == ["sigma"]  # y is observed data
    assert idata["constant_data"]["sigma"].dims == ("school",)
    assert summary(idata, "theta").index[0] == "theta[A]"
    # The guide's density sits on the auxiliary site: log q is that of the ten unconstrained numbers plus a Jacobian.
    stats = idata["sample_stats"]
    z = np.concatenate([posterior[n].values.reshape(300, -1) for n in ("mu", "tau", "theta_std")], 1)
    jacobian = -np.log(z[:, 1])
    z[:, 1] = np.log(z[:, 1])
    loc = guide.loc.detach().numpy()
    expected = -0.5 * (((z - loc) / 0.1) ** 2).sum(1) - 10 * np.log(0.1 * (2 * np.pi) ** 0.5) + jacobian
    np.testing.assert_allclose(stats["log_q"].values[0], expected, rtol=1e-3)


def test_discrete_latent_is_exact():
    """z ~ Bernoulli(.3), x ~ N(2 z, 1): with the exact posterior every weight is log p(x)."""
    x = torch.linspace(-1, 3, N)
    joint = torch.stack([dist.Normal(2.0 * z, 1.0).log_prob(x) + np.log([0.7, 0.3][z]) for z in (0, 1)])

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Bernoulli((joint[1] - joint.logsumexp(0)).exp()))

    idata = to_inference_data(model, guide, (x,), num_samples=S)
    weights = idata["sample_stats"]["log_weight_local"].values[0]
    np.testing.assert_allclose(weights - joint.logsumexp(0).numpy(), 0, atol=1e-4)
    assert set(np.unique(idata["posterior"]["z1"])) == {0, 1}


def test_masked_data_have_no_likelihood():
    seen = torch.arange(N) != 2

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("obs", len(y), dim=-1), poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide(y):
        v = 1 / (0.25 + seen.sum())
        pyro.sample("mu", dist.Normal(v * y[seen].sum(), v**0.5))

    y = torch.linspace(-1, 3, N)
    idata = with_log_likelihood(model, guide, (y,), num_samples=50)
    log_lik = idata["log_likelihood"]["y"].values[0]
    assert (log_lik[:, 2] == 0).all() and (log_lik[:, 3] != 0).all()
    assert np.ptp(idata["sample_stats"]["log_weight"].values) < 1e-4  # exact for the six that are seen


def test_a_factor_forbids_forward_samples():
    def model():
        with pyro.plate("data", N, dim=-1):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.factor("energy", -(z**2))

    def guide():
        with pyro.plate("data", N, dim=-1):
            pyro.sample("z1", dist.Normal(0.0, 3**-0.5))

    idata = to_inference_data(model, guide, num_samples=50)
    assert groups_of(idata) == {"posterior", "sample_stats"}
    assert "energy" in idata.attrs["note"]
    np.testing.assert_allclose(idata["sample_stats"]["log_weight_local"], -0.5 * np.log(3), atol=1e-5)
    with pytest.raises(ValueError, match=r"\['prior_predictive'\].*energy"):
        to_inference_data(model, guide, num_samples=50, groups=["posterior", "prior_predictive"])


def test_plain_guide_with_parameters_in_the_store():
    def guide(y):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("mu", dist.Normal(loc, 1e-3))

    pyro.param("loc", torch.tensor(5.0))
    idata = to_inference_data(global_model, guide, (torch.zeros(N),), num_samples=20)
    np.testing.assert_allclose(idata["posterior"]["mu"], 5, atol=0.01)
    assert set(pyro.get_param_store().keys()) == {"loc"}


def test_rows_select_data_and_label_them():
    x, guide = data(), LocalGuide(local_model)
    for rows, labels in ((slice(4, None, -2), [4, 2, 0]), (np.array([6, 1]), [6, 1])):
        idata = to_inference_data(local_model, guide, (x,), num_samples=20, rows=rows)
        assert list(idata["posterior"]["data"].values) == labels
        np.testing.assert_array_equal(idata["observed_data"]["x"].values, x[labels].numpy())
    with pytest.raises(ValueError, match="rows do not fit the 7 data"):
        to_inference_data(local_model, guide, (x,), rows=[9])
    with pytest.raises(ValueError, match="selects some of 7"):
        to_inference_data(local_model, guide, (x,), rows=3)
    with pytest.raises(ValueError, match=r"AutoNormal keeps one row.*'z1'.*\['data'\]"):
        to_inference_data(local_model, AutoNormal(local_model), (x,), rows=[0, 1])


def test_random_subsample_is_the_same_for_all_draws(monkeypatch):
    monkeypatch.setattr("pyrarchy.inference.draw_plan.CHUNK_ELEMENTS", 100)

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("obs", len(y), subsample_size=3, dim=-1) as index:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[index])

    y = torch.linspace(-1, 3, N)
    idata = with_log_likelihood(model, global_guide, (y,), num_samples=S)
    rows = idata["log_likelihood"]["obs"].values.copy()
    assert len(rows) == 3
    mu = idata["posterior"]["mu"].values[..., None]
    expected = -0.5 * (y[rows].numpy() - mu) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(idata["log_likelihood"]["y"].values, expected, atol=1e-5)


def test_byte_limit_names_the_three_largest_sites():
    # posterior z1 and mean, prior z1 and mean, both predictive x, log-likelihood, weights: mean and x have 7 * 5 floats.
    message = (
        r"10000000 draws need \d+\.\d MiB, byte_limit allows 2048\.0 MiB; the largest sites are "
        r"(\w+/(x|mean) 1335\.1 MiB(, |\. )){3}"
    )
    with pytest.raises(ValueError, match=message):
        to_inference_data(local_model, LocalGuide(local_model), (data(),), num_samples=10_000_000)


def test_groups_can_be_chosen():
    idata = to_inference_data(
        global_model, global_guide, (torch.zeros(N),), num_samples=9, groups=["prior", "posterior"]
    )
    assert groups_of(idata) == {"prior", "posterior"}
    with pytest.raises(ValueError, match=r"unknown group\(s\) \['posteriors'\]"):
        to_inference_data(global_model, global_guide, (torch.zeros(N),), groups=["posteriors"])
    with pytest.raises(ValueError, match="needs record="):
        to_inference_data(global_model, global_guide, (torch.zeros(N),), groups=["fit"])
    with pytest.raises(TypeError, match=r"write \(x,\)"):
        to_inference_data(global_model, global_guide, torch.zeros(N))


def test_record_dims_and_file_round_trip(tmp_path):
    record = SimpleNamespace(losses=[3.0, 2.0, 1.5, 1.2], values=[-3.0, -2.0, -1.5, -1.2])
    guide = LocalGuide(local_model)
    dims = {"x": ["data", "pixel"]}
    idata = with_log_likelihood(
        local_model, guide, (data(),), num_samples=11, record=record, dims=dims, coords={"pixel": list("abcde")}
    )
    back = load(save(idata, tmp_path / "posterior.nc"))
    assert groups_of(back) == groups_of(idata)
    for group in groups_of(idata):
        for name in idata[group].data_vars:
            assert idata[group][name].identical(back[group][name])
    assert back["fit"]["loss"].dims == ("step",) and list(back["fit"]["value"].values) == record.values
    assert back["posterior_predictive"]["x"].dims == ("chain", "draw", "data", "pixel")
    assert back["log_likelihood"]["x"].dims == ("chain", "draw", "data")
    assert list(back["observed_data"]["pixel"].values) == list("abcde")


def test_log_likelihood_is_not_there_unasked():
    """Plain az.loo of a guide's draws is not LOO: it finds nothing, and where asked for, the group says so."""
    pair, y = (global_model, global_guide), torch.linspace(-1, 3, N)
    plain = to_inference_data(*pair, (y,), num_samples=30)
    assert "log_likelihood" not in groups_of(plain) and "log_likelihood_is" not in plain.attrs
    with pytest.raises(TypeError, match="log likelihood"):
        arviz.loo(plain)
    assert "az.loo of it is not LOO" in with_log_likelihood(*pair, (y,), num_samples=30).attrs["log_likelihood_is"]


def test_arviz_reads_the_log_likelihood():
    """LOO of the conjugate model: the exact leave-one-out predictive densities, summed."""
    y = torch.linspace(-1, 3, N)
    idata = with_log_likelihood(global_model, global_guide, (y,), num_samples=4000)
    v = 1 / (0.25 + N - 1)
    loc = v * (y.sum() - y)
    exact = dist.Normal(loc, (1 + v) ** 0.5).log_prob(y).sum().item()
    loo = arviz.loo(idata)
    assert abs(getattr(loo, "elpd_loo", getattr(loo, "elpd", None)) - exact) < 0.1
    table = arviz.summary(idata, kind="stats")
    assert "mu" in table.index


def test_same_seed_same_draws_and_nothing_left_behind():
    x, guide = data(), LocalGuide(local_model)
    pyro.param("other", torch.tensor(1.0))
    before, keys = torch.get_rng_state(), set(pyro.get_param_store().keys())
    one, two, other = (to_inference_data(local_model, guide, (x,), num_samples=20, seed=s) for s in (3, 3, 4))
    assert (torch.get_rng_state() == before).all() and set(pyro.get_param_store().keys()) == keys
    for group, name in (("posterior", "z1"), ("prior", "z1"), ("posterior_predictive", "x")):
        assert (one[group][name].values == two[group][name].values).all()
        assert (one[group][name].values != other[group][name].values).any()


def test_chunks_do_not_change_shapes_or_moments(monkeypatch):
    monkeypatch.setattr("pyrarchy.inference.draw_plan.CHUNK_ELEMENTS", 700)  # 12 draws a chunk, the last one shorter
    idata = to_inference_data(local_model, LocalGuide(local_model), (data(),), num_samples=101)
    z = idata["posterior"]["z1"].values[0]
    assert len(np.unique(z[:, 0, 0])) == 101
    assert np.ptp(idata["sample_stats"]["log_weight"].values) < 1e-3


def test_modes_are_restored_and_dropout_is_off():
    class Model(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__("model")
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z1", dist.Normal(0.0, 1.0))
                pyro.deterministic("kept", self.drop(z))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    model = Model().train()
    idata = to_inference_data(model, AutoNormalMessenger(model), (torch.zeros(N),), num_samples=20)
    assert model.training
    np.testing.assert_array_equal(idata["posterior"]["kept"], idata["posterior"]["z1"])


def test_a_model_that_mixes_draws_is_refused_and_runs_one_by_one():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
        pyro.deterministic("first", z[0])  # the first datum of one draw, the first draw of many
        with pyro.plate("data2", len(x), dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = AutoNormalMessenger(model)
    with pytest.raises(ValueError, match=r"site 'first'.*plates=None"):
        to_inference_data(model, guide, (torch.zeros(N),), num_samples=20)
    for size in (N, 20):  # as many draws as data: shapes alone do not show it
        with pytest.raises(ValueError, match="site 'first'"):
            to_inference_data(model, guide, (torch.zeros(N),), num_samples=size)
    idata = to_inference_data(model, guide, (torch.zeros(N),), num_samples=20, plates=None)
    np.testing.assert_array_equal(idata["posterior"]["first"], idata["posterior"]["z1"][..., 0])
    assert len(np.unique(idata["posterior"]["first"])) == 20


def test_a_model_that_fails_on_many_draws_says_what_to_do():
    def model(x):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", N, dim=-1):
            pyro.sample("y", dist.Normal(x @ weight, 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match="plates=None"):
        to_inference_data(model, AutoNormal(model), (data(),), num_samples=20)
    idata = to_inference_data(model, AutoNormal(model), (data(),), num_samples=20, plates=None)
    assert idata["posterior"]["weight"].shape == (1, 20, D)
    assert idata["constant_data"]["x"].dims == ("data", "x_dim_0")


def test_a_point_mass_has_no_k_hat():
    """Its weights are constant, which would look perfect."""
    for plates in (1, None):
        idata = to_inference_data(
            global_model, AutoDelta(global_model), (torch.zeros(N),), num_samples=50, plates=plates
        )
        assert np.isnan(idata["sample_stats"]["k_hat"]) and "'mu'" in idata.attrs["note"]


def test_a_guide_that_forgets_a_site_is_named():
    with pytest.raises(ValueError, match=r"does not sample.*\['mu'\]"):
        to_inference_data(global_model, lambda y: None, (torch.zeros(N),))
