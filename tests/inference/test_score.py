"""Score-function estimators against enumeration: two levels, each Bernoulli or Gaussian.

As in test_estimators, every row has parameters of its own, so that one backward pass gives one estimate a row.
"""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.inference import (
    CIWAE,
    ELBO,
    MIWAE,
    PIWAE,
    AnalyticELBO,
    Anneal,
    ImportanceWeighted,
    Jackknife,
    Renyi,
    Temper,
    VRMax,
)
from pyrarchy.inference.estimators import VIMCO, Score, log_p

ROWS, X, SIGMAS = 30_000, 0.9, 4.8
THETA = {"m": 0.4, "a": 1.1, "s": -0.6}
PHI = {"c": -0.3, "d": 0.8, "g": 0.2}
KINDS = ["BB", "BN", "NB"]  # z2 and z1: Bernoulli or Normal


def site(kind, logit):
    return dist.Bernoulli(logits=logit) if kind == "B" else dist.Normal(logit, 1.0)


def p(v, kind, z2=None):
    return site(kind[0], v["m"]) if z2 is None else site(kind[1], v["a"] * z2 + v["s"])


def q(v, kind, z2=None):
    return site(kind[0], v["c"]) if z2 is None else site(kind[1], v["d"] * z2 + v["g"])


def log_lik(z2, z1, x):
    return dist.Normal(z1 + 0.5 * z2, 0.7).log_prob(torch.as_tensor(x, dtype=torch.float64))


class Rows(PyroModule):
    def __init__(self, name, values, kind, rows):
        super().__init__(name)
        self.kind = kind
        for key, value in values.items():
            self.register_parameter(key, nn.Parameter(torch.full((rows,), value, dtype=torch.float64)))

    def __getitem__(self, key):
        return getattr(self, key)


class Model(Rows):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", p(self, self.kind))
            z1 = pyro.sample("z1", p(self, self.kind, z2))
            pyro.sample("x", dist.Normal(z1 + 0.5 * z2, 0.7), obs=x)


class Guide(Rows):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", q(self, self.kind))
            pyro.sample("z1", q(self, self.kind, z2))


def estimates(bound, kind, rows=ROWS):
    model, guide = Model("model", THETA, kind, rows), Guide("guide", PHI, kind, rows)
    pyro.clear_param_store()
    pyro.set_rng_seed(5)
    (-bound.differentiable_loss(model, guide, torch.full((rows,), X, dtype=torch.float64))).backward()
    return {n: v.grad for n, v in [*model.named_parameters(), *guide.named_parameters()]}


def draws(kind, k, v, z2=None):
    """All values of one site's K draws on new axes, and their probabilities (constant for Gaussian noise)."""
    if kind == "B":
        values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=k)), dtype=torch.float64).T
        logit = v["c"] if z2 is None else v["d"] * z2[..., None] + v["g"]
        values = values if z2 is None else values[:, None]
        return values, dist.Bernoulli(logits=logit).log_prob(values).sum(0).exp()
    points, weights = np.polynomial.hermite_e.hermegauss(16)
    noise = torch.tensor(np.stack(np.meshgrid(*[points] * k)).reshape(k, -1))
    weight = torch.tensor(np.stack(np.meshgrid(*[weights / weights.sum()] * k)).prod(0).reshape(-1))
    loc = v["c"] if z2 is None else v["d"] * z2[..., None] + v["g"]
    noise = noise if z2 is None else noise[:, None]
    return loc + noise, weight


def truth(bound, kind, k, z1_temperature=1.0, x_temperature=1.0):
    """Exact gradients by enumeration of Bernoulli sites and quadrature of Gaussian ones."""
    t, f = ({n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in d.items()} for d in (THETA, PHI))
    z2, p2 = draws(kind[0], k, f)
    z1, p1 = draws(kind[1], k, f, z2)
    z2, z1 = torch.broadcast_tensors(z2[..., None], z1)
    log_w = p(t, kind).log_prob(z2) - q(f, kind).log_prob(z2)
    below = p(t, kind, z2).log_prob(z1) - q(f, kind, z2).log_prob(z1)
    log_w = (log_w + z1_temperature * below + x_temperature * log_lik(z2, z1, X)).reshape(k, -1)
    weight = (p2[:, None] * p1).reshape(-1)
    assert abs(weight.sum().item() - 1) < 1e-12

    def gradient(function, wrt):
        return torch.autograd.grad((weight * function(log_w)).sum(), list(wrt.values()), retain_graph=True)

    return {
        **dict(zip(t, gradient(bound.of_weights, t), strict=True)),
        **dict(zip(f, gradient(bound.of_weights_for_guide, f), strict=True)),
    }


def deviations(found, exact):
    return {n: ((g.mean() - exact[n]) / (g.std() / len(g) ** 0.5)).item() for n, g in found.items()}


CASES = [
    ("vimco", ImportanceWeighted, (3,)),
    ("vimco", MIWAE, (1, 3)),
    ("score", ImportanceWeighted, (3,)),
    ("score", ELBO, (3,)),
    ("score", CIWAE, (0.4, 3)),
    ("score", Renyi, (0.5, 3)),
    ("score", Jackknife, (3,)),
    ("score", VRMax, (3,)),
    ("score", PIWAE, (3, 1)),
]


@pytest.mark.stochastic
@pytest.mark.parametrize(("estimator", "make", "args"), CASES, ids=[f"{e}-{m.__name__}" for e, m, _ in CASES])
def test_discrete_sites_against_enumeration(estimator, make, args):
    bound = make(*args, estimator=estimator)
    off = deviations(estimates(bound, "BB"), truth(bound, "BB", 3))
    assert max(map(abs, off.values())) < SIGMAS, off


@pytest.mark.stochastic
@pytest.mark.parametrize("kind", ["BN", "NB"])
@pytest.mark.parametrize(
    "bound",
    [
        ImportanceWeighted(2, estimator="vimco"),
        ELBO(2, estimator="score"),
        CIWAE(0.4, 2, estimator="score"),
        PIWAE(2, 1, estimator="score"),
        PIWAE(1, 2, estimator="vimco"),
    ],
    ids=str,
)
def test_mixed_sites_keep_the_path_of_the_continuous_one(kind, bound):
    off = deviations(estimates(bound, kind), truth(bound, kind, 2))
    assert max(map(abs, off.values())) < SIGMAS, off


@pytest.mark.stochastic
def test_wake_and_sleep_take_discrete_sites():
    """Wake: the limit of its target, the gradient of E_p(z|x) log q, is zero only at the posterior; here its K = 2 sum."""
    k, kind = 2, "BB"
    t, f = ({n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in d.items()} for d in (THETA, PHI))
    z2, p2 = draws("B", k, f)
    z1, p1 = draws("B", k, f, z2)
    z2, z1 = torch.broadcast_tensors(z2[..., None], z1)
    log_q = q(f, kind).log_prob(z2) + q(f, kind, z2).log_prob(z1)
    log_w = log_lik(z2, z1, X) + p(t, kind).log_prob(z2) + p(t, kind, z2).log_prob(z1) - log_q
    target = ((p2[:, None] * p1).detach() * (log_w.softmax(0).detach() * log_q).sum(0)).sum()
    wake = dict(zip(f, torch.autograd.grad(target, list(f.values())), strict=True))
    found = estimates(ImportanceWeighted(k, estimator="wake"), kind)
    exact = truth(ImportanceWeighted(k), kind, k)
    assert max(map(abs, deviations(found, {**exact, **wake}).values())) < SIGMAS
    # sleep: E_p log q over the four states of the prior, whatever the data
    states = torch.tensor([[0.0, 0, 1, 1], [0, 1, 0, 1]], dtype=torch.float64)
    weight = (p(THETA_T, kind).log_prob(states[0]) + p(THETA_T, kind, states[0]).log_prob(states[1])).exp()
    target = (weight * (q(f, kind).log_prob(states[0]) + q(f, kind, states[0]).log_prob(states[1]))).sum()
    sleep = dict(zip(f, torch.autograd.grad(target, list(f.values())), strict=True))
    found = estimates(ImportanceWeighted(k, estimator="sleep"), kind)
    assert max(map(abs, deviations(found, {**exact, **sleep}).values())) < SIGMAS


THETA_T = {n: torch.tensor(v, dtype=torch.float64) for n, v in THETA.items()}


class NoBaseline(Score):
    def advantage(self, bound, log_w):
        return bound.of_weights(log_w).expand_as(log_w)


class OwnBaseline(Score):
    """Mutant: the baseline knows the particle itself."""

    def advantage(self, bound, log_w):
        return bound.of_weights(log_w) - bound.of_each_replaced(log_w, log_w.mean(0).expand_as(log_w))


class NoPath(Score):
    """Mutant: the continuous site's path is dropped."""

    def surrogate(self, bound, terms, run):
        log_w, still = terms.log_w.detach(), run.freeze(terms)
        rough = sum(terms.log_q[n] for n, q in terms.q.items() if not q.has_rsample)
        direct = bound.gradient(log_w) * (log_p(terms) - log_p(still))
        return (direct + self.advantage(bound, log_w) * rough).sum(0)


@pytest.mark.stochastic
def test_the_baseline_lowers_the_variance_and_keeps_the_mean():
    bare = estimates(ImportanceWeighted(3, estimator=NoBaseline()), "BB")
    vimco = estimates(ImportanceWeighted(3, estimator="vimco"), "BB")
    exact = truth(ImportanceWeighted(3), "BB", 3)
    assert max(map(abs, deviations(bare, exact).values())) < SIGMAS
    assert all(vimco[n].std() < 0.7 * bare[n].std() for n in PHI)


@pytest.mark.stochastic
@pytest.mark.parametrize("handler", [Temper, Anneal])
@pytest.mark.parametrize("kind", KINDS)
def test_the_score_follows_the_tempered_elbo(kind, handler):
    """Half of the latent terms, or half of the likelihood: the gradient is that of the tempered expectation."""
    bound, name = ELBO(3, estimator="score"), "z1" if handler is Temper else "x"
    with handler(stop=0.5, sites=(name,)):
        found = estimates(bound, kind)
    exact = truth(bound, kind, 3, **{f"{name}_temperature": 0.5})
    assert max(map(abs, deviations(found, exact).values())) < SIGMAS
    assert max(map(abs, deviations(found, truth(bound, kind, 3)).values())) > 2 * SIGMAS


@pytest.mark.stochastic
@pytest.mark.parametrize("mutant", [OwnBaseline, NoPath])
def test_mutants_are_caught(mutant):
    bound = ImportanceWeighted(2, estimator=mutant())
    off = [max(map(abs, deviations(estimates(bound, kind), truth(bound, kind, 2)).values())) for kind in KINDS]
    assert max(off) > 2 * SIGMAS


def test_discrete_sites_refuse_what_would_lose_their_gradient():
    for name in ("plain", "stl", "dreg", "rws-dreg"):
        with pytest.raises(ValueError, match=r"site\(s\) \['z2'\] have no reparameterised sampler.*vimco"):
            estimates(ImportanceWeighted(3, estimator=name), "BN", rows=4)
    with pytest.raises(ValueError, match="needs a bound of the weights"):
        estimates(AnalyticELBO(3, estimator="score"), "BB", rows=4)
    with Temper(stop=0.5, sites=["z1"]), pytest.raises(ValueError, match="temperature"):
        estimates(ImportanceWeighted(3, estimator="vimco"), "BB", rows=4)
    assert isinstance(ImportanceWeighted(3, estimator=VIMCO()).estimator, VIMCO)
    assert math.isfinite(
        ImportanceWeighted(3).loss(Model("m", THETA, "BB", 4), Guide("g", PHI, "BB", 4), torch.ones(4))
    )
