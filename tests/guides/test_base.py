"""The guide's contract: broadcasting under particles, what is above a site, and misuse named by its site."""

from copy import deepcopy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import Guide
from pyrarchy.inference import ELBO, ImportanceWeighted, fit, trace_pair

B = 3


class Pair(PyroModule):
    """Two independent latents and their sum: p(b) ignores a, the posterior does not."""

    def __init__(self):
        super().__init__("model")
        self.shift = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(a + b + self.shift, 1.0).to_event(1), obs=x)


class TopDown(Guide):
    """The exact posterior: q(a | x) = N(x/3, 2/3), q(b | a, x) = N((x - a)/2, 1/2)."""

    def encode(self, x):
        return x

    def posterior(self, name, prior):
        if name == "a":
            return dist.Normal(self.evidence / 3, (2 / 3) ** 0.5).to_event(1)
        return dist.Normal((self.evidence - self.upstream_value("a")) / 2, 0.5**0.5).to_event(1)


class Says(Guide):
    """Answers what it is given."""

    def __init__(self, model, answer):
        super().__init__(model)
        self.answer = answer

    def posterior(self, name, prior):
        return self.answer(name, prior)


def log_p(x):
    return dist.Normal(0.0, 3**0.5).log_prob(x).sum(-1)


@pytest.mark.parametrize("k", [1, B, 5])
def test_a_q_that_depends_on_what_its_prior_ignores_broadcasts(k):
    model, x = Pair(), torch.randn(B, 2)
    terms = ImportanceWeighted(k).terms(model, TopDown(model), x)
    torch.testing.assert_close(terms.log_w, log_p(x).expand(k, B), rtol=0, atol=1e-5)


def test_under_particles_that_sample_b_before_a_broadcast_too():
    """A global latent under particles, and a local q that reads it where the local prior does not."""

    def model(x):
        pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(0.0, 1.0))

    class Reads(Guide):
        def posterior(self, name, prior):
            if name == "g":
                return dist.Normal(0.5, 1.0)
            return dist.Normal(self.upstream_value("g"), 1.0)

    model_trace, guide_trace = trace_pair(model, Reads(model), (torch.zeros(B),), num_particles=4)
    assert guide_trace.nodes["z1"]["value"].shape == model_trace.nodes["z1"]["value"].shape == (4, B)
    assert model_trace.nodes["z1"]["fn"].batch_shape == (4, B)
    # without particles the global is a number, and the guide's rows are still the plate's
    assert trace_pair(model, Reads(model), (torch.zeros(B),))[1].nodes["z1"]["value"].shape == (B,)


def test_top_means_no_latent_of_the_data_above():
    seen = {}

    def model(x):
        pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("seen", dist.Normal(0.0, 1.0), obs=x)
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z2)
            pyro.sample("z1", dist.Normal(z2, 1.0))

    class Asks(Guide):
        def posterior(self, name, prior):
            seen[name] = self.is_top()
            return prior

    Asks(model)(torch.zeros(B))
    assert seen == {"g": True, "z2": True, "z1": False}


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda n, p: dist.Normal(torch.zeros(3), 1.0).to_event(1), ValueError, r"site 'a'.*\(3,\).*\(2,\)"),
        (lambda n, p: dist.Normal(torch.zeros(B, 2), 1.0), ValueError, r"site 'a'.*\(\).*\(2,\).*to_event"),
        (lambda n, p: dist.Normal(torch.zeros(4, 2), 1.0).to_event(1), ValueError, r"site 'a'.*\(4,\).*\(3,\)"),
        (lambda n, p: pyro.sample("extra", p), ValueError, r"posterior\('a'\) sampled the site 'extra'"),
        (lambda n, p: None, TypeError, r"posterior\('a'\) returned NoneType"),
    ],
    ids=["event", "to_event", "batch", "sampling", "none"],
)
@pytest.mark.parametrize("k", [1, 5])
def test_misuse_names_the_site(answer, error, message, k):
    model = Pair()
    guide = Says(model, answer)
    with pytest.raises(error, match=message):
        ELBO(k).loss(model, guide, torch.randn(B, 2))
    # the failed pass leaves no state behind that would spoil the next
    guide.answer = lambda name, prior: prior
    assert ELBO(k).value(model, guide, torch.randn(B, 2)).shape == (B,)


def test_a_guide_without_posterior_is_named():
    with pytest.raises(TypeError, match="Guide must override posterior"):
        Guide(Pair())(torch.randn(B, 2))


def test_an_auxiliary_sample_inside_posterior_raises_too():
    def answer(name, prior):
        return pyro.sample(f"{name}_aux", prior, infer={"is_auxiliary": True})

    model = Pair()
    with pytest.raises(ValueError, match=r"'a_aux'.*cancel"):
        Says(model, answer)(torch.randn(B, 2))


def test_a_handler_around_the_model_argument_is_refused_and_around_the_call_obeyed():
    model, x = Pair(), torch.randn(B, 2)
    guide = TopDown(model)
    for other in (poutine.scale(model, scale=0.5), Pair()):
        with pytest.raises(ValueError, match="TopDown was built with another model"):
            ELBO().loss(other, guide, x)
    plain = ELBO().loss(model, guide, x)
    with poutine.scale(scale=0.5):
        assert ELBO().loss(model, guide, x) == pytest.approx(plain / 2, rel=1e-5)


@pytest.mark.parametrize("k", [1, 4])
def test_a_tensor_is_a_point_mass(k):
    model, x = Pair(), torch.randn(B, 2)
    guide = Says(model, lambda name, prior: torch.full((B, 2), 0.25 if name == "a" else -0.5))
    terms = ELBO(k).terms(model, guide, x)
    assert (terms.log_q["a"] == 0).all() and terms.log_q["b"].shape == (k, B)
    normal = dist.Normal(0.0, 1.0)
    expected = normal.log_prob(torch.tensor(0.25)) * 2 + normal.log_prob(torch.tensor(-0.5)) * 2
    expected = expected + dist.Normal(-0.25, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(terms.log_w, expected.expand(k, B), rtol=1e-5, atol=1e-5)


def test_copies_train_on_their_own():
    class Scaled(TopDown):
        def __init__(self, model):
            super().__init__(model)
            self.net = nn.Linear(2, 2)

        def posterior(self, name, prior):
            return dist.Normal(self.net(self.evidence), 0.7).to_event(1)

    model = Pair()
    guide = Scaled(model)
    x = torch.randn(7, 2)
    for used in (False, True):  # before and after the first pass
        if used:
            guide(x)
        copy_model, copy_guide = deepcopy((model, guide))
        assert copy_guide.model is copy_model and copy_guide.net is not guide.net
        before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
        fit(copy_model, copy_guide, x, steps=3, optimizer=0.1)
        assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *guide.parameters()), strict=True))
        assert not torch.equal(copy_guide.net.weight, guide.net.weight)
        assert not torch.equal(copy_model.shift, model.shift)
    fit(model, guide, x, steps=3, optimizer=0.1)  # the same seed: the original follows its copy, bit for bit
    assert torch.equal(copy_guide.net.weight, guide.net.weight)


def test_the_model_is_not_owned_and_keys_do_not_meet():
    model = Pair()
    guide = TopDown(model)
    assert list(guide.parameters()) == [] and not any(m is model for m in guide.modules())
    ELBO().loss(model, guide, torch.randn(B, 2))
    assert all(key.startswith("model") for key in pyro.get_param_store())


def test_a_call_returns_the_value_of_every_site():
    x = torch.randn(B, 2)
    guide = TopDown(Pair())
    values = guide(x)
    assert set(values) == {"a", "b", "x"} and values["x"] is x
    assert all(values[name] is guide.trace.nodes[name]["value"] for name in values)


@pytest.mark.stochastic
def test_pyro_accepts_it():
    model, x = Pair(), torch.randn(B, 2)
    guide = TopDown(model)
    loss = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, x)
    assert loss == pytest.approx(-log_p(x).sum().item(), rel=1e-5)
    drawn = Predictive(model, guide=guide, num_samples=2000, parallel=True, return_sites=["a", "b"])(x)
    assert drawn["a"].shape[0] == 2000
    a = drawn["a"].reshape(2000, B, 2)
    error = 4.5 * (2 / 3) ** 0.5 / 2000**0.5
    assert ((a.mean(0) - x / 3).abs() < error).all()
