"""Bounds against closed forms on z ~ N(0, I), x ~ N(z, I), q = N(x/2 + d, v): the posterior is N(x/2, s), s = 1/2."""

import dataclasses
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule

from pyrarchy.guides import Encoder, Guide, Ladder
from pyrarchy.inference import ELBO, AnalyticELBO, Bound, FreeBits, ImportanceWeighted, Renyi, VRMax
from pyrarchy.zoo import MarkovHVAE

D, B, S = 2, 5, 0.5


class Model(PyroModule):
    """``subsample`` gives the rows of one minibatch of the N in x."""

    def __init__(self):
        super().__init__("model")

    def forward(self, x, subsample=None):
        with pyro.plate("data", len(x), subsample=subsample, dim=-1) as rows:
            z = pyro.sample("z1", dist.Normal(torch.zeros(D, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x if subsample is None else x[rows])


class Off(Guide):
    """Off the posterior by ``d`` in the mean and by v in the variance."""

    def __init__(self, model, d=0.0, v=S):
        super().__init__(model)
        self.d, self.v = d, v

    def encode(self, x, subsample=None):
        return (x if subsample is None else x[subsample]) / 2 + self.d

    def posterior(self, name, prior):
        return dist.Normal(self.evidence, math.sqrt(self.v)).to_event(1)


def data(rows=B):
    return torch.randn(rows, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2**0.5


def log_marginal(x):
    return dist.Normal(torch.zeros(D, dtype=x.dtype), 2**0.5).to_event(1).log_prob(x)


def kl(d, v):
    return D / 2 * (v / S - 1 - math.log(v / S)) + D * d**2 / (2 * S)


def renyi_gap(alpha, d, v):
    """L_alpha - log p(x) in closed form: 1/(1 - alpha) log of the integral of p^(1 - alpha) q^alpha."""
    if alpha == 1:
        return -kl(d, v)
    a, b = 1 - alpha, alpha
    mixed = a * v + b * S
    per_dim = -(a * math.log(S) + b * math.log(v) + math.log(mixed / (S * v))) / 2 - a * b * d**2 / (2 * mixed)
    return D * per_dim / a


BOUNDS = [ELBO, ImportanceWeighted, lambda k: Renyi(0.5, k), lambda k: Renyi(-0.5, k), lambda k: Renyi(2.0, k), VRMax]
IDS = ["elbo", "iw", "renyi.5", "renyi-.5", "renyi2", "max"]


@pytest.mark.parametrize("make", [*BOUNDS, AnalyticELBO], ids=[*IDS, "analytic"])
@pytest.mark.parametrize(("k", "rows"), [(1, 1), (1, B), (B, B), (3, 1), (3, B), (7, 4)])
def test_an_exact_guide_gives_log_p_at_every_particle_and_shape(make, k, rows):
    check_exact(make, k, rows)


def check_exact(make, k, rows):
    model, x = Model(), data(rows)
    bound = make(k)
    terms = bound.terms(model, Off(model), x)
    assert terms.log_w.shape == (k, rows)
    torch.testing.assert_close(terms.log_w, log_marginal(x).expand(k, rows), rtol=0, atol=1e-10)
    if make is not AnalyticELBO:
        torch.testing.assert_close(bound.reduce(terms), log_marginal(x), rtol=0, atol=1e-10)
    else:  # its log-likelihood is still sampled: exact in expectation only
        assert bound.reduce(terms).shape == (rows,)
    assert isinstance(bound.loss(model, Off(model), x), float)


def check_against_closed_form(make, alpha, k=30_000, subsample=None, d=0.3, v=0.7):
    """The bound at large K against L_alpha, within 4.5 standard errors of each row's power mean."""
    model, x = Model(), data()
    guide, bound = Off(model, d, v), make(k)
    args = (x,) if subsample is None else (x, torch.tensor(subsample))
    terms = bound.terms(model, guide, *args)
    rows = x if subsample is None else x[torch.tensor(subsample)]
    exact = log_marginal(rows) + renyi_gap(alpha, d, v)
    value, power = bound.reduce(terms), 1 - alpha
    if power:
        w = (power * (terms.log_w - log_marginal(rows))).exp()
        error = w.std(0) / w.mean(0) / k**0.5 / abs(power)
    else:
        error = terms.log_w.std(0) / k**0.5
    assert value.shape == exact.shape
    assert ((value - exact).abs() < 4.5 * error).all(), (value - exact, error)
    pyro.set_rng_seed(3)
    scaled = len(x) / len(rows) * bound.reduce(bound.terms(model, guide, *args)).sum()
    pyro.set_rng_seed(3)
    assert bound.loss(model, guide, *args) == pytest.approx(-scaled.item(), rel=1e-12)


@pytest.mark.stochastic
@pytest.mark.parametrize("subsample", [None, [0, 3]], ids=["full", "subsampled"])
@pytest.mark.parametrize(
    ("make", "alpha"),
    [(ELBO, 1), (ImportanceWeighted, 0)] + [((lambda k, a=a: Renyi(a, k)), a) for a in (-0.5, 0, 0.3, 1, 1.5)],
)
def test_values_equal_closed_forms(make, alpha, subsample):
    check_against_closed_form(make, alpha, subsample=subsample)


@pytest.mark.stochastic
def test_the_gap_of_the_importance_weighted_bound_is_chi2_over_2k():
    rows, k, d, v = 3000, 200, 0.2, 0.7
    model, x = Model(), data(1).expand(rows, D)
    terms = ImportanceWeighted(k).terms(model, Off(model, d, v), x)
    chi2 = (v / math.sqrt(S * (2 * v - S))) ** D * math.exp(D * d**2 / (2 * v - S)) - 1
    # mean(w)/Z - 1 has mean zero and takes off the noise of order 1/sqrt(K)
    control = (terms.log_w - log_marginal(x)).exp().mean(0) - 1
    gap = log_marginal(x) - ImportanceWeighted(k).reduce(terms) + control
    error = gap.std().item() / rows**0.5
    assert gap.mean().item() == pytest.approx(chi2 / (2 * k), abs=4.5 * error + 3 * chi2 / k**1.5)
    assert 4.5 * error < 0.2 * chi2 / (2 * k)


@pytest.mark.stochastic
@pytest.mark.parametrize("make", [ELBO, ImportanceWeighted, lambda k: Renyi(0.3, k), lambda k: Renyi(0.9, k)])
def test_monotone_in_k_and_never_above_log_p(make):
    """Jensen: the bound on 24 particles is at least the mean of the bounds on its parts, sample by sample."""
    rows, model = 1500, Model()
    x = data(1).expand(rows, D)
    terms = make(24).terms(model, Off(model, 0.4, 0.35), x)

    def part(first, k):
        cut = {
            n: {m: t[first : first + k] for m, t in getattr(terms, n).items()} for n in ("log_obs", "log_p", "log_q")
        }
        return make(k).reduce(dataclasses.replace(terms, **cut))

    values = {k: torch.stack([part(i, k) for i in range(0, 24, k)]).mean(0) for k in (1, 2, 6, 24)}
    for k in (1, 2, 6):
        larger = values[{1: 2, 2: 6, 6: 24}[k]]
        assert (larger - values[k]).min() > -1e-9
        if make is not ELBO:
            assert (larger - values[k]).mean() > 1e-3
    error = values[24].std().item() / rows**0.5
    assert values[24].mean().item() < log_marginal(x)[0].item() + 4.5 * error
    assert make(24).is_lower_bound


@pytest.mark.stochastic
def test_what_is_no_lower_bound_says_so_and_lies_above():
    rows, model = 800, Model()
    x = data(1).expand(rows, D)
    for bound in (VRMax(50), Renyi(-1.0, 50)):
        assert bound.is_lower_bound is False
        value = bound.value(model, Off(model, 0.4, 0.7), x)
        assert value.mean() - log_marginal(x)[0] > 4.5 * value.std() / rows**0.5
    assert FreeBits(0.1).is_lower_bound is False
    assert Renyi(2.0, 5).is_lower_bound and Renyi(0.0, 5).is_lower_bound


def test_minibatches_average_to_the_full_bound():
    model, x = Model(), data(12)
    parts = torch.randperm(12).reshape(3, 4)
    for make in BOUNDS:
        losses = [make(6).loss(model, Off(model), x, part) for part in parts]
        assert sum(losses) / 3 == pytest.approx(-log_marginal(x).sum().item(), abs=1e-9)


class Random(PyroModule):
    """Draws its own minibatch of four; the guide draws the rows first and the model follows."""

    def __init__(self, name, size):
        super().__init__(name)
        self.size = size

    def forward(self, x):
        with pyro.plate("data", len(x), subsample_size=self.size, dim=-1) as rows:
            q = (
                dist.Normal(x[rows] / 2 + 0.3, 0.7**0.5)
                if self._pyro_name == "guide"
                else dist.Normal(0 * x[rows], 1.0)
            )
            z = pyro.sample("z1", q.to_event(1))
            if self._pyro_name == "model":
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])


class RandomMessenger(Off):
    """The same from inside the model: the rows are read off the trace."""

    def encode(self, x):
        self.x = x

    def posterior(self, name, prior):
        return dist.Normal(self.x[self.trace.nodes["data"]["value"]] / 2 + 0.3, 0.7**0.5).to_event(1)


@pytest.mark.stochastic
@pytest.mark.parametrize("messenger", [False, True])
@pytest.mark.parametrize(("make", "k"), [(ELBO, 1), (ELBO, 3), (ImportanceWeighted, 3), (lambda k: Renyi(0.5, k), 3)])
def test_a_random_minibatch_has_the_full_bound_as_its_mean(make, k, messenger):
    x, means = data(12), {}
    for size in (4, 12):
        model = Random("model", size)
        guide = RandomMessenger(model) if messenger else Random("guide", size)
        bound = make(k)
        losses = torch.tensor([bound.loss(model, guide, x) for _ in range(300 * 4 // size)])
        means[size] = losses.mean().item(), losses.std().item() / len(losses) ** 0.5
    assert abs(means[4][0] - means[12][0]) < 4.5 * math.hypot(means[4][1], means[12][1])
    exact = -log_marginal(x).sum().item()
    assert means[4][0] > exact - 4.5 * means[4][1]
    if make is ELBO:
        assert means[4][0] == pytest.approx(exact + 12 * kl(0.3, 0.7), abs=4.5 * means[4][1])


@pytest.mark.parametrize("make", BOUNDS, ids=IDS)
def test_one_particle_is_the_elbo_bit_for_bit_and_rows_do_not_mix(make):
    model, x = Model(), data(7).float()
    guide = Off(model, 0.4, 0.7)
    pyro.set_rng_seed(5)
    reference = ELBO().value(model, guide, x)
    pyro.set_rng_seed(5)
    assert torch.equal(make(1).value(model, guide, x), reference)
    terms = make(4).terms(model, guide, x)
    for b in range(7):
        cut = {n: {m: t[:, [b]] for m, t in getattr(terms, n).items()} for n in ("log_obs", "log_p", "log_q")}
        single = make(4).reduce(dataclasses.replace(terms, **cut))
        torch.testing.assert_close(single, make(4).reduce(terms)[b : b + 1], rtol=1e-6, atol=0)


def test_renyi_does_not_increase_in_alpha_and_joins_the_others():
    model, x = Model(), data()
    terms = ELBO(9).terms(model, Off(model, 0.4, 0.7), x)
    values = [Renyi(a, 9).reduce(terms) for a in (-40.0, -1.0, 0.0, 0.5, 1 - 1e-6, 1.0, 1 + 1e-6, 3.0)]
    assert all((low - high).max() <= 1e-9 for high, low in itertools.pairwise(values))
    assert torch.equal(values[2], ImportanceWeighted(9).reduce(terms))
    assert torch.equal(values[5], ELBO(9).reduce(terms))
    torch.testing.assert_close(values[4], values[5], rtol=0, atol=1e-5)
    assert ((VRMax(9).reduce(terms) - values[0]).abs() < math.log(9) / 40).all()


@pytest.mark.parametrize("make", BOUNDS, ids=IDS)
def test_data_far_from_the_proposal_stay_finite(make):
    model = Model()
    guide = Off(model, d=40.0, v=0.01)
    x = data().float().requires_grad_()
    loss = make(6).differentiable_loss(model, guide, x)
    loss.backward()
    assert math.isfinite(loss.item()) and torch.isfinite(x.grad).all() and loss.item() > 1000


class WrongAxis(Bound):
    def reduce(self, terms):
        return terms.log_w.logsumexp(1) - math.log(terms.log_w.shape[1])


class LogSum(Bound):
    def reduce(self, terms):
        return terms.log_w.logsumexp(0)


class Joint(Bound):
    def reduce(self, terms):
        rows = terms.log_w.shape[1]
        return ((terms.log_w.sum(1).logsumexp(0) - math.log(self.num_particles)) / rows).expand(rows)


class ScaleInside(Bound):
    def reduce(self, terms):
        return ((terms.scale * terms.log_w).logsumexp(0) - math.log(self.num_particles)) / terms.scale


class OneTooMany(Bound):
    def reduce(self, terms):
        return terms.log_w.logsumexp(0) - math.log(self.num_particles + 1)


class WrongSign(Bound):
    def reduce(self, terms):
        return -((-terms.log_w).logsumexp(0) - math.log(self.num_particles))


@pytest.mark.parametrize("mutant", [WrongAxis, LogSum, Joint, ScaleInside, OneTooMany, WrongSign])
def test_the_value_test_catches_mutants(mutant):
    with pytest.raises(AssertionError):
        check_exact(mutant, 7, 4)
        check_against_closed_form(mutant, 0, subsample=[0, 3])


def test_free_bits_by_hand():
    """Two layers, one above the floor and one below: the batch mean of each KL is floored, not each row's."""

    def model(x):
        with pyro.plate("data", 3):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3):
            pyro.sample("a", dist.Normal(x, 0.2))
            pyro.sample("b", dist.Normal(0.01 * x, 1.0))

    x = torch.tensor([0.1, 2.0, -3.0])
    bound = FreeBits(0.25, num_particles=2)
    terms = bound.terms(model, guide, x)
    rates = {n: (terms.log_q[n] - terms.log_p[n]).mean().item() for n in "ab"}
    assert rates["a"] > 0.25 > rates["b"]
    expected = terms.log_lik.mean(0) - rates["a"] - 0.25
    torch.testing.assert_close(bound.reduce(terms), expected, rtol=1e-6, atol=0)
    # with no floor the batch's sum is the ELBO's
    free = FreeBits(0.0, 2).reduce(terms)
    assert bound.reduce(terms).sum() < free.sum()
    for bad in (-0.1, math.nan):
        with pytest.raises(ValueError, match="free"):
            FreeBits(bad)


class LadderPair:
    """Float64 two-layer pair; fresh per call so that gradients start empty."""

    def __init__(self):
        pyro.set_rng_seed(2)
        self.model = MarkovHVAE(6, z_dims=(3, 2), hidden=(7, 5)).double()
        self.guide = Ladder(self.model, Encoder(6, z_dims=(3, 2), hidden=(7, 5))).double()
        self.x = torch.bernoulli(torch.full((4, 6), 0.4, dtype=torch.float64))

    def run(self, objective):
        pyro.clear_param_store()
        parameters = [*self.model.parameters(), *self.guide.parameters()]
        for p in parameters:
            p.grad = None
        pyro.set_rng_seed(11)
        loss = objective.loss_and_grads(self.model, self.guide, self.x)
        return loss, torch.cat([p.grad.flatten() for p in parameters])


@pytest.mark.parametrize(
    ("ours", "pyros", "k"),
    [
        (ELBO, Trace_ELBO, 1),
        (ELBO, Trace_ELBO, 3),
        (AnalyticELBO, TraceMeanField_ELBO, 1),
        (AnalyticELBO, TraceMeanField_ELBO, 3),
        (ImportanceWeighted, lambda **kw: RenyiELBO(alpha=0, **kw), 3),
        (lambda k: Renyi(0.5, k), lambda **kw: RenyiELBO(alpha=0.5, **kw), 3),
    ],
    ids=["elbo1", "elbo3", "analytic1", "analytic3", "iw3", "renyi3"],
)
def test_equals_pyros_objective_and_gradient_where_that_is_right(ours, pyros, k):
    pair = LadderPair()
    loss, gradient = pair.run(ours(k))
    other, reference = pair.run(pyros(num_particles=k, vectorize_particles=k > 1, max_plate_nesting=1))
    assert loss == pytest.approx(other, rel=1e-12)
    torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


def test_the_gradient_of_the_importance_weighted_bound_is_the_weighted_one():
    model, x = Model(), data().requires_grad_()
    terms = ImportanceWeighted(6).terms(model, Off(model, 0.3, 0.7), x)
    (direct,) = torch.autograd.grad(ImportanceWeighted(6).reduce(terms).sum(), x, retain_graph=True)
    (weighted,) = torch.autograd.grad((terms.log_w.softmax(0).detach() * terms.log_w).sum(), x)
    torch.testing.assert_close(direct, weighted, rtol=1e-9, atol=1e-9)


def test_arguments_are_checked():
    for make in (lambda: ELBO(0), lambda: ELBO(2.0), lambda: ELBO(1, plates=-1), lambda: Renyi(math.inf)):
        with pytest.raises(ValueError, match=r"num_particles|plates|alpha"):
            make()
    with pytest.raises(TypeError, match="Silent must override reduce"):

        class Silent(Bound):
            pass

        model = Model()
        Silent().loss(model, Off(model), data())
