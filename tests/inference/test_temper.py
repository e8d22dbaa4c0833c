"""The temperature multiplies the latent terms, and those alone; the value at one stands beside it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrarchy.guides import BottomUp, Encoder, Ladder
from pyrarchy.inference import ELBO, AnalyticELBO, Anneal, FreeBits, ImportanceWeighted, Renyi, Temper, VRMax, fit
from pyrarchy.zoo import MarkovHVAE

B = 4


def pair(plain=False):
    pyro.set_rng_seed(6)
    model = MarkovHVAE(5, z_dims=(3, 2), hidden=(7, 6))
    guide = BottomUp(5, (3, 2), ((7,), (6,))) if plain else Ladder(model, Encoder(5, (3, 2), (7, 6)))
    return model, guide, torch.bernoulli(torch.full((B, 5), 0.5))


def test_the_warm_up_is_linear_and_stays():
    warm = Temper(start=0.2, stop=0.8, steps=3)
    assert [round(warm.set_step(t), 9) for t in (0, 1, 2, 3, 50)] == [0.2, 0.4, 0.6, 0.8, 0.8]
    assert warm.beta.item() == pytest.approx(0.8) and not warm.finished
    assert Temper(stop=0.5).set_step(0) == 0.5
    warm = Temper(steps=10)
    beta = warm.beta
    warm.set_step(10)
    assert warm.finished and beta is warm.beta and beta.item() == 1.0
    for bad in ({"start": -1.0}, {"stop": -0.1}, {"steps": -1}):
        with pytest.raises(ValueError, match="must be >= 0"):
            Temper(**bad)


@pytest.mark.parametrize("plain", [False, True], ids=["ladder", "bottom-up"])
@pytest.mark.parametrize("sites", [None, ("z2",), "z2"])
@pytest.mark.parametrize("k", [1, 3])
def test_elbo_under_a_temperature_by_hand(k, sites, plain):
    model, guide, x = pair(plain)
    with Temper(stop=0.25, sites=sites):
        terms = ELBO(k).terms(model, guide, x)
    kl = {n: terms.log_q[n] - terms.log_p[n] for n in ("z1", "z2")}
    low = 0.25 if sites is None else 1.0
    torch.testing.assert_close(ELBO(k).reduce(terms), (terms.log_lik - low * kl["z1"] - 0.25 * kl["z2"]).mean(0))
    at_one = ELBO(k).reduce(terms.at_temperature_one())
    torch.testing.assert_close(at_one, terms.log_w.mean(0))
    floored = {n: v.mean().clamp(min=0.1) for n, v in kl.items()}
    free = terms.log_lik.mean(0) - low * floored["z1"] - 0.25 * floored["z2"]
    torch.testing.assert_close(FreeBits(0.1, k).reduce(terms), free)
    if not plain:
        analytic = AnalyticELBO(k)
        difference = terms.log_lik.mean(0) - analytic.reduce(terms)
        whole = terms.log_lik.mean(0) - analytic.reduce(terms.at_temperature_one())
        assert ((difference < whole) & (difference > 0)).all()
        if sites is None:
            torch.testing.assert_close(difference, 0.25 * whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bound", [ImportanceWeighted(3), Renyi(0.5, 3), VRMax(3)], ids=repr)
def test_weights_refuse_a_temperature_before_the_first_step(bound):
    model, guide, x = pair()
    weights = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"under a temperature \(site\(s\) \['z1', 'z2'\]\)"):
        fit(model, guide, x, objective=bound, temper=Temper(steps=5), steps=1)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"temperature.*Trace_ELBO"):
        fit(model, guide, x, objective=Trace_ELBO(), temper=Temper(steps=5), steps=1)


def test_fit_records_both_and_ends_untempered():
    model, guide, x = pair()
    record = fit(model, guide, x, temper=Temper(steps=4), steps=6, optimizer=1e-3)
    assert record.temperatures == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    losses, values = torch.tensor(record.losses), torch.tensor(record.values)
    assert torch.equal(losses[4:], -values[4:])
    assert (losses[:4] != -values[:4]).all()
    assert "Temper" in record.objective


def test_the_subsampled_plate_and_the_temperature_do_not_mix_up():
    def model(x, rows):
        with pyro.plate("data", 9, subsample=rows):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, rows):
        with pyro.plate("data", 9, subsample=rows):
            pyro.sample("z1", dist.Normal(x / 2, 0.7))

    x = torch.randn(4)
    with Temper(stop=0.5):
        terms = ELBO().terms(model, guide, x, torch.arange(4))
    assert terms.scale == 9 / 4 and set(terms.temperature) == {"z1"} and float(terms.temperature["z1"]) == 0.5
    with pytest.raises(ValueError, match="temperature"):
        with Temper(stop=0.5):
            ImportanceWeighted(2).loss(model, guide, x, torch.arange(4))


def test_a_misspelt_site_is_refused_by_fit():
    model, guide, x = pair()
    with pytest.raises(ValueError, match=r"no site \['zz'\] to temper; the model has"):
        fit(model, guide, x, steps=2, temper=Temper(0.0, steps=3, sites=("zz",)))


def test_annealing_multiplies_factors_alone():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("energy", -(z**2))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.7))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 0.5))

    with Anneal(stop=0.25):
        terms = ELBO(7).terms(model, guide)
    expected = 0.25 * terms.log_obs["energy"] + terms.log_obs["x"] + terms.log_p["z"] - terms.log_q["z"]
    torch.testing.assert_close(terms.tempered_log_w(), expected)
    assert set(terms.temperature) == {"energy"} and not terms.guide_temperature
    record = fit(model, guide, None, objective=ELBO(7), temper=Anneal(steps=2), steps=3)
    assert record.temperatures == [0.0, 0.5, 1.0] and record.is_lower_bound
    assert record.losses[0] != -record.values[0] and record.losses[2] == -record.values[2]
    with pytest.raises(ValueError, match=r"no site \['z'\] to temper; the model has \['energy'\]"):
        fit(model, guide, None, steps=1, temper=Anneal(sites="z"))
    assert repr(Anneal(steps=2)) == "Anneal(start=0, stop=1, steps=2)"
