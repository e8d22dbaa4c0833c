"""A two-level Gaussian hierarchy, whose posterior and evidence are known: structured is exact, mean-field has its gap."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import Amortized, AmortizedStructured, MeanField, PerSite, Structured
from pyrarchy.inference import ELBO, fit, isolated
from pyrarchy.inference.terms import make_terms, trace_pair
from pyrarchy.zoo.networks import NormalHead

X = torch.tensor([0.7, -1.2, 2.1, 0.4, 1.6])
N, S = len(X), 0.8


class TwoLevel(PyroModule):
    """mu ~ N(0, 1), z_n ~ N(mu, 1), x_n ~ N(z_n, .8); ``plate`` other than "data" makes the data set one datum."""

    def __init__(self, plate="group", subsample_size=None):
        super().__init__("model")
        self.plate, self.subsample_size = plate, subsample_size

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate(self.plate, len(x), subsample_size=self.subsample_size, dim=-1) as rows:
            z = pyro.sample("z1", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, S), obs=x[rows])


def log_evidence():
    cov = torch.ones(N, N, dtype=torch.float64) + (1 + S**2) * torch.eye(N, dtype=torch.float64)
    return dist.MultivariateNormal(torch.zeros(N, dtype=torch.float64), cov).log_prob(X.double()).item()


def posterior():
    """Mean and sd of mu; z_n given mu is N((x_n + S^2 mu) / (1 + S^2), S^2 / (1 + S^2))."""
    precision = 1 + N / (1 + S**2)
    return (X.sum() / (1 + S**2) / precision).item(), precision**-0.5


def mean_field_gap():
    """The best factorised Gaussian has the precisions' diagonal: gap = (log det Lambda_diag - log det Lambda) / 2."""
    precision = torch.zeros(N + 1, N + 1, dtype=torch.float64)
    precision[0, 0] = 1 + N
    precision[0, 1:] = precision[1:, 0] = -1
    precision[1:, 1:] = (1 + S**-2) * torch.eye(N)
    return 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()


def value(model, guide, particles=4000):
    with isolated(model, guide, seed=1), torch.no_grad():
        log_w = make_terms(*trace_pair(model, guide, (X,), num_particles=particles), num_particles=particles).log_w
    return log_w.mean().item(), log_w.std().item()


def set_exact(guide):
    mean, sd = posterior()
    z_mean = (X + S**2 * mean) / (1 + S**2)
    z_sd = S / math.sqrt(1 + S**2)
    with torch.no_grad():
        for key, loc, scale in (("mu", torch.tensor(mean), sd), ("z1", z_mean, z_sd)):
            guide.locs[key].copy_(loc)
            guide.raw_scales[key].fill_(math.log(math.expm1(scale - 1e-6)))
        guide.couplings["z1"].fill_(S**2 / (1 + S**2) * sd / z_sd)  # dz/dmu in units of the two scales


def test_with_the_conjugate_numbers_every_weight_is_the_evidence():
    model = TwoLevel()
    guide = Structured(model, X)
    assert guide.couplings["z1"].shape == (N, 1) and "mu" not in guide.couplings
    set_exact(guide)
    mean, spread = value(model, guide)
    assert mean == pytest.approx(log_evidence(), abs=1e-5) and spread < 1e-5
    with torch.no_grad():
        guide.couplings["z1"].zero_()  # the same, uncoupled: a mean-field guide with the conditional scales
    assert log_evidence() - value(model, guide)[0] > 0.1


def train(model, guide, objective, steps=250, data=(X,), rate=0.1):
    fit(model, guide, data, objective=objective, optimizer=rate, steps=steps,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))  # fmt: skip
    return guide


def test_training_closes_the_gap_that_mean_field_keeps():
    model = TwoLevel()
    structured = train(model, Structured(model, X), ELBO(16, estimator="stl"))
    plain = train(model, MeanField(model, X), ELBO(16, estimator="stl"))
    assert value(model, structured)[0] == pytest.approx(log_evidence(), abs=1e-3)
    mean, spread = value(model, plain, 100_000)
    assert log_evidence() - mean == pytest.approx(mean_field_gap(), abs=4 * spread / 100_000**0.5 + 2e-3)
    assert mean_field_gap() > 0.15


def test_a_subsampled_plate_reaches_the_posterior_of_all_data():
    model = TwoLevel("data", subsample_size=2)
    guide = train(model, Structured(model, X), Trace_ELBO(32, vectorize_particles=True, max_plate_nesting=1), 700)
    mean, sd = posterior()
    assert guide.locs["mu"].item() == pytest.approx(mean, abs=0.1 * sd)
    assert guide.normal(guide._sites["mu"])[1].item() == pytest.approx(sd, rel=0.1)
    whole = TwoLevel()
    full = Structured(whole, X)
    full.load_state_dict({k: v for k, v in guide.state_dict().items() if not k.startswith("data.")})
    assert value(whole, full)[0] == pytest.approx(log_evidence(), abs=0.1)
    with pytest.raises(ValueError, match=r"'mu'.*global and local"):
        ELBO().value(model, guide, X)


class Network(nn.Module):
    """Affine in datum and globals, one scale for all: the exact family."""

    def __init__(self, site="z1"):
        super().__init__()
        self.head, self.site = NormalHead(2, 1), site
        nn.init.zeros_(self.head.loc.weight)

    def forward(self, h):
        return {self.site: self.head(h)}


def test_amortised_locals_reach_the_evidence_too_and_serve_new_data():
    model = TwoLevel()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = AmortizedStructured(model, Network(), X)
    train(model, guide, ELBO(16, estimator="stl"), 350)
    assert value(model, guide)[0] == pytest.approx(log_evidence(), abs=2e-2)
    assert set(guide.locs) == {"mu"} and not len(guide.couplings)
    assert guide(X[:3])["z1"].shape == (3,)


@pytest.mark.parametrize("particles", [1, 3])
def test_draws_have_the_model_s_shapes_under_particles(particles):
    class Vectors(PyroModule):
        """A global vector and scale; local vectors of another length."""

        def __init__(self):
            super().__init__("model")

        def forward(self, x):
            a = pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            b = pyro.sample("b", dist.HalfNormal(torch.ones(())))
            with pyro.plate("row", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1) + a.sum(-1), b), obs=x)

    model = Vectors()
    guide = Structured(model, X)
    assert {k: tuple(c.shape) for k, c in guide.couplings.items()} == {"b": (3,), "z": (N, 2, 4)}
    with torch.no_grad():
        for table in guide.couplings.values():
            table.normal_(0, 0.3)
    terms = ELBO(particles).terms(model, guide, X)
    assert terms.log_w.shape == (particles, 1)
    assert terms.values["z"].shape == ((particles, N, 2) if particles > 1 else (N, 2))
    # z reads b, and b's place among the globals moves with its coupling to a
    assert torch.autograd.grad(terms.values["z"].sum(), guide.couplings["b"], retain_graph=True)[0].abs().min() > 0
    terms.log_w.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in guide.parameters())


def test_misuse_is_named():
    def flat(x):
        with pyro.plate("row", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'z1'.*no global latent"):
        Structured(flat, X)
    model = TwoLevel("data")
    guide = Structured(model, X)
    with pytest.raises(ValueError, match=r"'z1'.*these data are others"):
        guide(X + 1)
    with pytest.raises(ValueError, match=r"'z1'.*plate 'group' of size 3.*size of 5"):
        Structured(m := TwoLevel(), X).__call__(X[:3]) or m
    wrong = AmortizedStructured(model, Network("z9"), X)
    with pytest.raises(ValueError, match=r"'z1'.*covers \['z9'\]"):
        wrong(X)


def exact_local(model):
    """q(z_n | x_n) at the posterior mean of mu: the mean-field optimum's locals, for any row."""
    return Amortized(model, lambda x: {"z1": dist.Normal((x + S**2 * posterior()[0]) / (1 + S**2), 0.6)})


def test_per_site_delegates_and_every_part_trains():
    model = TwoLevel()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = PerSite(model, {"mu": MeanField(model, X)}, default=AmortizedStructured(model, Network(), X))
    names = {name for name, _ in guide.named_parameters()}
    assert {n for n in names if "locs" in n} == {"part_0.locs.mu"}
    train(model, guide, ELBO(16, estimator="stl"), 350)
    assert value(model, guide)[0] == pytest.approx(log_evidence(), abs=2e-2)
    assert guide.part_0.locs["mu"].item() == pytest.approx(posterior()[0], abs=0.02)


def test_per_site_is_the_part_itself_where_one_serves_all():
    model = TwoLevel()
    alone = Structured(model, X)
    set_exact(alone)
    everything = PerSite(model, {lambda name: name.startswith(("mu", "z")): alone})
    mean, spread = value(model, everything)
    assert mean == pytest.approx(log_evidence(), abs=1e-5) and spread < 1e-5


def test_per_site_refuses_by_name():
    model = TwoLevel()
    mean_field = MeanField(model, X)
    with pytest.raises(ValueError, match=r"'z1'.*default"):
        PerSite(model, {"mu": mean_field})(X)
    with pytest.raises(ValueError, match=r"\['tau'\].*does not sample"):
        PerSite(model, {"mu": MeanField(model, X), "tau": exact_local(model)}, default=exact_local(model))(X)
    with pytest.raises(ValueError, match=r"site 'z1'.*another model"):
        PerSite(model, {"z1": exact_local(TwoLevel())})
    with pytest.raises(TypeError, match="site 'mu' is a function"):
        PerSite(model, {"mu": lambda x: x})
    with pytest.raises(TypeError, match="predicate, not 3"):
        PerSite(model, {3: exact_local(model)})
