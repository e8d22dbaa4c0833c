"""encode, reconstruct, sample and decode against exact posteriors, exact moments and one-at-a-time passes."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrarchy
from pyrarchy.guides import Exact
from pyrarchy.inference import decode, encode, isolated, reconstruct, sample
from pyrarchy.zoo import PPCA


@pytest.fixture
def ppca():
    """PPCA (5 columns, 2 factors) with weights away from the start, its exact guide, and 7 rows."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = PPCA(5, 2)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        return model, Exact(model), torch.randn(7, 5) + 2


def exact_mean(model, rows):
    found = model.posterior(rows)
    return (found["z1"] if isinstance(found, dict) else found).mean.detach().numpy()


def test_encode_is_the_posterior_mean(ppca):
    model, guide, rows = ppca
    np.testing.assert_allclose(encode(model, guide, rows)["z1"], exact_mean(model, rows), rtol=1e-5, atol=1e-6)


@pytest.mark.stochastic
def test_draws_have_the_posterior_s_moments(ppca):
    """Mean within 4.5 standard errors, variance within 4.5 of its own (Gaussian: var of s^2 = 2 var^2 / S)."""
    model, guide, rows = ppca
    draws, num = encode(model, guide, rows, draws=4000)["z1"], 4000
    assert draws.shape == (num, 7, 2)
    found = model.posterior(rows)
    variance = (found["z1"] if isinstance(found, dict) else found).variance.detach().numpy()
    assert (np.abs(draws.mean(0) - exact_mean(model, rows)) < 4.5 * np.sqrt(variance / num)).all()
    assert (np.abs(draws.var(0) - variance) < 4.5 * variance * np.sqrt(2 / num)).all()


@pytest.mark.stochastic
def test_reconstruct_is_linear_in_the_posterior_mean(ppca):
    """E[x | z] averaged over 100 draws is W E[z] + mean within the draws' standard error."""
    model, guide, rows = ppca
    with torch.no_grad():
        offset = decode(model, (rows,), {"z1": torch.zeros(1, 2)})["x"]
        loadings = decode(model, (rows,), {"z1": torch.eye(2)})["x"] - offset
        found = model.posterior(rows)
        covariance = (found["z1"] if isinstance(found, dict) else found).covariance_matrix[0].numpy()
    expected = exact_mean(model, rows) @ loadings + offset
    error = np.sqrt(np.diag(loadings.T @ covariance @ loadings) / 100)
    assert (np.abs(reconstruct(model, guide, rows)["x"] - expected) < 4.5 * error).all()


def test_reconstructed_draws_have_the_noise_on_top(ppca):
    model, guide, rows = ppca
    draws = reconstruct(model, guide, rows, draws=3000)["x"]
    assert draws.shape == (3000, 7, 5)
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(rows)
        noise = trace.nodes["x"]["fn"].variance.numpy()[0]
    assert (draws.var(0) > noise * (1 - 4.5 * np.sqrt(2 / 3000))).all()


@pytest.mark.stochastic
def test_samples_have_the_model_s_moments(ppca):
    """Mean and covariance W W' + s^2 I within 4.5 standard errors of Gaussian moments."""
    model, _, rows = ppca
    num = 20_000
    found = sample(model, (rows,), num)
    assert {name: value.shape for name, value in found.items()} == {"z1": (num, 2), "x": (num, 5)}
    with torch.no_grad():
        offset = decode(model, (rows,), {"z1": torch.zeros(1, 2)})["x"][0]
        loadings = decode(model, (rows,), {"z1": torch.eye(2)})["x"] - offset
        noise = poutine.trace(model).get_trace(rows).nodes["x"]["fn"].variance.numpy()[0]
    covariance = loadings.T @ loadings + np.diag(noise)
    variance = np.diag(covariance)
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / num)
    assert (np.abs(found["x"].mean(0) - offset) < 4.5 * np.sqrt(variance / num)).all()
    assert (np.abs(np.cov(found["x"].T) - covariance) < 4.5 * error).all()


def test_mean_samples_are_decoded_latents(ppca):
    model, _, rows = ppca
    found = sample(model, (rows,), 11, mean=True, seed=5)
    np.testing.assert_allclose(found["x"], decode(model, (rows,), {"z1": torch.from_numpy(found["z1"])})["x"],
                               rtol=1e-6, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("num", [1, 6, 7, 8, 20])
def test_sample_gives_as_many_as_asked(ppca, num):
    model, _, rows = ppca
    assert {len(value) for value in sample(model, (rows,), num).values()} == {num}


def test_seed_decides_and_outside_is_left_alone(ppca):
    model, guide, rows = ppca
    model.train()
    before = torch.get_rng_state()
    for use in (encode, reconstruct):
        first, again, other = (use(model, guide, rows, draws=3, seed=s) for s in (4, 4, 5))
        for name in first:
            assert np.array_equal(first[name], again[name])
            assert not np.array_equal(first[name], other[name])
    assert np.array_equal(sample(model, (rows,), 9, seed=4)["x"], sample(model, (rows,), 9, seed=4)["x"])
    assert torch.equal(before, torch.get_rng_state()) and model.training
    assert len(pyro.get_param_store()) == 0


def test_chunks_cover_every_row_once(ppca):
    """Exact conditional means do not depend on how the rows are cut."""
    model, guide, rows = ppca
    whole = encode(model, guide, rows)["z1"]
    np.testing.assert_allclose(encode(model, guide, rows, rows_per_pass=300)["z1"], whole, rtol=1e-5, atol=1e-6)
    cut = encode(model, guide, rows, draws=5, rows_per_pass=10)["z1"]
    assert cut.shape == (5, 7, 2) and len(np.unique(cut[:, :, 0])) == 35


def test_one_draw_and_one_row_keep_their_axes(ppca):
    model, guide, rows = ppca
    assert encode(model, guide, rows[:1])["z1"].shape == (1, 2)
    assert encode(model, guide, rows[:1], draws=1)["z1"].shape == (1, 1, 2)
    assert encode(model, guide, rows, draws=1)["z1"].shape == (1, 7, 2)
    assert reconstruct(model, guide, rows, draws=1)["x"].shape == (1, 7, 5)
    assert reconstruct(model, guide, rows[:1])["x"].shape == (1, 5)


@pytest.mark.parametrize("use", [encode, reconstruct])
def test_no_draws_are_refused(ppca, use):
    model, guide, rows = ppca
    with pytest.raises(ValueError, match="at least 1, not 0"):
        use(model, guide, rows, draws=0)


@pytest.mark.stochastic
def test_codes_of_a_hierarchy_are_the_means_of_its_draws():
    """Both layers of a ladder: the code, from 100 draws, against the average of 2,000 other draws."""
    model, guide = pyrarchy.get_pair("gaussian_tree")()
    rows = torch.from_numpy(pyrarchy.load_data("gaussian_tree").train[:6])
    codes, draws = encode(model, guide, rows), encode(model, guide, rows, draws=2000, seed=1)
    assert codes["z1"].shape == (6, 2)
    for name, code in codes.items():
        spread = draws[name].std(0)
        assert (np.abs(draws[name].mean(0) - code) < 4.5 * spread * np.sqrt(1 / 2000 + 1 / 100)).all()


def test_decode_fills_the_layers_below_with_prior_means():
    """Given only the top of three layers: each layer below is its prior's mean, one conditional at a time."""
    model, guide = pyrarchy.get_pair("hvae")(z_dims=(5, 3, 2), hidden=(7, 6, 4))
    rows = torch.zeros(4, 64)
    values = {"z3": torch.randn(11, 2)}
    found = decode(model, (rows,), values)["x"]
    assert found.shape == (11, 64)
    example = torch.zeros(11, 64)
    with isolated(model, guide), torch.no_grad():
        for name in ("z2", "z1"):
            trace = poutine.trace(poutine.condition(model, data=values)).get_trace(example)
            values[name] = trace.nodes[name]["fn"].mean
        expected = poutine.trace(poutine.condition(model, data=values)).get_trace(example).nodes["x"]["fn"].mean
    np.testing.assert_array_equal(found, expected.numpy())
    moved = decode(model, (rows,), {**values, "z1": values["z1"] + 1})["x"]
    assert not np.allclose(moved, found)


def test_decode_of_the_tree_is_its_top():
    """x = z1 = a z2 in the mean: with a = 1 every leaf is the root."""
    model, _ = pyrarchy.get_pair("gaussian_tree")()
    rows = torch.zeros(3, 2)
    found = decode(model, (rows,), {"z2": torch.tensor([[0.5], [-2.0], [7.0], [1.0]])})["x"]
    np.testing.assert_allclose(found, [[0.5, 0.5], [-2, -2], [7, 7], [1, 1]], rtol=1e-6)


def test_decode_refuses_an_unknown_site(ppca):
    model, _, rows = ppca
    with pytest.raises(ValueError, match=r"no latent site\(s\) \['z2'\]; it has \['z1'\]"):
        decode(model, (rows,), {"z2": torch.zeros(3, 2)})


def test_global_latents_have_no_axis_for_data():
    """Eight schools: mu and tau are numbers; with draws, the draws come first and nothing is left between."""
    data = pyrarchy.load_data("eight_schools")
    model, guide = pyrarchy.get_pair("eight_schools")()
    args = tuple(torch.from_numpy(part) for part in data.train)
    means, draws, one = (encode(model, guide, args, draws=s) for s in (None, 5, 1))
    assert {n: v.shape for n, v in means.items()} == {"mu": (), "tau": (), "theta_std": (8,)}
    assert {n: v.shape for n, v in draws.items()} == {"mu": (5,), "tau": (5,), "theta_std": (5, 8)}
    assert {n: v.shape for n, v in one.items()} == {"mu": (1,), "tau": (1,), "theta_std": (1, 8)}
    assert reconstruct(model, guide, args)["y"].shape == (8,)
    assert reconstruct(model, guide, args, draws=5)["y"].shape == (5, 8)
    for num in (1, 5):
        found = sample(model, args, num)
        assert {n: v.shape for n, v in found.items()} == {"mu": (num,), "tau": (num,), "theta_std": (num, 8),
                                                          "y": (num, 8)}  # fmt: skip


@pytest.mark.stochastic
def test_prior_of_eight_schools_has_its_moments():
    """mu ~ N(0, 5): mean and variance within 4.5 standard errors; the median of tau ~ HalfCauchy(5) is 5."""
    args = tuple(torch.from_numpy(part) for part in pyrarchy.load_data("eight_schools").train)
    model, _ = pyrarchy.get_pair("eight_schools")()
    found, num = sample(model, args, 10_000), 10_000
    assert abs(found["mu"].mean()) < 4.5 * 5 / np.sqrt(num)
    assert abs(found["mu"].var() - 25) < 4.5 * 25 * np.sqrt(2 / num)
    assert abs((found["tau"] < 5).mean() - 0.5) < 4.5 * 0.5 / np.sqrt(num)


def test_mean_of_a_distribution_without_one_comes_from_draws():
    """A Cauchy has no finite mean: the code is then an average of draws, finite where the draws are."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Cauchy(x, 1e-4))

    rows = torch.tensor([1.0, -3.0, 8.0])
    np.testing.assert_allclose(np.median(encode(model, guide, rows, draws=400)["z1"], 0), rows, atol=1e-3)
    assert np.isfinite(encode(model, guide, rows)["z1"]).all()


def test_forward_samples_of_a_factor_are_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.factor("weight", -(z1**2))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"factor site\(s\) \['weight'\]"):
        sample(model, (torch.zeros(3),), 2)
