"""Posterior predictive checks: right models pass, wrong likelihoods are flagged by the statistic that should see them."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import Exact
from pyrarchy.inference import PredictiveCheck, predictive_check, sample
from pyrarchy.zoo import PPCA


def fitted(x):
    model = PPCA(x.shape[1], 2)
    model.maximize_likelihood(model.statistics(x))
    return model


def ppca_data(num=300, seed=0):
    torch.manual_seed(5)
    model = PPCA(6, 2)
    return torch.from_numpy(sample(model, (torch.zeros(4, 6),), num, seed=seed)["x"])


def test_a_right_model_passes_in_12_reseeds():
    for seed in range(12):
        x = ppca_data(150, seed=seed)
        model = fitted(x)
        assert predictive_check(model, Exact(model), x, seed=seed).flagged == []


def test_heavy_tails_are_flagged_by_the_extremes_and_by_the_spread_within_data():
    x = ppca_data() + 0.0
    x = x + 1.5 * dist.StudentT(2.0).sample(x.shape)
    model = fitted(x)
    found = predictive_check(model, Exact(model), x)
    assert {"min", "max"} <= set(found.flagged) and "mean" not in found.flagged
    assert found.p["max"] < 1e-3 and found.p["min"] > 1 - 1e-3
    assert "*" in found.table().splitlines()[4] and "*" not in found.table().splitlines()[1]
    tables = found.tables()
    assert set(tables) == {"mean", "sd", "min", "max"} and tables["max"][0].shape == (2000,)


def test_a_few_columns_off_show_per_datum():
    """Scales that differ between data: every seventh is five times as wide; most p by datum are then at the ends."""
    x = ppca_data(700)
    x[::7] *= 5
    model = fitted(x)
    found = predictive_check(model, Exact(model), x)
    assert "sd per datum" in found.flagged
    narrow = np.arange(700) % 7 != 0
    assert (found.p_datum["sd"][narrow] > 0.8).mean() > 0.5 and np.median(found.p_datum["sd"][~narrow]) < 0.5


class Counts(PyroModule):
    """lambda ~ Gamma(2, .1), y_j ~ Poisson(lambda): global, conjugate."""

    def __init__(self):
        super().__init__("model")

    def forward(self, y):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)


def counts_guide(y):
    pyro.sample("rate", dist.Gamma(2.0 + y.sum(), 0.1 + len(y)))


def test_overdispersed_counts_are_flagged_and_poisson_counts_are_not():
    y = dist.Poisson(9.0).sample((80,))
    right = predictive_check(Counts(), counts_guide, y)
    assert right.flagged == [] and right.p_datum == {}
    wide = dist.Poisson(dist.Gamma(2.0, 2.0 / 9).sample((80,))).sample()
    found = predictive_check(Counts(), counts_guide, wide)
    assert "sd" in found.flagged and "mean" not in found.flagged
    zeros = {"zeros": lambda y: (y == 0).mean(-1)}
    assert predictive_check(Counts(), counts_guide, wide, statistics=zeros).flagged == ["zeros"]


@pytest.mark.stochastic
def test_p_is_the_posterior_predictives():
    """P(max of 5 new counts > observed) by the negative binomial's own draws; ties count half."""
    y = torch.tensor([3.0, 5.0, 4.0, 9.0, 2.0])
    found = predictive_check(Counts(), counts_guide, y, num_samples=20_000)
    r = np.random.default_rng(0)
    top = r.poisson(r.gamma(2 + 23, 1 / 5.1, (200_000, 1)), (200_000, 5)).max(1)
    expected = (top > 9).mean() + 0.5 * (top == 9).mean()
    assert found.p["max"] == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)
    assert found.observed["sd"] == pytest.approx(y.numpy().std())


def test_flags_share_out_the_rate_and_reckon_with_data_used_twice():
    """Two statistics and one of them per datum at .03: a third each, and P(min(p, 1 - p) <= a) <= 4 a."""
    rate, limit = 0.03, 0.01 / 4
    shares = np.full(400, 0.5)
    at = {"low": limit * 0.99, "high": 1 - limit * 0.99}
    over = {"low": limit * 1.01, "high": 1 - limit * 1.01}
    for p, flagged in ((at, ["low", "high"]), (over, [])):
        check = PredictiveCheck({}, {}, p, {"low": shares}, rate)
        assert check.threshold == pytest.approx(0.01) and check.flagged == flagged
    shares[:53] = 0.01  # .1 expected at most, with an error of .015: z = 2.17 (p .015); 54 of them: z = 2.33 (p .0098)
    assert PredictiveCheck({}, {}, over, {"low": shares}, rate).flagged == []
    shares[53] = 0.99
    assert PredictiveCheck({}, {}, over, {"low": shares}, rate).flagged == ["low per datum"]


def test_misuse_is_named():
    model, x = Counts(), torch.ones(5)
    with pytest.raises(ValueError, match="num_samples=800 or more"):
        predictive_check(model, counts_guide, x, num_samples=100)
    with pytest.raises(ValueError, match=r"no observed site 'x'.*'y'"):
        predictive_check(model, counts_guide, x, site="x")
    with pytest.raises(ValueError, match="statistic 'all' gave shape"):
        predictive_check(model, counts_guide, x, statistics={"all": lambda y: y.mean()})

    def factor(y):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.1))
        pyro.factor("extra", -rate)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    with pytest.raises(ValueError, match="'extra'"):
        predictive_check(factor, counts_guide, x)


def bits(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z1", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1).expand(*z.shape, 6)).to_event(1), obs=x)


def test_of_bits_the_mean_alone_is_compared():
    """Their spread follows from it, and extremes of zero and one tell nothing."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(0.0, 1.0))

    found = predictive_check(bits, guide, torch.ones(30, 6))
    assert list(found.p) == list(found.p_datum) == found.flagged == ["mean"]
    spread = {"sd": lambda x: x.std(-1)}
    assert list(predictive_check(bits, guide, torch.ones(30, 6), statistics=spread).p) == ["sd"]
