"""Annealed chains against exact answers: E[w] = p(x), E[1/w'] = 1/p(x), stationarity, and mutants that each must fail."""

import math
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats

from pyrarchy.guides import FullRank, Guide
from pyrarchy.inference import ais, annealed_path, bdmc, isolated, transitions
from pyrarchy.inference.ais import Annealer, sigmoid_schedule
from pyrarchy.inference.annealed_path import Path
from pyrarchy.inference.freeze import frozen
from pyrarchy.inference.simulate import simulate
from pyrarchy.inference.transitions import Transition
from pyrarchy.zoo import PPCA, EightSchools, EightSchoolsNonCentred, FactorAnalysis, LinearStateSpace, SigmoidBelief

ais_module = sys.modules["pyrarchy.inference.ais"]  # the function of this name hides it
N = 13


def linear(kind=FactorAnalysis):
    pyro.set_rng_seed(3 if kind is FactorAnalysis else 4)
    return kind(5, 2), 1.3 * torch.randn(N, 5)


def belief():
    pyro.set_rng_seed(6)
    model = SigmoidBelief(4, (3, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(1.5 * torch.randn_like(p))
    return model, torch.bernoulli(torch.full((N, 4), 0.5))


class Off(Guide):
    """The exact posterior of a linear model, shifted and wide."""

    def encode(self, x):
        return self.model.posterior(x)

    def posterior(self, name, prior):
        q = self.evidence
        return dist.MultivariateNormal(q.mean + 0.5, scale_tril=1.5 * q.scale_tril)


def counts(x):
    """A positive rate: x is negative binomial."""
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def counts_of_two(x):
    """Two positive rates in one site."""
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, torch.tensor([0.5, 0.5])).to_event(1))
        pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


def shares(x):
    """A point of the simplex: x is Dirichlet-multinomial."""
    with pyro.plate("data", len(x)):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([0.7, 1.5, 3.0])))
        pyro.sample("x", dist.Multinomial(6, p), obs=x)


def inside(x):
    """The support of one site depends on another."""
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Uniform(1.0, 3.0))
        z = pyro.sample("z", dist.Uniform(0.0, top))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def switched(x):
    """A bit and a number: x is a mixture of two Normals."""
    with pyro.plate("data", len(x)):
        bit = pyro.sample("bit", dist.Bernoulli(0.3))
        z = pyro.sample("z", dist.Normal(3.0 * bit - 1.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.7), obs=x)


def log_counts(x):
    return dist.NegativeBinomial(2.0, probs=1 / 1.5).log_prob(x)


def log_shares(x):
    return dist.DirichletMultinomial(torch.tensor([0.7, 1.5, 3.0]), 6).log_prob(x)


def log_inside(x):
    top, z = torch.linspace(1, 3, 401), torch.linspace(0, 1, 401)  # trapezia, exact to 1e-5
    density = dist.Normal(top[:, None] * z, 0.5).log_prob(x[:, None, None]).exp()
    return torch.trapezoid(torch.trapezoid(density, z), top / 2).log()


def log_switched(x):
    scale = math.sqrt(1 + 0.7**2)
    parts = [math.log(w) + dist.Normal(m, scale).log_prob(x) for w, m in ((0.7, -1.0), (0.3, 2.0))]
    return torch.stack(parts).logsumexp(0)


def cases():
    model, x = linear()
    yield "factor analysis", model, None, x, model.log_marginal(x)
    yield "from a guide", model, Off(model), x, model.log_marginal(x)
    model, x = belief()
    yield "bits", model, None, x, model.log_marginal(x)
    x = torch.arange(N).float()
    yield "positive", counts, None, x, log_counts(x)
    x = torch.stack([x, x.flip(0)], -1)
    yield "positive pair", counts_of_two, None, x, log_counts(x).sum(-1)
    x = torch.tensor([[6.0, 0, 0], [1, 2, 3], [0, 0, 6], [2, 2, 2]])
    yield "simplex", shares, None, x, log_shares(x)
    x = torch.linspace(-0.5, 3.0, N)
    yield "dependent support", inside, None, x, log_inside(x)
    x = torch.linspace(-3, 4, N)
    yield "bit and number", switched, None, x, log_switched(x)


CASES = {name: rest for name, *rest in cases()}


def mean_is_one(ratios):
    """In standard errors, how far the mean of independent numbers lies from one."""
    ratios = np.asarray(ratios).ravel()
    return (ratios.mean() - 1) / (ratios.std(ddof=1) / math.sqrt(ratios.size))


@pytest.mark.stochastic
@pytest.mark.parametrize("name", CASES)
def test_the_mean_weight_is_p_of_x(name):
    model, guide, x, exact = CASES[name]
    exact = exact.detach().double().numpy()
    plain = ais(model, guide, x, num_chains=3000, num_temperatures=1, rows_per_pass=10**5)
    found = ais(model, guide, x, num_chains=300, num_temperatures=8, leapfrog_steps=4, rows_per_pass=10**5)
    for one, chains in ((plain, 3000), (found, 300)):
        assert one.log_p.shape == (len(x),) and one.log_w.shape == (chains, len(x))
        assert abs(mean_is_one(np.exp(one.log_w - exact))) < 4.5
        assert abs(one.mean_log_p - exact.mean()) < 4.5 * one.error_weights + (one.errors_weights**2).mean()
    assert found.ess.mean() / 300 > 1.02 * plain.ess.mean() / 3000  # and the chains do move towards the posterior
    assert (found.accept > 0.5).all() and (found.accept < (1.01 if name == "bits" else 0.9)).all()


def test_one_temperature_is_importance_sampling_from_the_prior():
    model, x = linear()
    with isolated(model, None, seed=5), torch.no_grad():
        poutine.trace(model).get_trace(x)  # the look at the model that comes first
        with pyro.plate("particles", 7, dim=-2):
            nodes = poutine.trace(model).get_trace(x).nodes
        by_hand = nodes["x"]["fn"].log_prob(x)
    found = ais(model, None, x, num_chains=7, num_temperatures=1, seed=5)
    np.testing.assert_allclose(found.log_w, by_hand, atol=2e-5)
    still = ais(model, None, x, num_chains=7, num_temperatures=9, transitions=0, seed=5)
    np.testing.assert_allclose(still.log_w, found.log_w, atol=2e-5)
    moved = ais(model, None, x, num_chains=7, num_temperatures=9, seed=5)
    assert np.abs(moved.log_w - found.log_w).max() > 0.1
    assert still.step_size.shape == moved.step_size.shape == (8, N) and found.step_size.shape == (0, N)


@pytest.mark.stochastic
@pytest.mark.parametrize("schools", [EightSchoolsNonCentred, EightSchools], ids=["non-centred", "centred"])
def test_eight_schools_is_one_datum(schools):
    """log Z by quadrature."""
    y, sigma = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
    found = ais(schools(), None, y, sigma, num_chains=800, num_temperatures=12, leapfrog_steps=5)
    assert found.log_p.shape == (1,) and math.isnan(found.error_log_p) and found.error_weights < 0.1
    assert found.mean_log_p == pytest.approx(-31.311348, abs=4.5 * found.error_weights)
    assert "lower bound" in found.table() and "acceptance" in found.table()


@pytest.mark.stochastic
def test_parts_of_the_data_change_nothing_beyond_monte_carlo_error():
    model, x = linear()
    whole = ais(model, None, x, num_chains=60, num_temperatures=6, leapfrog_steps=3)
    parts = ais(model, None, x, num_chains=60, num_temperatures=6, leapfrog_steps=3, rows_per_pass=300)
    assert parts.log_w.shape == whole.log_w.shape and parts.step_size.shape == whole.step_size.shape
    error = np.hypot(whole.errors_weights, parts.errors_weights)
    assert (np.abs(parts.log_p - whole.log_p) < 4.5 * error).all() and not np.array_equal(parts.log_w, whole.log_w)


def chains_of(values, model, x, step, count=12):
    """One chain per datum from given latents, moved at the posterior; the path and the point."""
    with isolated(model, None, seed=1), frozen(model, None), pyro.validation_enabled(False):
        path = Path(model, None, (x,), {}, 1, 1)
        point = path.start_at(values)
        for _ in range(count):
            point, _ = Transition(3)(path, point, 1.0, path.new_full(step))
    return path, point


def gaussian_p_value():
    """Chains from exact posterior draws of factor analysis, whitened: still standard normal? (Kolmogorov-Smirnov)."""
    model, _ = linear()
    drawn = simulate_data(model, torch.zeros(3000, 5))
    point = chains_of(drawn.values, model, *drawn.args, step=0.8)[1]
    with torch.no_grad():
        q = model.posterior(*drawn.args)
        white = torch.linalg.solve_triangular(q.scale_tril, (point.state["z1"] - q.mean)[..., None], upper=False)
        moved = (point.state["z1"] - drawn.values["z1"]).abs().mean()
    assert moved > 0.01
    return stats.kstest(white.flatten().numpy(), "norm").pvalue


def counts_p_value():
    """The same of the rate of a Poisson number, by its exact posterior's cdf."""
    drawn = simulate_data(counts, torch.zeros(3000))
    point = chains_of(drawn.values, counts, *drawn.args, step=0.5)[1]
    x = drawn.args[0].numpy()
    cdf = stats.gamma(2 + x, scale=1 / 1.5).cdf(point.state["rate"].exp().numpy())
    return stats.kstest(np.nan_to_num(cdf), "uniform").pvalue  # a mutant may run off to where there is no number


def simulate_data(model, x):
    pyro.set_rng_seed(8)
    return simulate(model, (x,))


@pytest.mark.stochastic
def test_chains_that_start_in_the_posterior_stay_there():
    least = 1e-4  # three p-values, uniform as they are: a false alarm in 3,000 runs
    assert gaussian_p_value() > least
    assert counts_p_value() > least
    model, _ = belief()
    drawn = simulate_data(model, torch.zeros(6000, 4))
    state = chains_of(drawn.values, model, *drawn.args, step=0.1, count=3)[1].state
    bits = torch.cat([state["z2"], state["z1"], drawn.args[0][:, :2]], -1)
    before = torch.cat([drawn.values["z2"], drawn.values["z1"], drawn.args[0][:, :2]], -1)
    assert (bits != before).any(-1).float().mean() > 0.3
    places = 2.0 ** torch.arange(7)
    tables = np.stack([np.bincount((b @ places).long(), minlength=128) for b in (bits, before)])
    tables = tables[:, tables.sum(0) >= 20]
    # two samples from one distribution, correlated, so that the statistic is smaller than its law at most
    assert stats.chi2_contingency(tables).pvalue > least


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["from a guide", "positive", "positive pair", "dependent support"])
def test_the_force_is_the_gradient_of_the_density(name, beta):
    """By central differences in one coordinate of each site: a wrong force keeps E[w] and costs acceptance alone."""
    model, guide, x, _ = CASES[name]
    with isolated(model, guide, seed=1), frozen(model, guide), pyro.validation_enabled(False):
        path = Path(model, guide, (x,), {}, 1, 1)
        state = path.start().state
        _, force = transitions._gradient(path, state, beta)
        for site, u in state.items():
            ends = []
            for step in (1e-2, -1e-2):
                moved = u.clone()
                moved.view(len(x), -1)[:, 0] += step
                ends.append(path.point({**state, site: moved}).log_f(beta)[0])
            slope = (ends[0] - ends[1]) / 2e-2
            torch.testing.assert_close(force[site].reshape(len(x), -1)[:, 0], slope, rtol=2e-3, atol=2e-3)


def test_bits_beside_numbers_are_flipped_and_numbers_beside_bits_moved():
    x = torch.linspace(-3, 4, 200)
    before = simulate_data(switched, x)
    state = chains_of(before.values, switched, x, step=0.3, count=2)[1].state
    assert (state["bit"] != before.values["bit"]).any() and (state["z"] != before.values["z"]).float().mean() > 0.5


def test_step_sizes_lie_on_lines_between_the_levels_of_the_pilot():
    levels, values = np.array([1, 3, 7]), torch.tensor([[0.0, 1.0], [2.0, 1.0], [10.0, 5.0]])
    found = ais_module._interpolate(np.arange(1, 8), levels, values)
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 1, 2, 4, 6, 8, 10]))
    torch.testing.assert_close(found[:, 1], torch.tensor([1.0, 1, 1, 2, 3, 4, 5]))


MUTANTS = {
    "accept everything": (transitions, "metropolis", lambda r: (torch.ones_like(r, dtype=torch.bool), r.exp())),
    "kinetic energy of the wrong sign": (transitions, "kinetic", lambda path, r, f=transitions.kinetic: -f(path, r)),
    "no Jacobian": (annealed_path, "log_jacobian", lambda t, u, z, d: torch.zeros_like(u)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant, monkeypatch):
    monkeypatch.setattr(*MUTANTS[mutant])
    if mutant != "no Jacobian":
        assert gaussian_p_value() < 1e-6
    assert counts_p_value() < 1e-6
    x = CASES["positive"][2]
    weights = ais(counts, None, x, num_chains=300, num_temperatures=8, leapfrog_steps=4, rows_per_pass=10**5).log_w
    assert not abs(mean_is_one(np.exp(weights - log_counts(x).numpy()))) < 4.5  # not a number: caught, too


def sandwiches():
    yield "factor analysis", *linear(), None
    yield "ppca", *linear(PPCA), None
    yield "from a guide", linear()[0], linear()[1], Off
    yield "bits", *belief(), None
    pyro.set_rng_seed(2)
    yield "state space", LinearStateSpace(3, 2), torch.zeros(N, 3), None
    yield "simplex", shares, torch.tensor([[2.0, 2, 2]]), None
    yield "bit and number", switched, torch.zeros(N), None


SANDWICHES = {name: rest for name, *rest in sandwiches()}
EXACT = {shares: log_shares, switched: log_switched}


@pytest.mark.stochastic
@pytest.mark.parametrize("name", SANDWICHES)
def test_bounds_bracket_the_exact_answer(name):
    model, x, guide = SANDWICHES[name]
    x = x[:1].expand(400, *x.shape[1:])  # the shape alone matters
    if model in EXACT:
        model = WithExact(model)
    guide = guide and guide(model)
    steps = (
        48 if name in ("ppca", "bit and number") else 12
    )  # where the chains back would leave weights of large variance
    found = bdmc(model, guide, x, num_chains=6, num_temperatures=steps, leapfrog_steps=4, rows_per_pass=10**5)
    lower, upper = found.lower - found.exact, found.upper - found.exact
    assert lower.shape == upper.shape == (400,) and list(found.figures()) == [
        "lower bound",
        "exact",
        "upper bound",
        "gap",
    ]
    assert lower.mean() < 4.5 * lower.std() / 20 and upper.mean() > -4.5 * upper.std() / 20
    assert abs(mean_is_one(np.exp(lower))) < 4.5 and abs(mean_is_one(np.exp(-upper))) < 4.5
    assert found.gap == pytest.approx((upper - lower).mean()) and found.gap < 1
    assert "lower bound" in found.table() and "upper bound" in found.table()


class WithExact:
    """A plain function with its exact log p(x) at its side."""

    def __init__(self, function):
        self.function, self.log_marginal = function, EXACT[function]

    def __call__(self, x):
        return self.function(x)


@pytest.mark.stochastic
def test_the_gap_closes_with_more_temperatures_and_is_there_with_few():
    model, x = linear()
    with torch.no_grad():
        model.loadings.mul_(3.0)
    few, many = (
        bdmc(model, None, x[:1].expand(200, 5), num_chains=1, num_temperatures=t, leapfrog_steps=4, rows_per_pass=10**5)
        for t in (2, 40)
    )
    for found in (few, many):
        lower, upper = found.lower - found.exact, found.upper - found.exact
        assert lower.mean() < 4.5 * lower.std() / 14 and upper.mean() > -4.5 * upper.std() / 14
    assert few.gap > 4.5 * few.gap_error and few.gap > 4 * many.gap


def test_global_latents_are_simulated_anew():
    sigma = torch.tensor([15.0, 10, 16])
    found = bdmc(
        EightSchoolsNonCentred(),
        None,
        torch.zeros(3),
        sigma,
        repeats=4,
        num_chains=20,
        num_temperatures=6,
        leapfrog_steps=3,
    )
    assert found.lower.shape == (4,) and found.exact is None and len(set(found.lower)) == 4
    assert found.gap_error < 0.5 and abs(found.gap) < 4.5 * found.gap_error + 0.3
    assert list(found.figures()) == ["lower bound", "upper bound", "gap"]


def test_it_leaves_everything_as_it_was():
    model, x = linear()
    guide, before = Off(model), torch.get_rng_state()
    model.loadings.requires_grad_(False)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    for run in (ais, bdmc):
        first = run(model, guide, x, num_chains=3, num_temperatures=4)
        again = run(model, guide, x, num_chains=3, num_temperatures=4)
        key = "log_w" if run is ais else "upper"
        assert np.array_equal(getattr(first, key), getattr(again, key))
    assert torch.equal(before, torch.get_rng_state()) and model.training and not list(pyro.get_param_store())
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert not model.loadings.requires_grad and all(p.grad is None for p in model.parameters())


def test_the_acceptance_is_the_mean_over_a_temperatures_transitions():
    model, x = linear()
    one, three = (
        ais(model, None, x, num_chains=200, num_temperatures=4, leapfrog_steps=2, transitions=t).accept for t in (1, 3)
    )
    assert (three > 0.3).all() and (three < 1).all() and three.mean() == pytest.approx(one.mean(), abs=0.1)


def test_the_schedule():
    betas = sigmoid_schedule(7)
    assert betas[0] == 0 and betas[-1] == 1 and (np.diff(betas) > 0).all()
    np.testing.assert_allclose(betas + betas[::-1], 1)
    assert Annealer(1, 1, Transition(), 0.65, 1).betas == [0.0, 1.0]


def test_refusals_name_the_site():
    model, x = linear()

    def kinds(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("kind", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(k.float(), 1.0), obs=x)

    with pytest.raises(ValueError, match="'kind' is discrete"):
        ais(kinds, None, torch.zeros(4))
    with pytest.raises(ValueError, match="no latent site"):
        ais(lambda x: pyro.sample("x", dist.Normal(0.0, 1.0), obs=x), None, torch.tensor(0.0))

    def points(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Delta(torch.zeros(len(x), 2)).to_event(1))

    with pytest.raises(ValueError, match=r"\['z1'\] at a point"):
        ais(model, points, x)
    y, sigma = torch.zeros(3), torch.ones(3)
    schools = EightSchoolsNonCentred()
    guide = FullRank(schools, y, sigma)
    for run in (ais, bdmc):
        with pytest.raises(
            ValueError, match=r"auxiliary site\(s\) \['joint'\], not on .* start from the prior, guide=None"
        ):
            run(schools, guide, y, sigma)

    def half(x):
        with pyro.plate("data", 2 * len(x), subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="subsampled plate"):
        ais(half, None, torch.zeros(4))
    for name, value in (("num_chains", 0), ("num_temperatures", 0), ("leapfrog_steps", 0), ("transitions", -1)):
        with pytest.raises(ValueError, match=name):
            ais(model, None, x, **{name: value})
    with pytest.raises(ValueError, match="target_accept"):
        ais(model, None, x, target_accept=1.0)

    def factor(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("f", -(z**2))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"bdmc dreams data.*factor"):
        bdmc(factor, None, torch.zeros(4))
    with pytest.raises(ValueError, match="repeats"):
        bdmc(model, None, x, repeats=0)
