"""Bayes' loop: exact guides pass; each planted bug is found, and by the statistic that theory says; what it cannot see."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import Exact, Guide, MeanField
from pyrarchy.inference import bayes_loop, evaluate
from pyrarchy.zoo import PPCA, FactorAnalysis, GaussianTree, LinearStateSpace

X = torch.zeros(7, 4)


class Level(PyroModule):
    """z1 ~ N(0, prior), the first ``used`` of four columns x_j ~ N(z1, noise): conjugate."""

    def __init__(self, prior=1.0, noise=0.8, used=4):
        super().__init__("model")
        self.prior, self.noise, self.used = prior, noise, used

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(x.new_zeros(1), self.prior).to_event(1))
            seen = x[:, : self.used]
            mean = z.expand(*z.shape[:-1], seen.shape[-1])
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=seen)

    def moments(self, x):
        precision = 1 / self.prior**2 + self.used / self.noise**2
        return x[:, : self.used].sum(-1, keepdim=True) / self.noise**2 / precision, precision**-0.5

    def posterior(self, x):
        return dist.Normal(*self.moments(x)).to_event(1)


class Wrong(Guide):
    """The exact posterior of a Level with its mean moved by ``shift`` scales, and its scale turned by ``scale``."""

    def __init__(self, model, shift=0.0, scale=lambda s: s):
        super().__init__(model)
        self.shift, self.scale = shift, scale

    def encode(self, x):
        mean, scale = self.model.moments(x)
        return dist.Normal(mean + self.shift * scale, self.scale(scale)).to_event(1)

    def posterior(self, name, prior):
        return self.evidence


class Prior(Guide):
    """Returns the prior, whatever the data."""

    def posterior(self, name, prior):
        return prior


def exact_pairs():
    torch.manual_seed(1)
    models = [(FactorAnalysis(5, 2), 5), (PPCA(6, 2), 6), (GaussianTree(3), 3), (LinearStateSpace(4, 2), 4)]
    return {type(m).__name__: (m, torch.zeros(7, d)) for m, d in models}


@pytest.mark.parametrize("name", exact_pairs())
def test_exact_pairs_pass(name):
    model, x = exact_pairs()[name]
    loop = bayes_loop(model, Exact(model), x)
    assert loop.flagged == []
    assert {"log_lik", "log_joint"} < set(loop.names) and loop.num_latent == len(loop.names) - 2
    assert loop.draws.shape == (1000, 99, len(loop.names)) and loop.data.shape == (1000, x.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", exact_pairs())
def test_exact_pairs_pass_in_60_reseeds(name):
    model, x = exact_pairs()[name]
    flagged = {seed: found for seed in range(60) if (found := bayes_loop(model, Exact(model), x, seed=seed).flagged)}
    assert flagged == {}


def wrong_model(**change):
    """A buggy model with its own exact posterior, and the model as it should be to simulate from."""
    model = Level(**change)
    return model, Exact(model), Level()


def wrong_guide(**change):
    model = Level()
    return model, Wrong(model, **change), model


# bug -> (pair and simulator, quantity and statistic that must be flagged, quantities that must not be)
BUGS = {
    "biased": (wrong_guide(shift=0.4), ("z1", "rank mean"), ()),
    "overconfident": (wrong_guide(scale=lambda s: 0.7 * s), ("z1", "rank scale"), ()),
    "underconfident": (wrong_guide(scale=lambda s: 1.4 * s), ("z1", "rank scale"), ()),
    "variance as scale in q": (wrong_guide(scale=lambda s: s**2), ("z1", "rank scale"), ()),
    "variance as scale in p": (wrong_model(noise=0.64), ("z1", "rank scale"), ()),
    "missing prior": (wrong_model(prior=1e3), ("z1", "scale"), ()),
    "ignores the last columns": (wrong_model(used=2), ("log_lik", "rank mean"), ("z1",)),
    "returns the prior": ((Level(), None, None), ("log_lik", "rank mean"), ("z1",)),
}


@pytest.mark.parametrize("bug", BUGS)
def test_every_bug_is_found_by_what_should_see_it(bug):
    (model, guide, simulator), (quantity, statistic), unseen = BUGS[bug]
    loop = bayes_loop(model, guide or Prior(model), X, simulator=simulator)
    assert statistic in loop.flagged_by()[quantity]
    assert not set(unseen) & set(loop.flagged_by())


def test_ranks_cannot_see_a_missing_prior_and_the_average_can():
    """z - mean(x) does not depend on z: the ranks under a flat prior are uniform, and the average posterior is wider."""
    (model, guide, simulator), _, _ = BUGS["missing prior"]
    loop = bayes_loop(model, guide, X, simulator=simulator)
    assert set(loop.flagged_by()["z1"]) == {"scale"}
    drawn = loop.draws[..., 0].std()
    assert drawn == pytest.approx(math.sqrt(1 + 2 * 0.16), rel=0.05)  # 1 + noise^2 / 4, twice


class TwoLayers(GaussianTree):
    """z1 drawn from its exact posterior with z2 summed out, and z2 from its prior: the collapsed upper layer."""

    def posterior(self, x):
        t2, s2, d = self.z1_scale**2, self.x_scale**2, self.x_dim
        prior = (t2 * torch.eye(d) + self.a**2 * torch.ones(d, d)).inverse()
        covariance = (prior + torch.eye(d) / s2).inverse()
        z1 = dist.MultivariateNormal(x @ covariance / s2, covariance)
        return {"z2": dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1), "z1": z1}


def test_a_collapsed_layer_that_p_uses_shows_in_the_joint_alone():
    model = TwoLayers(3)
    assert set(bayes_loop(model, Exact(model), torch.zeros(7, 3)).flagged_by()) == {"log_joint"}


def test_a_layer_that_p_ignores_passes_and_the_rates_name_it():
    model = GaussianTree(3, a=0.0)
    loop = bayes_loop(model, Exact(model), torch.zeros(7, 3))
    assert loop.flagged == []
    data = torch.from_numpy(loop.data[:200]).float()
    found = evaluate(model, Exact(model), data, num_samples=50)
    assert abs(found.rates["z2"]) < 1e-6 < 0.01 < found.rates["z1"]
    assert found.active_units()["z2"] == (0, 1)


class Global(PyroModule):
    """mu ~ N(0, 2) outside any plate; theta_j ~ N(mu, 1), y_j ~ N(theta_j + offset_j, .5) in plate ``rows``."""

    def __init__(self):
        super().__init__("model")

    def forward(self, y, offset):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        twice = pyro.deterministic("twice", 2 * mu)
        with pyro.plate("rows", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(theta + offset + 0 * twice, 0.5), obs=y)


class GlobalGuide(PyroModule):
    """The exact posterior of :class:`Global`, fitted to one data set; ``width`` times as wide in mu."""

    def __init__(self, y, offset, width=1.0):
        super().__init__("guide")
        self.residual, self.width = y - offset, width

    def forward(self, y, offset):
        each = 1 / (1 + 0.25)
        precision = 1 / 4 + len(y) * each
        mu = pyro.sample("mu", dist.Normal(self.residual.sum() * each / precision, self.width * precision**-0.5))
        mean, scale = (mu + 4 * self.residual) / 5, 5**-0.5
        with pyro.plate("rows", len(y)):
            pyro.sample("theta", dist.Normal(mean, scale))


GLOBAL = (torch.zeros(5), torch.arange(5.0))


def test_global_latents_are_refitted_to_each_data_set():
    model, num = Global(), 200
    loop = bayes_loop(model, None, GLOBAL, fit=GlobalGuide, num=num)
    assert loop.names == ["mu", *(f"theta[{j}]" for j in range(5)), "twice", "log_lik", "log_joint"]
    assert loop.units == {"mu": 1, "theta": 5, "twice": 1} and loop.num_latent == 6
    assert loop.flagged == [] and len(np.unique(loop.data[:, 0])) == num
    narrow = bayes_loop(model, None, GLOBAL, fit=lambda *args: GlobalGuide(*args, width=0.4), num=num)
    assert "rank scale" in narrow.flagged_by()["mu"]


def test_a_guide_of_one_data_set_fails_on_others():
    model = Global()
    stale = bayes_loop(model, GlobalGuide(torch.ones(5), torch.zeros(5)), GLOBAL, num=100)
    assert "rank scale" in stale.flagged_by()["mu"]


def test_log_lik_and_log_joint_are_the_densities():
    """Against the densities written out, for rows and for whole data sets."""
    model = Level()
    loop = bayes_loop(model, Exact(model), X, num=20, draws=9)
    z, x = torch.from_numpy(loop.draws[..., :1]), torch.from_numpy(loop.data)
    log_lik = dist.Normal(z, 0.8).log_prob(x[:, None]).sum(-1).numpy()
    np.testing.assert_allclose(loop.draws[..., 1], log_lik, rtol=1e-5)
    np.testing.assert_allclose(
        loop.draws[..., 2], log_lik + dist.Normal(0.0, 1.0).log_prob(z[..., 0]).numpy(), rtol=1e-5
    )
    loop = bayes_loop(Global(), None, GLOBAL, fit=GlobalGuide, num=20, draws=9)
    theta, y = torch.from_numpy(loop.truth[:, 1:6]), torch.from_numpy(loop.data)
    log_lik = dist.Normal(theta + GLOBAL[1], 0.5).log_prob(y).sum(-1)
    mu = torch.from_numpy(loop.truth[:, :1])
    log_p = dist.Normal(mu, 1.0).log_prob(theta).sum(-1) + dist.Normal(0.0, 2.0).log_prob(mu[:, 0])
    np.testing.assert_allclose(loop.truth[:, -2], log_lik.numpy(), rtol=1e-5)
    np.testing.assert_allclose(loop.truth[:, -1], (log_lik + log_p).numpy(), rtol=1e-5)


def test_quantities_of_the_user_and_the_table():
    """A quantity of data and latents together finds the guide that ignores columns; one that does not pass is named."""
    (model, guide, simulator), _, _ = BUGS["ignores the last columns"]
    last = {"residual": lambda z, x: (x[:, -1:] - z["z1"]).abs().squeeze(-1), "both": lambda z, x: z["z1"] * x[:, :2]}
    loop = bayes_loop(model, guide, X, simulator=simulator, quantities=last)
    assert loop.names == ["z1", "log_lik", "log_joint", "residual", "both[0]", "both[1]"]
    assert "rank mean" in loop.flagged_by()["residual"] and loop.threshold == pytest.approx(1e-3 / 36)
    table = loop.table()
    assert "*" in table.splitlines()[5] and "3 of 6 quantities flagged" in table
    assert loop.table(2).splitlines()[-2] == "and 4 quantities of larger p"
    with pytest.raises(ValueError, match="quantity 'odd' has shape"):
        bayes_loop(model, guide, X, simulator=simulator, quantities={"odd": lambda z, x: x.sum()})


def test_discrete_latents_and_covariates():
    """Ties of a Bernoulli site are broken at random; a second argument keeps its rows."""

    class Switch(PyroModule):
        def __init__(self, prior):
            super().__init__("model")
            self.prior = prior

        def forward(self, x, shift):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z1", dist.Bernoulli(torch.full((len(x),), self.prior)))
                pyro.sample("x", dist.Normal(shift * z, 1.0), obs=x)

        def posterior(self, x, shift):
            odds = dist.Normal(shift, 1.0).log_prob(x) - dist.Normal(0.0, 1.0).log_prob(x)
            return dist.Bernoulli(logits=odds + math.log(self.prior / (1 - self.prior)))

    args = torch.zeros(5), torch.linspace(0.5, 3.0, 5)
    right, wrong = Switch(0.3), Switch(0.5)
    assert bayes_loop(right, Exact(right), args).flagged == []
    assert "mean" in bayes_loop(wrong, Exact(wrong), args, simulator=right).flagged_by()["z1"]


def test_the_same_seed_gives_the_same_and_nothing_is_left_behind():
    model = Level()
    before = torch.get_rng_state()
    first, second = (bayes_loop(model, Exact(model), X, num=50) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first.ranks, second.ranks)
    assert not np.array_equal(first.ranks, bayes_loop(model, Exact(model), X, num=50, seed=1).ranks)


def test_refusals_name_the_site():
    model = Level()
    guide = Exact(model)

    def factor(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.factor("energy", -(z**4))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def part(x):
        with pyro.plate("data", len(x), subsample_size=3) as i:
            z = pyro.sample("z1", dist.Normal(torch.zeros(3), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def nothing(x):
        pyro.sample("z1", dist.Normal(0.0, 1.0))

    for bad, match in (
        (factor, r"factor site\(s\) \['energy'\]"),
        (part, "'(x|z1)' lies in the subs"),
        (nothing, "no data"),
    ):
        with pytest.raises(ValueError, match=match):
            bayes_loop(bad, lambda x: None, torch.zeros(5))
    short = Level(used=2)
    with pytest.raises(ValueError, match=r"site 'x' observes a value of shape \(7, 2\).*leave out rows"):
        bayes_loop(short, Exact(short), X)
    with pytest.raises(ValueError, match="at least 20"):
        bayes_loop(model, guide, X, num=5)
    with pytest.raises(ValueError, match="not both"):
        bayes_loop(model, None, X)
    with pytest.raises(TypeError, match="fit returned NoneType"):
        bayes_loop(model, None, X, fit=lambda x: None)
    with pytest.raises(ValueError, match=r"\['z2', 'z1'\]|\['z1', 'z2'\]"):
        bayes_loop(model, guide, X, simulator=GaussianTree(4))
    with pytest.raises(ValueError, match="plates=0"):
        bayes_loop(model, guide, X, plates=0)
    with pytest.raises(ValueError, match=r"argument\(s\) \[1\]"):
        bayes_loop(with_context(), lambda x, c: None, (torch.zeros(5), torch.zeros(3)))
    with pytest.raises(ValueError, match="z1"):
        bayes_loop(model, MeanField(model, X), X)


def with_context():
    def model(x, context):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + context.sum(), 1.0), obs=x)

    return model


def test_rebuild_puts_the_data_in_their_place():
    """A model that takes logs of its argument: the simulated data go back through exp."""

    class Logs(Level):
        def forward(self, x):
            super().forward(x.log())

        def posterior(self, x):
            return super().posterior(x.log())

    model = Logs()
    positive = torch.rand(6, 4) + 0.5
    with pytest.raises(ValueError, match="none of the arguments"):
        bayes_loop(model, Exact(model), positive)
    loop = bayes_loop(model, Exact(model), positive, rebuild=lambda observed, args: (observed["x"].exp(),))
    assert loop.flagged == []
