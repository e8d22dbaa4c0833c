"""Leave-one-out against closed forms: right from a narrow and from a shifted guide, where plain PSIS-LOO is wrong."""

import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyrarchy
from pyrarchy.inference import (
    ELBO,
    MCMCResult,
    UntrustedGuideError,
    elpd_from_draws,
    evaluate,
    fit,
    global_k_hat,
    held_out_elpd,
    loo,
    mcmc_inference_data,
    psis,
    rank_elpd,
    to_inference_data,
)

from .test_groups import python_with_arviz_1

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

# mu ~ N(0, 2), y_i ~ N(mu, 1): leaving y_i out, it is N(m, v + 1) with 1/v = 1/4 + N - 1 and m = v sum of the others.
Y = np.array([0.3, -1.1, 2.4, 0.8, 1.9, -0.2, 3.5])
N = len(Y)
V = 1 / (0.25 + N)
M = V * Y.sum()
V_LEFT = 1 / (0.25 + N - 1)
EXACT = -0.5 * np.log(2 * np.pi * (V_LEFT + 1)) - 0.5 * (Y - V_LEFT * (Y.sum() - Y)) ** 2 / (V_LEFT + 1)
GUIDES = {"narrow": (0.0, 0.85), "biased": (0.6, 1.0)}  # shift in posterior sd, share of the posterior's variance


def draws(shift, share, size, seed):
    """log weights (S,) and log likelihoods (S, N) at draws of N(m + shift sd, share v)."""
    rng = np.random.default_rng(seed)
    center, scale = M + shift * V**0.5, (share * V) ** 0.5
    mu = center + scale * rng.standard_normal(size)
    log_lik = -0.5 * (Y - mu[:, None]) ** 2 - 0.5 * np.log(2 * np.pi)
    log_prior = -0.5 * (mu / 2) ** 2 - np.log(2)
    log_q = -0.5 * ((mu - center) / scale) ** 2 - np.log(scale)
    return log_prior - log_q + log_lik.sum(1), log_lik


@pytest.mark.stochastic
@pytest.mark.parametrize("name", GUIDES)
def test_corrected_is_exact_and_plain_is_not(name):
    """Over 20 seeds of 20,000 draws: within four standard errors, as Student's t has them; plain off by over twenty."""
    corrected, plain = [], []
    for seed in range(20):
        log_weight, log_lik = draws(*GUIDES[name], 20_000, seed)
        corrected.append(elpd_from_draws(log_weight, log_lik)["elpd_i"].values)
        weights, k_hat = psis(-log_lik)
        assert (k_hat < 0.7).all()  # ArviZ would warn of none
        plain.append(np.log(np.exp(weights + log_lik).sum(0)))
    corrected, plain = np.array(corrected), np.array(plain)
    four = stats.t.isf(stats.norm.sf(4), 19)
    for found, right in ((corrected, True), (plain, False)):
        totals = found.sum(1)
        error = totals.std(ddof=1) / 20**0.5
        assert (abs(totals.mean() - EXACT.sum()) < four * error) == right
        if right:
            pointwise = found.std(0, ddof=1) / 20**0.5
            assert (abs(found.mean(0) - EXACT) < four * pointwise).all()
    off = abs(plain.mean(0) - EXACT)
    assert (off > 20 * plain.std(0, ddof=1) / 20**0.5).all() and off.max() > 0.05


def test_draws_of_the_posterior_itself_need_no_correction():
    """With constant p/q the correction is none: the same as az.loo, to the last digits, in value, p and k."""
    log_weight, log_lik = draws(0.0, 1.0, 4000, 0)
    assert np.ptp(log_weight) < 1e-9
    found = elpd_from_draws(log_weight, log_lik, dims=["obs"])
    theirs = arviz.loo(
        arviz.from_dict(posterior={"mu": np.zeros((1, 4000))}, log_likelihood={"y": log_lik[None]}), pointwise=True
    )
    np.testing.assert_allclose(found["elpd_i"], theirs.loo_i, atol=1e-6)
    np.testing.assert_allclose(found["pareto_k"], theirs.pareto_k, atol=1e-6)
    for key in ("elpd_loo", "se", "p_loo", "n_samples", "n_data_points", "warning", "scale"):
        assert found[key] == pytest.approx(theirs[key], abs=1e-6) if key != "scale" else found[key] == theirs[key]
    assert found["k_hat"] == 0.0 and "elpd_loo" in str(found)


def model(y):
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
    with pyro.plate("obs", len(y), dim=-1):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def guide_of(shift, share):
    return lambda y: pyro.sample("mu", dist.Normal(torch.tensor(M + shift * V**0.5), (share * V) ** 0.5))


@pytest.mark.parametrize("name", GUIDES)
def test_loo_of_a_pair(name):
    y = torch.from_numpy(Y)
    found = loo(model, guide_of(*GUIDES[name]), (y,), coords={"obs": list("ABCDEFG")})
    assert found["elpd_i"].dims == ("obs",) and list(found["elpd_i"]["obs"].values) == list("ABCDEFG")
    np.testing.assert_allclose(found["elpd_i"], EXACT, atol=0.05)
    assert (
        found["pareto_k"].shape == (N,) and found["k_hat"] == global_k_hat(model, guide_of(*GUIDES[name]), (y,)).median
    )


def test_loo_refuses_an_untrusted_guide_and_marks_what_is_asked_for_all_the_same():
    y = torch.from_numpy(Y)
    with pytest.raises(UntrustedGuideError, match="do not trust"):
        loo(model, guide_of(0.0, 0.1), (y,))
    marked = loo(model, guide_of(0.0, 0.1), (y,), limit=np.inf)
    good = loo(model, guide_of(0.0, 0.8), (y,))
    assert marked["warning"] and marked["k_hat"] > 0.7 and not good["warning"]
    table = rank_elpd({"narrow": marked, "good": good})
    assert list(table.index) == ["good", "narrow"] and list(table.trusted) == [True, False]
    wrong = elpd_from_draws(
        np.zeros(500), draws(0.0, 0.1, 500, 0)[1] + 5, k_hat=0.9
    )  # far above all, and not to be trusted
    assert list(rank_elpd({"a": wrong, "b": good}).index) == ["b", "a"]


def test_loo_of_latents_per_datum_and_other_refusals():
    def local(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def local_guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(x / 2, 0.5**0.5))

    with pytest.raises(ValueError, match="held_out_elpd"):
        loo(local, local_guide, (torch.zeros(4),))
    with pytest.raises(ValueError, match=r"no observed site 'x'; there are \['y'\]"):
        loo(model, guide_of(0.0, 1.0), (torch.from_numpy(Y),), site="x")

    def single(y):
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        pyro.sample("u", dist.Normal(mu.unsqueeze(-1), 1.0).expand((*mu.shape, 3)).to_event(1), obs=torch.zeros(3))

    with pytest.raises(ValueError, match=r"\['u', 'y'\].*site="):
        loo(single, guide_of(0.0, 1.0), (torch.tensor(1.0),))
    with pytest.raises(ValueError, match="single datum"):
        loo(single, guide_of(0.0, 1.0), (torch.tensor(1.0),), site="u")
    with pytest.raises(ValueError, match=r"\(S, \.\.\.\)"):
        elpd_from_draws(np.zeros(4), np.zeros((3, 2)))


def test_draws_of_chains_may_be_given_to_arviz():
    y = torch.from_numpy(Y)
    mu = torch.from_numpy(M + V**0.5 * np.random.default_rng(0).standard_normal((2, 2000)))
    nothing = np.zeros((2, 2000))
    chains = MCMCResult({"mu": mu}, nothing.astype(bool), nothing, np.ones(2), warmup=1, seed=0, seconds=0.0)
    idata = mcmc_inference_data(model, (y,), chains)  # as chains that mixed perfectly
    plain = arviz.loo(idata, pointwise=True)
    np.testing.assert_allclose(plain.loo_i, EXACT, atol=0.1)
    table = rank_elpd({"NUTS": plain, "guide": loo(model, guide_of(0.0, 0.8), (y,))})
    assert table.trusted.all() and table["diff"].abs().max() < 0.3


def held_out():
    """Two evaluations of 9 data: x ~ N(0, 2) exactly by an exact guide, and of x + noise under another model."""
    x = torch.linspace(-2.5, 2.5, 9)

    def pair(scale):
        def local(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z1", dist.Normal(0.0, scale))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def exact(x):
            with pyro.plate("data", len(x), dim=-1):
                share = scale**2 / (1 + scale**2)
                pyro.sample("z1", dist.Normal(share * x, share**0.5))

        return local, exact

    return x, {f"scale {s}": evaluate(*pair(s), x, num_samples=50) for s in (1.0, 3.0)}


def test_held_out_scores_are_ranked_with_paired_errors():
    x, found = held_out()
    scores = {name: held_out_elpd(one) for name, one in found.items()}
    exact = {s: dist.Normal(0.0, (1 + s**2) ** 0.5).log_prob(x).numpy() for s in (1.0, 3.0)}
    for s, values in exact.items():
        np.testing.assert_allclose(scores[f"scale {s}"]["elpd_i"], values, atol=1e-5)
    gap = exact[1.0] - exact[3.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.23 uses what pandas 3.1 deprecates
        theirs = arviz.compare(scores)
    for table in (theirs, rank_elpd(scores)):
        assert list(table.index) == ["scale 1.0", "scale 3.0"]
        assert abs(table.iloc[1]["dse"]) == pytest.approx(3 * gap.std(), abs=1e-4)  # paired: sqrt(9) sd of differences
        difference = "elpd_diff" if "elpd_diff" in table else "diff"
        assert abs(table.iloc[1][difference]) == pytest.approx(gap.sum(), abs=1e-4)
    assert np.isnan(scores["scale 1.0"]["p_loo"]) and not scores["scale 1.0"]["warning"]
    pair = pyrarchy.get_pair("eight_schools_mean_field")()
    with pytest.raises(ValueError, match="nothing to pair"):
        held_out_elpd(evaluate(*pair, eight_schools(), num_samples=30))
    two = replace(found["scale 1.0"], log_p=found["scale 1.0"].log_p[:2], k_hat=found["scale 1.0"].k_hat[:2])
    np.testing.assert_allclose(held_out_elpd(two)["elpd_i"], exact[1.0][:2], atol=1e-5)  # two are enough to be paired
    with pytest.raises(ValueError, match="same data"):
        rank_elpd({"a": scores["scale 1.0"], "b": elpd_from_draws(*draws(0.0, 1.0, 100, 0))})


# Where the 8,000 steps of the row eight_schools_centred end, to two digits: unconstrained location and raw scale.
COLLAPSED = {
    "mu": (4.28, 1.65),
    "tau": (1.77, -1.29),
    "theta": ([7.22, 5.17, 3.40, 4.85, 2.84, 3.63, 7.52, 4.95], [5.25, 4.88, 5.19, 4.97, 4.74, 4.98, 4.92, 5.30]),
}


def eight_schools():
    """y and sigma, float32."""
    return tuple(torch.from_numpy(part) for part in pyrarchy.load_data("eight_schools").train)


def exact_elpd():
    """log p(y_j | y of the others), (8,), by quadrature over tau; mu and theta are Gaussian given tau."""
    y, sigma = (part.double().numpy() for part in eight_schools())
    grid, step = np.linspace(1e-4, np.pi / 2 - 1e-4, 20_001, retstep=True)
    tau = 5 * np.tan(grid)  # uniform in the angle under a half-Cauchy of scale 5

    def log_z(keep):
        variance = tau[:, None] ** 2 + sigma[keep] ** 2
        precision, linear = 1 / 25 + (1 / variance).sum(1), (y[keep] / variance).sum(1)
        square = (y[keep] ** 2 / variance).sum(1) - linear**2 / precision
        log_p = -0.5 * (np.log(2 * np.pi * variance).sum(1) + square + np.log(25 * precision))
        return np.log(np.exp(log_p).sum() * step * 2 / np.pi)

    everything = np.full(8, True)
    return np.array([log_z(everything) - log_z(np.arange(8) != j) for j in range(8)])


def plain_loo(model, guide, args):
    """What az.loo makes of a guide's draws taken for the posterior's."""
    drawn = to_inference_data(model, guide, args, num_samples=10_000, groups=("posterior", "log_likelihood"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of high k, which is read off below
        return arviz.loo(drawn, pointwise=True)


def check_eight_schools(centred, non_centred):
    """Plain LOO ranks the collapsed guide first, all k good; corrected, it is refused, or ranked last where shown."""
    args, pairs = eight_schools(), {"centred": centred, "non-centred": non_centred}
    plain = {name: plain_loo(*pair, args) for name, pair in pairs.items()}
    assert (plain["centred"].pareto_k < 0.5).all() and not plain["centred"]["warning"]
    assert plain["centred"]["elpd_loo"] > plain["non-centred"]["elpd_loo"] + 0.5
    assert rank_elpd(plain).index[0] == "centred"
    k_hat = {name: global_k_hat(*pair, args) for name, pair in pairs.items()}
    assert k_hat["centred"].word == "do not trust" and k_hat["non-centred"].word == "usable"
    with pytest.raises(UntrustedGuideError, match="do not trust"):
        loo(*centred, args)
    corrected = {name: loo(*pair, args, limit=np.inf) for name, pair in pairs.items()}
    assert list(rank_elpd(corrected).index) == ["non-centred", "centred"]
    exact = exact_elpd()
    assert abs(corrected["non-centred"]["elpd"] - exact.sum()) < 0.1
    assert (
        plain["non-centred"]["elpd_loo"] < exact.sum() - 0.5
    )  # both forms are one model: neither plain figure is right
    return plain, corrected


def test_quadrature_of_eight_schools():
    """The reference value, and what the next two tests hold the corrected figure against."""
    assert exact_elpd().sum() == pytest.approx(-30.7419, abs=1e-3)


def test_eight_schools_plain_loo_is_fooled_and_corrected_is_not():
    model, guide = pyrarchy.get_pair("eight_schools_centred")()
    with torch.no_grad():
        for name, (loc, raw_scale) in COLLAPSED.items():
            guide.locs[name].copy_(torch.tensor(loc))
            guide.raw_scales[name].copy_(torch.tensor(raw_scale))
    other = pyrarchy.get_pair("eight_schools_mean_field")()
    fit(*other, eight_schools(), objective=ELBO(16), steps=400, optimizer=0.05, schedule=lambda step: 1 - step / 400)
    plain, _ = check_eight_schools((model, guide), other)
    assert plain["centred"]["elpd_loo"] > exact_elpd().sum() + 0.2  # better than the truth


@pytest.mark.slow
def test_eight_schools_by_the_rows_own_training():
    pairs = []
    for row in ("eight_schools_centred", "eight_schools_mean_field"):
        plan, (model, guide) = pyrarchy.get_pair(row).training, pyrarchy.get_pair(row)()
        schedule = lambda step, steps=plan.steps: 1 - step / steps  # noqa: E731
        fit(model, guide, eight_schools(), objective=ELBO(16), steps=plan.steps, optimizer=plan.lr, schedule=schedule)
        pairs.append((model, guide))
    check_eight_schools(*pairs)


OTHER = """
import sys, types
import numpy as np
room = types.ModuleType("room")
room.__path__ = [sys.argv[1]]
sys.modules["room"] = room  # the folder without its __init__, which needs torch
from room import elpd
import arviz
assert arviz.__version__.startswith("1."), arviz.__version__
with np.load(sys.argv[2]) as file:
    made = {name: elpd.elpd_from_draws(file[name + "_w"], file[name + "_l"], dims=["obs"]) for name in ("narrow", "biased")}
    wrong = elpd.elpd_from_draws(file["narrow_w"], file["narrow_l"] + 5, k_hat=0.9)
assert isinstance(made["narrow"], arviz.ELPDData) and "approximation correction" in str(made["narrow"])
table = arviz.compare({**made, "wrong": wrong}, round_to="none")
assert list(table.index)[0] == "wrong", table  # by the figure alone
ranked = elpd.rank_elpd({**made, "wrong": wrong})
assert list(ranked.index)[-1] == "wrong" and not ranked.trusted.iloc[-1]
class Scores:
    num_samples = 9
    def __init__(self, shift):
        self.log_p, self.k_hat = np.sin(np.arange(30.0)) + shift * np.arange(30.0), np.full(30, 0.2)
scores = {"a": elpd.held_out_elpd(Scores(0.0)), "b": elpd.held_out_elpd(Scores(0.1))}
paired = arviz.compare(scores, round_to="none")
assert list(paired.index) == ["b", "a"]
expected = np.sqrt(30) * np.std(0.1 * np.arange(30.0), ddof=0)
assert abs(paired.loc["a", "dse"] / expected - 1) < 0.03, (paired, expected)
print(*(float(one["elpd"]) for one in made.values()))
"""


def test_arviz_1_gives_the_same(tmp_path):
    python = python_with_arviz_1()
    made = {name: draws(*guide, 2000, 0) for name, guide in GUIDES.items()}
    arrays = {f"{name}_{part}": a for name, pair in made.items() for part, a in zip("wl", pair, strict=True)}
    np.savez(tmp_path / "draws.npz", **arrays)
    folder = Path(pyrarchy.__file__).parent.parent / "inference"
    run = subprocess.run(
        [python, "-W", "error", "-c", OTHER, str(folder), str(tmp_path / "draws.npz")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": ""},
    )
    assert run.returncode == 0, run.stderr
    ours = [elpd_from_draws(*pair)["elpd"] for pair in made.values()]
    assert [float(text) for text in run.stdout.split()] == pytest.approx(ours, abs=1e-9)
