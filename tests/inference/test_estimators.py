"""Gradient estimators against quadrature: z2 ~ N(m, 1), z1 ~ N(a z2, e^s), x ~ N(z1, 1), with free or tied linear guides.

Every row has parameters of its own, all equal, so that one backward pass gives as many independent gradients as rows.
"""

import functools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import Guide, precision_weighted
from pyrarchy.inference import (
    CIWAE,
    ELBO,
    MIWAE,
    PIWAE,
    ImportanceWeighted,
    Jackknife,
    Renyi,
    Thermodynamic,
)
from pyrarchy.inference.estimators import DReG

ROWS, X, SIGMAS = 40_000, 1.3, 4.8
THETA = {"m": 0.4, "a": 0.8, "s": -0.3}
PHI = {"b": 0.3, "c": -0.2, "t": -0.1, "d": 0.5, "f": 0.4, "g": 0.1, "u": -0.2}
TIED = [False, True]


def normal(loc, log_scale):
    return dist.Normal(loc, torch.as_tensor(log_scale, dtype=torch.float64).exp())


def p2(p):
    return normal(p["m"], 0.0)


def p1(p, z2):
    return normal(p["a"] * z2, p["s"])


def q2(q, x):
    return normal(q["b"] * x + q["c"], q["t"])


def q1(q, z2, x, prior):
    """Free, or the product of the model's prior and the evidence."""
    if prior is None:
        return normal(q["d"] * z2 + q["f"] * x + q["g"], q["u"])
    return precision_weighted(prior, normal(q["f"] * x + q["g"], q["u"]))


class Rows(PyroModule):
    def __init__(self, name, values, rows):
        super().__init__(name)
        for key, value in values.items():
            self.register_parameter(key, nn.Parameter(torch.full((rows,), value, dtype=torch.float64)))

    def __getitem__(self, key):
        return getattr(self, key)


class Model(Rows):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", p2(self))
            z1 = pyro.sample("z1", p1(self, z2))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)


class Free(Rows):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", q2(self, x))
            pyro.sample("z1", q1(self, z2, x, None))


class Tied(Guide):
    def __init__(self, model, values, rows):
        super().__init__(model)
        self.own = Rows("own", {k: v for k, v in values.items() if k != "d"}, rows)

    def encode(self, x):
        return x

    def posterior(self, name, prior):
        return q2(self.own, self.evidence) if name == "z2" else q1(self.own, None, self.evidence, prior)


def estimates(bound, tied, theta=THETA, phi=PHI, rows=ROWS, x=X):
    """Parameter -> gradient of the bound, one estimate a row."""
    model = Model("model", theta, rows)
    guide = Tied(model, phi, rows) if tied else Free("guide", phi, rows)
    pyro.clear_param_store()
    pyro.set_rng_seed(7)
    (-bound.differentiable_loss(model, guide, torch.full((rows,), x, dtype=torch.float64))).backward()
    both = {**dict(model.named_parameters()), **dict((guide.own if tied else guide).named_parameters())}
    return {name: p.grad for name, p in both.items()}


def leaves(values):
    return {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in values.items()}


def grid(dims, nodes):
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    mesh = torch.tensor(np.stack(np.meshgrid(*[points] * dims, indexing="ij")).reshape(dims, -1))
    weight = functools.reduce(np.multiply.outer, [weights / weights.sum()] * dims).reshape(-1)
    return mesh, torch.tensor(weight)


def table(p, r, q, tied, noise):
    """log w and log q of constant latents, (2, points); ``r`` is the model as a ladder's guide sees it."""
    z2 = q2(q, X).loc + q2(q, X).scale * noise[:2]
    lower = q1(q, z2, X, p1(r, z2) if tied else None)
    z1 = lower.loc + lower.scale * noise[2:]
    still = z2.detach(), z1.detach()
    log_p = p2(p).log_prob(z2) + p1(p, z2).log_prob(z1) + normal(z1, 0.0).log_prob(torch.tensor(X))
    log_q = q2(q, X).log_prob(z2) + lower.log_prob(z1)
    constant = q2(q, X).log_prob(still[0]) + q1(q, still[0], X, p1(r, still[0]) if tied else None).log_prob(still[1])
    return log_p - log_q, constant


def truth(bound, tied, follows="bound", nodes=14):
    """Parameter -> exact gradient: the model follows its bound, the guide ``follows`` (bound, wake or sleep)."""
    p, r, q = leaves(THETA), leaves(THETA), leaves(PHI)
    noise, weight = grid(4, nodes)
    log_w, constant = table(p, r, q, tied, noise)
    for_model = (weight * bound.of_weights(log_w)).sum()
    if follows == "bound":
        for_guide = (weight * bound.of_weights_for_guide(log_w)).sum()
    elif follows == "wake":
        for_guide = (weight * (log_w.softmax(0).detach() * constant).sum(0)).sum()
    else:
        (e2, e1, e), dreamed = grid(3, nodes)
        z2 = THETA["m"] + e2
        z1 = THETA["a"] * z2 + math.exp(THETA["s"]) * e1
        prior = p1(r, z2) if tied else None
        for_guide = (dreamed * (q2(q, z1 + e).log_prob(z2) + q1(q, z2, z1 + e, prior).log_prob(z1))).sum()

    def gradient(of, wrt):
        found = torch.autograd.grad(of, list(wrt.values()), retain_graph=True, allow_unused=True)
        return {k: torch.zeros((), dtype=torch.float64) if g is None else g for k, g in zip(wrt, found, strict=True)}

    own, by_guide, phi = gradient(for_model, p), gradient(for_guide, r), gradient(for_guide, q)
    return {**{k: own[k] + by_guide[k] for k in own}, **({k: v for k, v in phi.items() if not tied or k != "d"})}


def deviations(found, exact):
    """Parameter -> (mean - exact) in standard errors."""
    assert found.keys() == exact.keys()
    return {k: ((g.mean() - exact[k]) / (g.std() / len(g) ** 0.5)).item() for k, g in found.items()}


L2 = ImportanceWeighted(2)
UNBIASED = [
    (ImportanceWeighted, (2,), L2),
    (ELBO, (2,), None),
    (MIWAE, (2, 2), L2),
    (CIWAE, (0.3, 2), None),
    (Renyi, (0.5, 2), None),
    (Renyi, (-1.0, 2), None),
    (Jackknife, (2,), None),
    (Thermodynamic, (3, 2), None),
    (PIWAE, (2, 1), None),
]


@pytest.mark.stochastic
@pytest.mark.parametrize("tied", TIED, ids=["free", "tied"])
@pytest.mark.parametrize("estimator", ["plain", "dreg"])
@pytest.mark.parametrize(("make", "args", "target"), UNBIASED, ids=[f"{m.__name__}{a}" for m, a, _ in UNBIASED])
def test_mean_is_the_true_gradient(make, args, target, estimator, tied):
    bound = make(*args, estimator=estimator)
    off = deviations(estimates(bound, tied), truth(target or bound, tied))
    assert max(map(abs, off.values())) < SIGMAS, off


@pytest.mark.stochastic
@pytest.mark.parametrize("tied", TIED, ids=["free", "tied"])
@pytest.mark.parametrize(
    ("bound", "target", "follows"),
    [
        (ELBO(1, estimator="stl"), ELBO(2), "bound"),
        (ELBO(2, estimator="stl"), ELBO(2), "bound"),
        (MIWAE(3, 1, estimator="stl"), ELBO(2), "bound"),
        (ImportanceWeighted(2, estimator="wake"), L2, "wake"),
        (ImportanceWeighted(2, estimator="rws-dreg"), L2, "wake"),
        (MIWAE(3, 2, estimator="wake"), L2, "wake"),
        (MIWAE(3, 2, estimator="rws-dreg"), L2, "wake"),
        (ImportanceWeighted(2, estimator="sleep"), L2, "sleep"),
        (ELBO(1, estimator="sleep"), ELBO(2), "sleep"),
        (ImportanceWeighted(2, estimator="score"), L2, "bound"),  # nothing discrete: the plain gradient
    ],
    ids=str,
)
def test_mean_is_the_gradient_of_the_estimators_own_target(bound, target, follows, tied):
    off = deviations(estimates(bound, tied), truth(target, tied, follows))
    assert max(map(abs, off.values())) < SIGMAS, off


def test_the_quadrature_has_converged():
    for tied in TIED:
        for bound in (L2, Jackknife(2), Thermodynamic(3, 2)):
            coarse, fine = truth(bound, tied, nodes=11), truth(bound, tied, nodes=14)
            assert max(abs(coarse[k] - fine[k]) for k in fine) < 2e-4, bound  # standard errors are above 5e-4


@pytest.mark.stochastic
def test_piwae_gives_theta_the_tight_bound_and_phi_the_mean_of_the_loose_ones():
    """With K = 2 in each of two groups, against the other two bounds' own estimates."""
    found = estimates(PIWAE(2, 2, estimator="dreg"), False)
    tight, loose = (estimates(b, False) for b in (ImportanceWeighted(4), MIWAE(2, 2)))
    for name, g in found.items():
        exact = (tight if name in THETA else loose)[name]
        assert abs(g.mean() - exact.mean()) < SIGMAS * math.hypot(g.std(), exact.std()) / ROWS**0.5, name
    assert abs(tight["u"].mean() - loose["u"].mean()) > SIGMAS * math.hypot(tight["u"].std(), loose["u"].std()) / 200


@pytest.mark.stochastic
@pytest.mark.parametrize("tied", TIED, ids=["free", "tied"])
def test_sticking_the_landing_is_biased_for_two_particles(tied):
    off = deviations(estimates(ImportanceWeighted(2, estimator="stl"), tied), truth(L2, tied))
    assert max(abs(off[k]) for k in ("t", "u")) > 2 * SIGMAS
    if not tied:  # theta, which a free guide does not use, still follows its bound
        assert max(abs(off[k]) for k in THETA) < SIGMAS


@pytest.mark.stochastic
def test_a_hook_at_each_latent_is_wrong_at_the_top():
    """Hooks that multiply by w at z1 and z2 meet the lower path twice; one weight on the whole path does not."""
    pyro.set_rng_seed(7)
    means = {}
    for hooked in (True, False):
        q = {k: torch.full((ROWS,), v, dtype=torch.float64, requires_grad=True) for k, v in PHI.items()}
        still = {k: v.detach() for k, v in q.items()}
        z2 = q2(q, X).rsample((2,)) * 1
        lower = q1(q, z2, X, None)
        z1 = lower.rsample() * 1
        p = {k: torch.tensor(v, dtype=torch.float64) for k, v in THETA.items()}
        log_p = p2(p).log_prob(z2) + p1(p, z2).log_prob(z1) + normal(z1, 0.0).log_prob(torch.tensor(X))
        log_w = log_p - q2(still, X).log_prob(z2) - q1(still, z2, X, None).log_prob(z1)
        w = log_w.detach().softmax(0)
        if hooked:
            for z in (z1, z2):
                z.register_hook(lambda g, w=w: g * w)
        ((w if hooked else w**2) * log_w).sum().backward()
        means[hooked] = deviations({k: v.grad for k, v in q.items()}, {k: truth(L2, False)[k] for k in PHI})
    assert max(map(abs, means[False].values())) < SIGMAS
    assert max(abs(means[True][k]) for k in ("b", "c", "t")) > 4 * SIGMAS  # the top level
    assert max(abs(means[True][k]) for k in ("f", "g", "u")) < SIGMAS  # the lowest is met once


class Squared(DReG):
    """Mutant: the guide's squared weight for the model as well."""

    def combine(self, w, v, path, live, still):
        return super().combine(path, v, path, live, still)


class Unsquared(DReG):
    def path(self, bound, log_w, v):
        return v


@pytest.mark.stochastic
@pytest.mark.parametrize("mutant", [Squared, Unsquared])
def test_mutants_of_dreg_are_caught(mutant):
    off = deviations(estimates(ImportanceWeighted(2, estimator=mutant()), False), truth(L2, False))
    assert max(map(abs, off.values())) > 2 * SIGMAS


def exact_guide(tied):
    """The posterior of the pair, as parameters of the guide."""
    m, a, s = THETA["m"], THETA["a"], math.exp(THETA["s"])
    lower, top = 1 / s**2 + 1, 1 + a**2 / (s**2 + 1)
    phi = {"b": a / (s**2 + 1) / top, "c": m / top, "t": -math.log(top) / 2}
    if tied:
        return {**phi, "d": 0.0, "f": 1.0, "g": 0.0, "u": 0.0}
    return {**phi, "d": a / s**2 / lower, "f": 1 / lower, "g": 0.0, "u": -math.log(lower) / 2}


@pytest.mark.parametrize("tied", TIED, ids=["free", "tied"])
@pytest.mark.parametrize("k", [1, 5])
def test_the_guides_gradient_is_zero_for_every_sample_at_the_posterior(k, tied):
    for name in ("stl", "dreg") + (("rws-dreg",) if k > 1 else ()):
        found = estimates(ImportanceWeighted(k, estimator=name), tied, phi=exact_guide(tied), rows=50)
        assert max(found[n].abs().max() for n in found.keys() - THETA.keys()) < 1e-12, name
        assert min(found[n].std() for n in THETA) > 0.01
    plain = estimates(ImportanceWeighted(k), tied, phi=exact_guide(tied), rows=50)
    assert min(plain[n].std() for n in ("b", "t", "u")) > 0.01
