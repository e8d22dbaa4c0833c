"""What is not a bound, a mean or a trustworthy estimate is never reported as one: each case was once got wrong."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule

from pyrarchy.guides import Guide
from pyrarchy.inference import (
    ELBO,
    AnalyticELBO,
    ImportanceWeighted,
    Renyi,
    Temper,
    decode,
    encode,
    evaluate,
    fit,
    reconstruct,
    sample,
)
from pyrarchy.inference.psis import pareto_k

N = 7


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z1", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def log_p(x):
    return dist.Normal(0.0, 2**0.5).log_prob(x)


def exact(x, extra=None):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z1", dist.Normal(x / 2, 0.5**0.5))
        if extra is not None:
            pyro.factor("extra", torch.full((len(x),), extra), has_rsample=True)


class FromEvidence(Guide):
    """A guide whose posterior is a function handed in."""

    def __init__(self, model, q):
        super().__init__(model)
        self.q = q
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def encode(self, x, *rest):
        return x

    def posterior(self, name, prior):
        return self.q(self.evidence + self.shift)


def test_a_point_mass_is_no_bound():
    """AutoDelta's objective at the mode exceeds log p(x): evaluate refuses it, and the record of a fit says so."""

    def wide(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(mu, 0.01), obs=x)

    x = torch.zeros(3)
    guide = AutoDelta(wide)
    record = fit(wide, guide, x, steps=3)
    assert not record.is_lower_bound and "['mu'] at a point" in record.remarks[0]
    with pytest.raises(ValueError, match=r"fixes site\(s\) \['mu'\] at a point"):
        evaluate(wide, guide, x, num_samples=30)
    with pytest.raises(ValueError, match=r"\['z1'\] at a point"):
        evaluate(model, FromEvidence(model, lambda e: e / 2), x, num_samples=30)


def test_a_factor_of_the_guide_is_part_of_its_density():
    """As in Pyro's own ELBO: a factor of 3 in an exact guide lowers the bound by 3."""
    x = torch.randn(N)

    def guide(x):
        exact(x, extra=3.0)

    assert torch.allclose(ELBO(2).value(model, guide, x), log_p(x) - 3.0, atol=1e-5)
    assert ELBO().loss(model, guide, x) == pytest.approx(Trace_ELBO().loss(model, guide, x), abs=1e-4)


@pytest.mark.parametrize("inside", ["factor", "observed"])
def test_nothing_may_be_scored_inside_posterior(inside):
    def q(evidence):
        if inside == "factor":
            pyro.factor("oops", torch.tensor(3.0))
        else:
            pyro.sample("oops", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))
        return dist.Normal(evidence / 2, 1.0)

    with pytest.raises(ValueError, match="'oops'"):
        ELBO().value(model, FromEvidence(model, q), torch.zeros(N))


def test_data_observed_in_the_guide_are_refused():
    def guide(x):
        exact(x)
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))

    with pytest.raises(ValueError, match="'y' is observed in the guide"):
        ELBO().value(model, guide, torch.zeros(N))


def test_infinite_k_hat_counts_and_few_samples_have_none():
    x = torch.linspace(-30, 30, 20)
    narrow = FromEvidence(model, lambda e: dist.Normal(torch.zeros(len(e)), 0.05))
    found = evaluate(model, narrow, x, num_samples=200)
    found.k_hat[:10] = torch.inf
    assert found.k_hat_shares()["do not trust"] >= 0.5
    assert evaluate(model, exact, x, num_samples=10).k_hat_shares() == {}
    assert torch.isnan(torch.as_tensor(pareto_k(torch.zeros(24, 3).numpy()))).all()
    assert (pareto_k(torch.zeros(25, 3).numpy()) == 0).all()


@pytest.mark.parametrize("k", [2, 10, 50])
def test_a_collapsed_unit_is_inactive_whatever_the_number_of_samples(k):
    x = torch.randn(90)
    collapsed = FromEvidence(model, lambda e: dist.Normal(torch.zeros(len(e)), 1.0))
    assert evaluate(model, collapsed, x, num_samples=k).active_units() == {"z1": (0, 1)}
    assert evaluate(model, exact, x, num_samples=k).active_units() == {"z1": (1, 1)}
    assert evaluate(model, exact, x, num_samples=1).active_units() == {}


def test_a_guide_that_knows_rows_by_position_answers_for_no_others():
    guide = AutoNormal(model)
    guide(torch.randn(9))
    for use in (encode, reconstruct, evaluate):
        with pytest.raises(ValueError, match=r"\['z1'\] and knows them by position"):
            use(model, guide, torch.randn(9))


def test_data_must_be_the_first_axis():
    def grouped(x):
        with pyro.plate("group", 2, dim=-2), pyro.plate("data", x.shape[-1], dim=-1):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("group", 2, dim=-2), pyro.plate("data", x.shape[-1], dim=-1):
            pyro.sample("z1", dist.Normal(x / 2, 0.5**0.5))

    with pytest.raises(ValueError, match="first axis of every argument"):
        evaluate(grouped, guide, torch.randn(2, 70), plates=2)


def test_masks_that_differ_have_no_analytic_kl():
    mask = torch.arange(N) < 3

    def masked(x):
        with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=mask):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="'z1' is masked differently"):
        AnalyticELBO().value(masked, exact, torch.zeros(N))
    value = AnalyticELBO().value(
        masked, poutine.mask(exact, mask=mask.clone()), torch.zeros(N)
    )  # equal, though another's
    assert (value[:3] < 0).all() and not value[3:].any()


@pytest.mark.parametrize("alpha", [0.9, 0.99, 0.999, 0.999999, 1.000001])
def test_renyi_keeps_its_digits_near_the_elbo(alpha):
    log_w = 3 * torch.randn(10, 5) - 40
    bound = Renyi(alpha, 10)
    assert torch.allclose(bound.of_weights(log_w).double(), bound.of_weights(log_w.double()), atol=3e-5)


def test_an_objective_that_stays_tempered_bounds_nothing():
    guide = FromEvidence(model, lambda e: dist.Normal(e / 2, 0.7))
    x = torch.randn(N)
    assert not fit(model, guide, x, steps=2, temper=Temper(stop=0.1)).is_lower_bound
    assert not fit(model, guide, x, steps=2, temper=Temper(steps=5)).is_lower_bound
    assert fit(model, guide, x, steps=9, temper=Temper(steps=5)).is_lower_bound


def test_a_scale_on_the_model_s_site_alone_leaves_log_q_alone():
    def scaled(x):
        with pyro.plate("data", len(x), dim=-1):
            with poutine.scale(scale=0.25):
                z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(N)
    pyro.set_rng_seed(2)
    expected = Trace_ELBO().loss(scaled, exact, x)
    pyro.set_rng_seed(2)
    assert ELBO().loss(scaled, exact, x) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        ImportanceWeighted(3).value(scaled, exact, x)


def test_looking_does_not_move_batch_statistics():
    """Preflight, the size of a batch and a frozen pass run the pair; only steps count in the buffers."""

    class Normed(PyroModule):
        def __init__(self):
            super().__init__("guide")
            self.norm = torch.nn.BatchNorm1d(1)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z1", dist.Normal(self.norm(x.unsqueeze(-1)).squeeze(-1), 1.0))

    for objective in (ELBO(), Trace_ELBO(), ImportanceWeighted(3, estimator="wake")):
        guide = Normed()
        fit(model, guide, torch.randn(N), steps=4, objective=objective)
        assert guide.norm.num_batches_tracked.item() == 4


def test_what_has_no_mean_says_so():
    def coins(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Categorical(torch.eye(3)[z] + 0.1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Categorical(torch.ones(len(x), 3)))

    x = torch.tensor([0, 1, 2, 1])
    with pytest.raises(ValueError, match="'z1' is categorical"):
        encode(coins, guide, x)
    assert encode(coins, guide, x, draws=5)["z1"].shape == (5, 4)
    for use in (lambda: reconstruct(coins, guide, x), lambda: sample(coins, (x,), 3, mean=True)):
        with pytest.raises(ValueError, match=r"'x' \(Categorical\) has no mean"):
            use()
    with pytest.raises(ValueError, match="has no mean"):
        decode(coins, (x,), {"z1": torch.tensor([0, 2])})


def test_a_deterministic_site_may_lie_outside_the_plate():
    def noted(x):
        pyro.deterministic("note", torch.zeros(()))
        model(x)

    x = torch.randn(N)
    assert torch.allclose(ELBO().value(noted, exact, x), log_p(x), atol=1e-5)


def test_resume_knows_its_data_and_its_rate(tmp_path):
    guide = FromEvidence(model, lambda e: dist.Normal(e / 2, 0.7))
    x = torch.randn(N)
    fit(model, guide, x, steps=2, out=tmp_path)
    with pytest.raises(ValueError, match="started with data"):
        fit(model, guide, x + 1, steps=4, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="started with optimiser"):
        fit(model, guide, x, steps=4, out=tmp_path, resume=True, optimizer=0.5)


@pytest.mark.stochastic
@pytest.mark.parametrize("bound", [ELBO, ImportanceWeighted, lambda k: Renyi(0.5, k)])
def test_bounds_on_a_subsampled_plate_rise_in_k_and_stay_below(bound):
    """A random minibatch's mean, scaled, is at most log p of all data, and no lower for K = 8 than for K = 1."""
    x = torch.randn(9)

    def part(x):
        with pyro.plate("data", 9, subsample_size=3, dim=-1) as rows:
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def wide(x):
        with pyro.plate("data", 9, subsample_size=3, dim=-1) as rows:
            pyro.sample("z1", dist.Normal(x[rows] / 2, 1.2))

    means, errors = [], []
    for k in (1, 8):
        values = torch.tensor([-bound(k).loss(part, wide, x) for _ in range(500)])
        means.append(values.mean())
        errors.append(values.std() / 500**0.5)
    assert means[1] >= means[0] - 4 * (errors[0] ** 2 + errors[1] ** 2).sqrt()
    assert means[1] <= log_p(x).sum() + 4 * errors[1]
