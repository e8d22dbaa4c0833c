"""A ladder for the locals and mean-field for the global, against the exact gap of the best guide that factors so."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule

from pyrarchy.guides import Encoder, Ladder, MeanField, PerSite
from pyrarchy.inference import ELBO, fit, isolated
from pyrarchy.inference.terms import trace_pair

N, T, S = 24, 0.6, 0.8
X = 0.7 + torch.randn(N, 2, generator=torch.Generator().manual_seed(0)) + torch.linspace(-1, 1, N)[:, None]


class Groups(PyroModule):
    """mu ~ N(0, 1), z2_n ~ N(mu, 1), z1_n ~ N(z2_n 11', .6), x_n ~ N(z1_n, .8); ``rows`` of which a batch is a part."""

    def __init__(self, rows=None):
        super().__init__("model")
        self.rows = rows

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        with pyro.plate("data", self.rows or len(x), subsample_size=len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(mu, x.new_ones(1)).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 * x.new_ones(2), T).to_event(1))
            pyro.sample("x", dist.Normal(z1, S).to_event(1), obs=x)


def guide_of(model):
    """q(mu) q(z2 | x) q(z1 | z2, x): linear heads hold the best of this family."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ladder = Ladder(model, Encoder(2, (2, 1), ((), ())))
    return PerSite(model, {"mu": MeanField(model, X)}, default=ladder)


def log_evidence():
    eye, ones = (lambda n: torch.eye(n, dtype=torch.float64)), (lambda n: torch.ones(n, n, dtype=torch.float64))
    cov = ones(2 * N) + torch.kron(eye(N), ones(2)) + (T**2 + S**2) * eye(2 * N)
    return dist.MultivariateNormal(torch.zeros(2 * N, dtype=torch.float64), cov).log_prob(X.double().flatten()).item()


def exact_gap():
    """mu and all z2 kept apart, z1 exact given z2: (log det diag Lambda - log det Lambda) / 2 of p(mu, z2 | x)."""
    precision = torch.diag(torch.full((N + 1,), 1 + 2 / (T**2 + S**2), dtype=torch.float64))
    precision[0, 0] = 1 + N
    precision[0, 1:] = precision[1:, 0] = -1
    return 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()


def elbo(model, guide, particles=4000):
    """The ELBO of the whole data set and its standard error, by the sites' own densities."""
    with isolated(model, guide, seed=1), torch.no_grad():
        log_w = 0.0
        for sign, trace in zip((1, -1), trace_pair(model, guide, (X,), num_particles=particles), strict=True):
            trace.compute_log_prob()
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    log_w = log_w + sign * site["log_prob"].reshape(particles, -1).sum(-1)
    return log_w.mean().item(), log_w.std().item() / particles**0.5


@pytest.mark.parametrize(
    ("rows", "batch_size", "steps"), [(None, None, 400), (N, 6, 800)], ids=["whole", "minibatches"]
)
def test_trained_to_the_exact_gap(rows, batch_size, steps):
    """By Trace_ELBO, on all rows at once and on minibatches scaled to them."""
    model, whole = Groups(rows), Groups()
    guide, full = guide_of(model), guide_of(whole)
    assert {n for n, _ in guide.named_parameters() if "locs" in n} == {"part_0.locs.mu"}
    fit(model, guide, X, batch_size=batch_size, steps=steps, optimizer=0.05,
        objective=Trace_ELBO(16, max_plate_nesting=1, vectorize_particles=True),
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))  # fmt: skip
    full.load_state_dict(guide.state_dict())
    value, error = elbo(whole, full)
    assert exact_gap() == pytest.approx(0.193, abs=1e-3)
    assert -4 * error < log_evidence() - value - exact_gap() < 4 * error + 0.02


def test_the_ladder_reads_the_samples_above_it_and_the_top_is_its_evidence_alone():
    """z1 is the product of evidence and prior given z2; z2, below a global alone, is no product with its prior."""
    model = Groups()
    guide = guide_of(model)
    guide(X)
    model_trace, guide_trace = guide.get_traces()
    evidence = guide.part_1.encode(X)
    torch.testing.assert_close(guide_trace.nodes["z2"]["fn"].mean, evidence["z2"].mean)
    p, q, e = (
        site.base_dist for site in (model_trace.nodes["z1"]["fn"], guide_trace.nodes["z1"]["fn"], evidence["z1"])
    )
    torch.testing.assert_close(q.scale**-2, p.scale**-2 + e.scale**-2)
    torch.testing.assert_close(q.loc * q.scale**-2, p.loc * p.scale**-2 + e.loc * e.scale**-2)
    torch.testing.assert_close(p.loc, guide_trace.nodes["z2"]["value"].expand(N, 2))


def test_a_bound_per_datum_is_refused_by_name():
    model = Groups()
    with pytest.raises(ValueError, match=r"'mu'.*global and local"):
        ELBO().value(model, guide_of(model), X)
