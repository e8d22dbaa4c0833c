"""The global k-hat against 1 - v/s, and draws resampled to the posterior against exact answers; refusals with a reason."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.inference import (
    UntrustedGuideError,
    evaluate,
    global_k_hat,
    psis_posterior,
    summary,
    to_inference_data,
    trust,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

N = 7
Y = torch.tensor([0.3, -1.1, 2.4, 0.8, 1.9, -0.2, 3.5], dtype=torch.float64)
VARIANCE = 1 / (0.25 + N)
MEAN = VARIANCE * Y.sum()


def model(y):
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
    with pyro.plate("obs", len(y), dim=-1):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def guide_of(share, shift=0.0):
    """N(m + shift sd, share v) for the posterior N(m, v): k-hat is 1 - share for a share below one."""

    def guide(y):
        pyro.sample("mu", dist.Normal(MEAN + shift * VARIANCE**0.5, (share * VARIANCE) ** 0.5))

    return guide


def local_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def local_guide(x):
    """Means off by .15 and a third too narrow in variance: the posterior is N(x / 2, 1 / 2)."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z1", dist.Normal(x / 2 + 0.15, (0.65 / 2) ** 0.5).to_event(1))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_global_k_hat_is_one_minus_v_over_s(share):
    """The population value; single estimates at 10,000 draws scatter by about .1 to .2, the median of 20 does not."""
    found = global_k_hat(model, guide_of(share), (Y,), seeds=20)
    assert len(found.values) == 20 and found.num_samples == 10_000
    assert abs(found.median - (1 - share)) < 0.1
    assert found.word == trust(found.median)
    assert f"{min(found.values):.2f} to {max(found.values):.2f}" in str(found) and f"k-hat {found.median:.2f}" in str(
        found
    )


def test_words():
    ks = (-1.0, 0.0, 0.49, 0.5, 0.69, 0.7, np.inf, np.nan)
    assert [trust(k) for k in ks] == ["good"] * 3 + ["usable"] * 2 + ["do not trust"] * 3


def test_global_k_hat_leaves_the_generators_and_refuses_latents_per_datum():
    before = torch.get_rng_state()
    global_k_hat(model, guide_of(0.8), (Y,), num_samples=50, seeds=2)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match=r"\['data'\].*evaluate"):
        global_k_hat(local_model, local_guide, (torch.zeros(3, 2),), num_samples=50)
    assert evaluate(local_model, local_guide, torch.zeros(3, 2)).k_hat.shape == (3,)
    with pytest.raises(ValueError, match="25 draws"):
        global_k_hat(model, guide_of(0.8), (Y,), num_samples=20)


@pytest.mark.stochastic
@pytest.mark.parametrize("share, shift", [(0.6, 0.0), (0.9, 0.7)])  # of weights from half the variance none is finite
def test_resampled_draws_are_of_the_posterior(share, shift):
    """Within four standard errors, those of the summary, which know of the proposals; the guide's own draws are not."""
    guide = guide_of(share, shift)
    found = psis_posterior(model, guide, (Y,), 4000)
    table, drawn = summary(found).loc["mu"], found["posterior"]["mu"].values[0]
    assert len(np.unique(drawn)) < 3990 and (np.diff(drawn) == 0).mean() < 0.02  # copies, not side by side
    plain = table["sd"] * (1 / 4000 + 1 / found.attrs["effective_draws"]) ** 0.5
    assert table["mcse_mean"] == pytest.approx(plain) and found.attrs["effective_draws"] < 10_000
    assert abs(table["mean"] - MEAN.item()) < 4 * table["mcse_mean"]
    assert abs(table["sd"] - VARIANCE**0.5) < 4 * table["mcse_sd"]
    own = summary(to_inference_data(model, guide, (Y,), num_samples=4000)).loc["mu"]
    off = abs(own["mean"] - MEAN.item()) / own["mcse_mean"], abs(own["sd"] - VARIANCE**0.5) / own["mcse_sd"]
    assert max(off) > 20


@pytest.mark.stochastic
def test_standard_errors_know_of_the_proposals():
    """Over 20 seeds the mean scatters as the summary says, or less: systematic resampling adds less than the formula has."""
    tables = [summary(psis_posterior(model, guide_of(0.8), (Y,), 900, num_proposals=1000, seed=s)) for s in range(20)]
    means, errors = (np.array([t.loc["mu", c] for t in tables]) for c in ("mean", "mcse_mean"))
    assert 0.4 < means.std() / errors.mean() < 1.4


def test_tables_say_whose_intervals_they_are():
    guide = to_inference_data(model, guide_of(0.8), (Y,), num_samples=40)
    posterior = psis_posterior(model, guide_of(0.8), (Y,), 40)
    assert summary(guide).columns.name == "guide" and summary(posterior).columns.name == "posterior"
    assert summary(guide).to_string().split()[0] == "guide"
    assert summary(guide, group="prior").columns.name == "prior"
    assert posterior.attrs["k_hat"] < 0.5 and "5 seeds of 10000 draws" in posterior.attrs["k_hat_is"]


def test_same_groups_and_one_draw_per_row():
    posterior = psis_posterior(model, guide_of(0.8), (Y,), 60, num_proposals=500)
    guide = to_inference_data(model, guide_of(0.8), (Y,), num_samples=60)
    assert set(posterior.groups()) == set(guide.groups()) | {"log_likelihood"}
    assert "log_likelihood" not in guide.groups()
    mu, stats = posterior["posterior"]["mu"].values[0], posterior["sample_stats"]
    assert mu.shape == (60,) and posterior["posterior_predictive"]["y"].shape == (1, 60, N)
    expected = dist.Normal(torch.from_numpy(mu)[:, None], 1.0).log_prob(Y).numpy()
    np.testing.assert_allclose(posterior["log_likelihood"]["y"].values[0], expected, atol=1e-9)
    np.testing.assert_allclose(stats["lp"] - stats["log_q"], stats["log_weight"])
    copied = psis_posterior(model, guide_of(0.5), (Y,), 60, num_proposals=60, limit=np.inf)
    assert len(np.unique(copied["posterior"]["mu"])) < 60
    assert len(np.unique(copied["prior"]["mu"])) == 60  # independent draws, which no weight concerns


def test_a_narrow_guide_is_refused_with_the_reason():
    for share, shift in ((0.1, 0.0), (0.2, 3.0)):
        with pytest.raises(UntrustedGuideError, match=r"do not trust.*needed is a k-hat below 0\.7.*run_nuts"):
            psis_posterior(model, guide_of(share, shift), (Y,), 100)
    assert psis_posterior(model, guide_of(0.1), (Y,), 100, limit=np.inf).attrs["draws_of"] == "posterior"

    def point(y):
        pyro.sample("mu", dist.Delta(MEAN))

    with pytest.raises(UntrustedGuideError, match="nan"):
        psis_posterior(model, point, (Y,), 100)
    with pytest.raises(ValueError, match="num_proposals = 10"):
        psis_posterior(model, guide_of(0.9), (Y,), 11, num_proposals=10)


@pytest.mark.stochastic
def test_each_datum_is_resampled_by_its_own_weights():
    x = torch.linspace(-2, 2, 10).reshape(5, 2)
    found = psis_posterior(local_model, local_guide, (x,), 3000)
    z = found["posterior"]["z1"]
    assert z.dims == ("chain", "draw", "data", "z1_dim_0") and z.shape == (1, 3000, 5, 2)
    error = (0.5 * (1 / 3000 + 1 / found.attrs["effective_draws"])) ** 0.5
    np.testing.assert_allclose(z.values[0].mean(0), x / 2, atol=5 * error)
    np.testing.assert_allclose(z.values[0].std(0), 0.5**0.5, atol=5 * error)
    correlation = np.corrcoef(z.values[0, :, :, 0].T) - np.eye(5)
    assert np.abs(correlation).max() < 5 * error / 0.5**0.5  # data are independent of each other
    np.testing.assert_allclose(
        found["log_likelihood"]["x"].values[0],
        dist.Normal(torch.from_numpy(z.values[0]), 1.0).log_prob(x).sum(-1).numpy(),
        atol=1e-4,
    )
    assert "log_weight" not in found["sample_stats"] and found["sample_stats"]["log_weight_local"].shape == (1, 3000, 5)

    def narrow(x):
        with pyro.plate("data", len(x), dim=-1):
            scale = torch.where(torch.arange(len(x)) == 3, 0.05, 0.6)[:, None]
            pyro.sample("z1", dist.Normal(x / 2, scale).to_event(1))

    with pytest.raises(UntrustedGuideError, match=r"1 of 5 data \(the first: \[3\]\)"):
        psis_posterior(local_model, narrow, (x,), 1000)


def test_loo_of_resampled_draws_by_arviz_itself():
    """The group log_likelihood is there because the draws are of the posterior: az.loo of them is right."""
    found = arviz.loo(psis_posterior(model, guide_of(0.6), (Y,), 4000), pointwise=True)
    others = Y.sum() - Y
    variance = 1 / (0.25 + N - 1)
    exact = dist.Normal(variance * others, (variance + 1) ** 0.5).log_prob(Y).numpy()
    np.testing.assert_allclose(found.loo_i, exact, atol=0.08)
    with pytest.raises(TypeError, match="log likelihood"):
        arviz.loo(to_inference_data(model, guide_of(0.6), (Y,), num_samples=100))
