"""Every section on small pairs whose answers are known, what is left out and why, the way to a file and back."""

import re
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray

import pyrarchy
from pyrarchy import section as section_module
from pyrarchy.diagnosis import deadline, run_sections
from pyrarchy.guides import Exact
from pyrarchy.inference import groups
from pyrarchy.section import Context, NotApplicable, Section, sections
from pyrarchy.zoo import EightSchools
from pyrarchy.zoo.factor_analysis import FactorAnalysis

N = 43


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Long diagnostics in the numbers of a test."""
    sections()
    small = {"section_annealed": {"ROWS": 7, "CHAINS": 8, "TEMPERATURES": 12}, "section_posterior": {"DRAWS": 1000}}
    small["section_calibration"] = {"SETS": 60, "DRAWS": 19}
    for module, values in {**small, "section_gradient": {"ROWS": 5, "DRAWS": 6}}.items():
        for name, value in values.items():
            monkeypatch.setattr(sys.modules[f"pyrarchy.{module}"], name, value)


def exact_pair():
    pyro.set_rng_seed(4)
    model = FactorAnalysis(5, 2)
    return (model, Exact(model)), 1.5 * torch.randn(N, 5)


def collapsed_pair():
    """z2 is ignored by q; z1's answer is far too narrow, so that no weight can be trusted."""

    def model(x):
        with pyro.plate("data", x.shape[0], dim=-1):
            top = pyro.sample("z2", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            z = pyro.sample("z1", dist.Normal(torch.zeros_like(top[..., :2]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z2", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(x / 2, 0.1).to_event(1))

    return (model, guide), torch.randn(N, 2)


def test_a_right_pair_is_exact_trusted_and_used():
    pair, x = exact_pair()
    found = pyrarchy.diagnose(pair, x, num_samples=60, labels=np.arange(N) % 2, seed=3)
    held_out = found["held_out"]
    np.testing.assert_allclose(held_out["log_p"], held_out["exact_log_p"], atol=1e-4)
    np.testing.assert_allclose(held_out["exact_log_p"], pair[0].log_marginal(x).detach(), rtol=1e-5)
    assert {n: held_out[n].attrs.get("bound") for n in ("log_p", "elbo", "exact_log_p", "k_hat")} == {
        "log_p": "lower bound in expectation", "elbo": "lower bound in expectation", "exact_log_p": "exact", "k_hat": None
    }  # fmt: skip
    assert held_out["log_p"].attrs["unit"] == "nats per datum" and held_out["ess"].shape == (N,)
    assert "below 0.7 for all 43 data" in held_out.attrs["says"] and "untrustworthy" not in held_out.attrs["says"]
    assert held_out.attrs["error_over_data"] > 0 and held_out.attrs["error_over_weights"] < 1e-4
    assert "z1 is used" in found["rates"].attrs["says"] and found["rates"]["rate_z1"].dims == ("z1_unit",)
    assert float(found["labels"]["information"][0]) < 3 * float(found["labels"]["error"][0])  # the labels are arbitrary


def test_average_posterior_of_a_right_and_of_a_collapsed_layer():
    """The cut adds up; a layer equal to its prior holds no information and differs from the prior in nothing."""
    for (pair, x), used in ((exact_pair(), True), (collapsed_pair(), False)):
        found = pyrarchy.diagnose(pair, x, only=["surgery", "average_posterior"])
        cut = {name: float(found["surgery"][name]) for name in ("average_kl", "information", "marginal_kl")}
        assert cut["average_kl"] == pytest.approx(cut["information"] + cut["marginal_kl"], abs=1e-5)
        assert (cut["information"] > 0.05) == used
        if not used:
            assert "The mean of 0 of" in found["average_posterior"].attrs["says"]


def test_a_collapsed_layer_and_weights_that_lie_are_called_so():
    pair, x = collapsed_pair()
    found = pyrarchy.diagnose(pair, x, num_samples=200, only=["held_out", "rates"])
    says = found["held_out"].attrs["says"]
    bad = int((found["held_out"]["k_hat"] >= 0.7).sum())
    assert bad > N / 2 and f"k-hat is 0.7 or more for {bad} of 43 data: their log p(x) is untrustworthy" in says
    assert "z2 carries nothing: rate 0.00 nats, 0 of 3 units active." in found["rates"].attrs["says"]
    assert list(found["rates"]["layer"].values) == ["z2", "z1"]
    np.testing.assert_allclose(found["rates"]["rate_z2"], 0, atol=1e-6)


def test_errors_over_weights_are_those_of_other_seeds():
    pair, x = exact_pair()
    model = pair[0]

    def guide(x):
        q = model.posterior(x)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z1", dist.MultivariateNormal(q.mean, scale_tril=1.3 * q.scale_tril))

    runs = [pyrarchy.diagnose((model, guide), x, num_samples=50, seed=s, only=["held_out"]) for s in range(30)]
    means = [run["held_out"].attrs["mean_log_p"] for run in runs]
    claimed = np.mean([run["held_out"].attrs["error_over_weights"] for run in runs])
    assert claimed == pytest.approx(np.std(means, ddof=1), rel=3.5 / np.sqrt(2 * 29))


def test_annealed_chains_gain_where_the_guide_is_too_narrow():
    (model, exact), x = exact_pair()

    def narrow(x):
        q = model.posterior(x)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z1", dist.MultivariateNormal(q.mean + 3.0, scale_tril=0.2 * q.scale_tril))

    wanted = ["held_out", "ais", "bdmc"]
    found = pyrarchy.diagnose((model, narrow), x, num_samples=30, only=wanted[:2])
    assert re.search(
        r"Annealing gains .* nats: by so much the importance samples are too low\.", found["ais"].attrs["says"]
    )
    assert found["ais"]["log_p"].shape == (7,) and (found["held_out"]["k_hat"] >= 0.7).any()
    found = pyrarchy.diagnose((model, exact), x, num_samples=30, only=wanted)
    assert "The two agree (difference" in found["ais"].attrs["says"]
    bounds = found["bdmc"]
    assert [bounds[n].attrs["bound"] for n in ("lower", "exact", "upper")] == [
        "lower bound in expectation", "exact", "upper bound in expectation"
    ]  # fmt: skip
    np.testing.assert_allclose(bounds["lower"], bounds["exact"], atol=1e-3)  # from the posterior any schedule is exact
    np.testing.assert_allclose(bounds["upper"], bounds["exact"], atol=1e-3)


def test_the_loop_flags_a_narrow_guide_and_not_an_exact_one():
    (model, exact), x = exact_pair()

    def narrow(x):
        q = model.posterior(x)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z1", dist.MultivariateNormal(q.mean, scale_tril=0.2 * q.scale_tril))

    says = [
        pyrarchy.diagnose((model, guide), x, only=["bayes_loop"])["bayes_loop"].attrs["says"]
        for guide in (narrow, exact)
    ]
    assert "4 of 4 quantities have ranks that a right guide would not" in says[0] and "z1[" in says[0]
    assert "No rank of 4 quantities speaks against the guide" in says[1]


def test_replicated_data_show_a_model_that_does_not_fit():
    pair, x = exact_pair()
    check = pyrarchy.diagnose(pair, 8 * x**3, only=["predictive_check"])["predictive_check"]
    assert "max" in check.attrs["says"] and "would not come from this model" in check.attrs["says"]
    assert check["replicated"].sizes["replicate"] == 2000


def normal_mean(scale):
    """mu ~ N(0, 1), five data of it, and a guide of the posterior's mean with its scale times ``scale``."""
    y = torch.tensor([0.3, -0.2, 1.1, 0.8, 0.1])

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 5):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide(y):
        pyro.sample("mu", dist.Normal(y.sum() / 6, scale * 6**-0.5))

    return (model, guide), y


def test_draws_of_a_good_guide_stand_for_the_posterior_and_leave_one_out_is_exact():
    pair, y = normal_mean(1.2)
    found = pyrarchy.diagnose(pair, y, only=["posterior_k_hat", "loo"])
    assert found["posterior_k_hat"].attrs["resampling"] == "offered"
    assert len(found["posterior_k_hat"]["k_hat"]) == 5 and found["posterior_k_hat"].attrs["median"] < 0.5
    exact = [dist.Normal((y.sum() - v) / 5, 1.2**0.5).log_prob(v).item() for v in y]
    np.testing.assert_allclose(found["loo"]["elpd"], exact, atol=0.05)
    assert found["loo"].attrs["elpd"] == pytest.approx(sum(exact), abs=0.1)


def test_draws_of_an_overconfident_guide_are_refused():
    pair, y = normal_mean(0.25)
    found = pyrarchy.diagnose(pair, y, only=["posterior_k_hat", "loo"])
    says = found["posterior_k_hat"].attrs["says"]
    assert "do not trust" in says and "Untrustworthy: resampling is refused" in says
    assert "loo: k-hat" in found.attrs["left_out"]


def test_global_latents_are_one_datum_and_have_no_codes():
    pyro.set_rng_seed(0)
    args = tuple(torch.from_numpy(part) for part in pyrarchy.load_data("eight_schools").train)
    model, guide = pyrarchy.get_pair("eight_schools")()
    assert isinstance(model, EightSchools)
    found = pyrarchy.diagnose((model, guide), args, num_samples=100, labels=np.arange(8), quick=True)
    assert found["held_out"]["log_p"].attrs["unit"] == "nats for the data set"
    assert "labels: all latents are global" in found.attrs["left_out"]
    says = found["held_out"].attrs["says"]
    assert re.search(r"k-hat is [\d.]+, (good|usable|untrustworthy)", says)


def test_a_run_folder_and_a_data_set_are_taken(fitted, here):
    run = fitted("vae")
    data = pyrarchy.load_data("unit.npy")
    found = pyrarchy.diagnose(run.out, data, num_samples=30, quick=True)
    assert len(found["held_out"]["log_p"]) == len(data.test if data.test is not None else data.train)
    assert "gradient: takes longer; `pyrarchy report` of the run computes it" in found.attrs["left_out"]
    assert "labels: the data have no labels" in found.attrs["left_out"]
    with pytest.raises(TypeError, match="needed is \\(model, guide\\) or the folder of a run, got Pair"):
        pyrarchy.diagnose(pyrarchy.get_pair("vae"), data)
    with pytest.raises(ValueError, match=r"no section\(s\) \['nonsense'\]"):
        pyrarchy.diagnose(run.out, data, only=["nonsense"])


def test_the_object_comes_back_from_its_file(tmp_path):
    pair, x = exact_pair()
    found = pyrarchy.diagnose(pair, x, num_samples=40)
    again = groups.load(groups.save(found, tmp_path / "diagnostics.nc"))
    first, second = (groups.unwrap(o) for o in (found, again))
    assert first[0].keys() == second[0].keys() >= {"held_out", "rates", "gradient"}
    for name, dataset in first[0].items():
        xarray.testing.assert_equal(dataset, second[0][name])
        assert dataset.attrs.keys() == second[0][name].attrs.keys()
        for variable in dataset.data_vars:
            assert "unit" in dataset[variable].attrs and "unit" in second[0][name][variable].attrs, (name, variable)
    assert first[1]["left_out"] == second[1]["left_out"]
    assert (tmp_path / "diagnostics.nc").stat().st_size < 200_000


def test_generators_and_store_are_left_as_they_were():
    pair, x = exact_pair()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pyrarchy.diagnose(pair, x, num_samples=30)
    assert torch.equal(torch.get_rng_state(), before) and len(pyro.get_param_store()) == 0


def test_sections_are_in_the_order_of_the_list_and_each_has_a_title():
    entries = sections()
    order = [section_module.MODULES.index(e.compute.__module__.rpartition(".")[2]) for e in entries]
    assert order == sorted(order) and set(order) == set(range(len(section_module.MODULES)))
    assert len({e.title for e in entries}) == len(entries) and all(e.compute.__doc__ for e in entries)


@pytest.fixture
def extra(monkeypatch):
    """Register a section for one test."""

    def add(name, compute, long=False):
        compute.__module__ = "pyrarchy.section_gradient"
        entry = section_module.Entry(name, name, compute, long)
        monkeypatch.setitem(section_module._ENTRIES, name, entry)

    return add


def test_what_takes_too_long_or_does_not_apply_is_named_and_the_rest_is_there(extra):
    def endless(context):
        while True:
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def odd(context):
        raise NotApplicable("this pair\nis odd")

    def broken(context):
        raise KeyError("a bug is no reason to leave a section out")

    pair, x = exact_pair()
    context = Context(*pair, (x,), num_samples=30)
    extra("endless", endless)
    extra("odd", odd)
    found = run_sections(context, only=["endless", "odd", "rates"], seconds=0.5)
    assert found.left_out == {"endless": "took more than 0.5 seconds", "odd": "this pair is odd"}
    assert list(found.found) == ["rates"]
    extra("broken", broken)
    with pytest.raises(KeyError, match="a bug"):
        run_sections(context, only=["broken"])


def test_what_could_not_be_evaluated_is_tried_once(monkeypatch):
    (model, guide), x = exact_pair()
    calls = []

    def refuse(*args, **kwargs):
        calls.append(1)
        raise ValueError("site 'z1' has no density")

    monkeypatch.setattr("pyrarchy.inference.evaluate", refuse)
    found = run_sections(Context(model, guide, (x,)), only=["held_out", "rates"])
    assert found.left_out == dict.fromkeys(["held_out", "rates"], "site 'z1' has no density") and len(calls) == 1


def test_the_deadline_stops_at_a_site_and_leaves_pyro_in_order():
    with deadline(30):
        pyro.sample("z", dist.Normal(0.0, 1.0))
    with pytest.raises(TimeoutError), deadline(-1):
        pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("z", dist.Normal(0.0, 1.0))


def test_every_section_has_words(extra):
    pair, x = exact_pair()
    found = run_sections(Context(*pair, (x,), num_samples=30, labels=np.arange(N) % 3))
    assert set(found.left_out) == {"posterior_k_hat", "loo"}  # an error inside a section would stand here as well
    for name, (entry, one) in found.found.items():
        assert isinstance(one, Section) and entry.name == name
        assert one.sentences and all(s.endswith(".") for s in one.sentences), name
        assert all(caption.endswith(".") for _, caption in one.figures.values())
        if one.table is not None:
            assert {len(row) for row in one.table[1]} == {len(one.table[0])}


def test_a_pair_or_data_that_do_not_fit_are_an_error():
    """Nothing is left out in silence because the guide is another model's or the data are no data of the model."""
    (model, guide), x = exact_pair()
    other = pyrarchy.pretrained("vlae")[1]
    with pytest.raises(ValueError, match="another model"):
        pyrarchy.diagnose((model, other), x, quick=True)
    with pytest.raises(ValueError, match=r"NaN or infinity, first at \(3, 0\)"):
        holed = x.clone()
        holed[3] = float("nan")
        pyrarchy.diagnose((model, guide), holed, quick=True)
    with pytest.raises(ValueError, match="does not run on these data"):
        pyrarchy.diagnose((model, guide), torch.zeros(5, 9), quick=True)
    grey = torch.full((4, 64), 0.3)
    with pytest.raises(
        ValueError, match=r"site 'x': a Bernoulli .* value 0.3\d*. Turn grey .* torch.bernoulli\(x\)"
    ) as error:
        pyrarchy.diagnose(pyrarchy.pretrained("vlae"), grey, quick=True)
    assert "\n" not in str(error.value)
    players = pyrarchy.get_pair("baseball")()
    with pytest.raises(ValueError, match=r"site 'y': a Binomial has no density at the data's value 1.5. Give data in"):
        pyrarchy.diagnose(players, (torch.full((18,), 1.5), torch.full((18,), 45.0)), quick=True)
