"""The grader graded: exact log p(x), analytic rates, units that are active by construction, chunks that do not matter."""

import ctypes
import math
import sys
import zlib

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import Exact, Guide
from pyrarchy.inference import evaluate
from pyrarchy.inference.log_weights import effective_number, error_over_data, log_mean
from pyrarchy.zoo import EightSchools
from pyrarchy.zoo.factor_analysis import FactorAnalysis

evaluate_module = sys.modules["pyrarchy.inference.evaluate"]  # the function of this name hides it
N = 23


def pair(offset=0.0, widen=1.0):
    """Factor analysis with a guide that is off by ``offset`` and ``widen``."""
    pyro.set_rng_seed(4)
    model = FactorAnalysis(5, 2)

    class Off(Guide):
        def encode(self, x):
            return model.posterior(x)

        def posterior(self, name, prior):
            q = self.evidence
            return dist.MultivariateNormal(q.mean + offset, scale_tril=widen * q.scale_tril)

    return model, Off(model), 1.5 * torch.randn(N, 5)


@pytest.mark.stochastic
def test_log_p_equals_the_exact_answer_within_its_error():
    model, guide, x = pair(0.1, 1.2)
    exact = model.log_marginal(x).detach().numpy()
    k = 4000
    graded = evaluate(model, guide, x, num_samples=k, rows_per_pass=7000)
    error = np.sqrt((1 / graded.ess - 1 / k).clip(0))  # of log mean w, from the effective sample size
    assert (np.abs(graded.log_p - exact) < 4.5 * error).all() and error.max() < 0.02
    # the ELBO's gap is KL(q || p) = (tr C^-1 S + d' C^-1 d - K - ln det ratio) / 2
    precision = model.posterior(x).precision_matrix[0].detach().numpy()
    d = np.full(2, 0.1)
    kl = 0.5 * (2 * 1.2**2 + d @ precision @ d - 2 - 4 * math.log(1.2))
    assert graded.mean_elbo == pytest.approx(exact.mean() - kl, abs=4.5 * kl / math.sqrt(k * N) * 3)
    assert graded.mean_log_p == pytest.approx(graded.log_p.mean())
    assert graded.error_log_p == pytest.approx(graded.log_p.std(ddof=1) / N**0.5)
    assert np.median(graded.k_hat) < 0.5 and graded.k_hat_shares()["good"] > 0.9
    assert graded.num_samples == k and len(graded.log_p) == N


def test_an_exact_guide_needs_one_sample_and_has_full_effect():
    model, _, x = pair()
    for k in (1, 2, 40):
        graded = evaluate(model, Exact(model), x, num_samples=k)
        np.testing.assert_allclose(graded.log_p, model.log_marginal(x).detach(), atol=1e-4)
        np.testing.assert_allclose(graded.elbo, graded.log_p, atol=1e-4)
        np.testing.assert_allclose(graded.ess, k, rtol=1e-4)


@pytest.mark.stochastic
def test_an_overconfident_guide_is_flagged():
    model, guide, x = pair(0.0, 0.25)
    graded = evaluate(model, guide, x, num_samples=2000, rows_per_pass=10_000)
    # two dimensions of variance 1/16: the tail index is 1 - 1/16 (a population value; single estimates scatter)
    assert np.median(graded.k_hat) > 0.7 and graded.k_hat_shares()["do not trust"] > 0.5
    assert graded.mean_log_p < model.log_marginal(x).mean().item() + 4.5 * graded.error_log_p


@pytest.mark.stochastic
def test_chunk_sizes_change_nothing_beyond_monte_carlo_error():
    model, guide, x = pair(0.1, 1.2)
    k = 600
    graded = [evaluate(model, guide, x, num_samples=k, rows_per_pass=rows) for rows in (29, 137, 1000, 10**6)]
    for one in graded:
        assert one.log_p.shape == one.k_hat.shape == (N,)
        error = np.sqrt(2 * (1 / graded[0].ess + 1 / one.ess - 2 / k).clip(1e-9))
        assert (np.abs(one.log_p - graded[0].log_p) < 4.5 * error).all()
        assert one.rates["z1"] == pytest.approx(graded[0].rates["z1"], abs=4.5 * 2 / math.sqrt(N * k))
        np.testing.assert_allclose(one.variances["z1"], graded[0].variances["z1"], rtol=0.1)
    again = evaluate(model, guide, x, num_samples=k, rows_per_pass=137)
    assert np.array_equal(again.log_p, graded[1].log_p)
    other = evaluate(model, guide, x, num_samples=k, rows_per_pass=137, seed=1)
    assert not np.array_equal(other.log_p, graded[1].log_p)
    assert evaluate(model, guide, x, num_samples=3, rows_per_pass=1).log_p.shape == (N,)


class Two(PyroModule):
    """z1 has three units; the data use the first two of them."""

    def __init__(self):
        super().__init__("model")

    def forward(self, x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z = pyro.sample("z1", dist.Normal(top.expand(*top.shape[:-1], 3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :2], 0.5).to_event(1), obs=x)


class Reads(PyroModule):
    """Units 0 and 1 follow the data with variances .25 and .0064; unit 2 and the layer above follow the prior."""

    def __init__(self):
        super().__init__("guide")

    def forward(self, x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = torch.stack([0.5 * x[:, 0], 0.08 * x[:, 1], torch.zeros(len(x))], -1)
            still = torch.tensor([0.0, 0.0, 1.0])
            scale = torch.tensor([0.3, 0.7, 1.0])
            pyro.sample("z1", dist.Normal(loc + still * top, scale).to_event(1))


@pytest.mark.stochastic
def test_the_weights_own_error_is_what_another_seed_changes():
    model, guide, x = pair(0.3, 1.5)
    k = 250  # enough for the log of a mean to be nearly normal
    graded = [evaluate(model, guide, x, num_samples=k, seed=s) for s in range(60)]
    spread = np.std([g.mean_log_p for g in graded], ddof=1)
    predicted = np.mean([g.error_weights for g in graded])
    assert spread == pytest.approx(predicted, rel=4.5 / math.sqrt(2 * 59))  # a standard deviation from 60 numbers
    assert predicted < 0.1 * graded[0].error_log_p  # the data vary more
    per_datum = np.std([g.log_p for g in graded], axis=0, ddof=1)
    assert per_datum == pytest.approx(np.mean([g.errors_weights for g in graded], 0), rel=4.5 / math.sqrt(2 * 59))
    assert graded[0].figures()["log_p_error_weights"] == graded[0].error_weights
    assert f"{graded[0].error_weights:.2g} nats, of the samples" in graded[0].table()
    assert math.isnan(evaluate(model, guide, x, num_samples=1).error_weights)


@pytest.mark.stochastic
def test_many_samples_hold_the_weights_of_few_data_at_a_time(monkeypatch):
    model, guide, x = pair(0.1, 1.2)
    whole, held = evaluate(model, guide, x, num_samples=500), []
    monkeypatch.setattr(evaluate_module, "MOST_WEIGHTS", 1500)
    monkeypatch.setattr("pyrarchy.inference.weigh.log_mean", lambda w: held.append(w.shape) or log_mean(w))
    parts = evaluate(model, guide, x, num_samples=500)
    assert set(held) == {(500, 3), (500, 2)}
    error = np.hypot(whole.errors_weights, parts.errors_weights)
    assert (np.abs(parts.log_p - whole.log_p) < 4.5 * error).all()
    evaluate(model, guide, x[:2], num_samples=2000)  # more than may be held: one datum at a time
    assert held[-1] == (2000, 1)


def test_weights_of_zero():
    log_w = np.array([[-np.inf, 0.0], [-np.inf, -np.inf]])
    assert log_mean(log_w).tolist() == [-np.inf, -math.log(2)]
    assert np.isnan(effective_number(log_w)[0]) and effective_number(log_w)[1] == 1.0


@pytest.mark.stochastic
def test_active_units_and_rates_by_construction():
    x = torch.randn(800, 2)
    x = (x - x.mean(0)) / x.std(0)
    graded = evaluate(Two(), Reads(), x, num_samples=50, rows_per_pass=50_000)
    variance = np.array([0.25, 0.0064, 0.0])
    # the variance of 800 means, each known up to sd/sqrt(50)
    noise = np.array([0.3, 0.7, 2**0.5]) ** 2 / 50
    error = 4.5 * np.sqrt(2 / 799) * (variance + noise)
    assert (np.abs(graded.variances["z1"] - variance) < error).all()
    assert graded.active_units() == {"z1": (1, 3), "z2": (0, 1)}
    # KL(q(z1) || p(z1 | z2)) averaged over z2 ~ N(0, 1) and x of mean zero and variance one
    by_hand = sum(0.5 * (s**2 + v + 1 - 1) - math.log(s) for s, v in ((0.3, 0.25), (0.7, 0.0064)))
    assert graded.rates["z1"] == pytest.approx(by_hand, abs=4.5 * 2 / math.sqrt(50 * 800))
    assert graded.rates["z2"] == pytest.approx(0.0, abs=1e-6)
    table = graded.table()
    assert "1 of 3" in table and table.index("z2") < table.index("z1")
    figures = graded.figures()
    assert figures["active_units"]["z1"] == [1, 3] and figures["num_data"] == 800


@pytest.mark.stochastic
def test_global_latents_are_one_datum():
    model = EightSchools()
    y, sigma = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])

    class Free(Guide):
        """theta from its exact conditional, tau from its prior, mu wide: the weights are bounded."""

        def encode(self, y, sigma):
            return y, sigma

        def posterior(self, name, prior):
            if name != "theta":
                return prior if name == "tau" else dist.Normal(4.4, 4.0)
            y, sigma = self.evidence
            precision = prior.scale**-2 + sigma**-2
            return dist.Normal((prior.loc * prior.scale**-2 + y * sigma**-2) / precision, precision**-0.5)

    graded = evaluate(model, Free(model), (y, sigma), num_samples=20_000, rows_per_pass=5000)
    error = float(np.sqrt(1 / graded.ess[0]))
    assert graded.log_p.shape == (1,) and error < 0.03
    assert graded.mean_log_p == pytest.approx(-31.311348, abs=4.5 * error)
    assert math.isnan(graded.error_log_p) and graded.variances == {} and set(graded.rates) == {"mu", "tau", "theta"}
    assert "+-" not in graded.table()


def test_it_leaves_everything_as_it_was_and_freezes_what_depends_on_the_mode():
    class Noisy(PyroModule):
        def __init__(self):
            super().__init__("guide")
            self.net = nn.Sequential(nn.Linear(5, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z1", dist.Normal(self.net(x), 1.0).to_event(1))

    model, _, x = pair()
    guide = Noisy()
    state = {n: t.clone() for n, t in guide.state_dict().items()}
    before = torch.get_rng_state()
    evaluate(model, guide, x, num_samples=3)
    assert torch.equal(before, torch.get_rng_state()) and guide.training and guide.net[1].training
    assert all(torch.equal(t, state[n]) for n, t in guide.state_dict().items())
    assert all(p.grad is None for p in guide.parameters()) and not list(pyro.get_param_store())


def test_rates_weigh_all_data_alike_whatever_the_chunks():
    """Where x does not depend on z the ELBO is log p(x) minus the rate, draw by draw; seven rows go as five and two."""

    def deaf(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(x.unsqueeze(-1), 0.5).to_event(1))

    x = torch.tensor([0.1, -0.3, 0.2, 0.0, 0.4, 3.0, -4.0])
    graded = evaluate(deaf, guide, x, num_samples=40, rows_per_pass=10)
    log_p = dist.Normal(0.0, 1.0).log_prob(x).mean().item()
    assert graded.rates["z1"] == pytest.approx(log_p - graded.mean_elbo, abs=1e-5)
    kl = 0.5 * (x.square() + 0.25 - 1) - math.log(0.5)
    assert graded.unit_rates["z1"] == pytest.approx([kl.mean().item()], abs=1e-5)
    assert graded.variances["z1"] == pytest.approx(
        [x.var().item()], rel=1e-5
    )  # the means are known, so nothing is noise


def test_the_error_of_a_mean_needs_two_data():
    assert error_over_data(np.array([1.0, 3.0])) == pytest.approx(1.0)
    assert error_over_data(np.array([1.0, 3.0, 8.0])) == pytest.approx((13 / 3) ** 0.5)
    assert math.isnan(error_over_data(np.array([1.0])))


def test_misuse_is_named():
    model, guide, x = pair()
    with pytest.raises(ValueError, match="num_samples"):
        evaluate(model, guide, x, num_samples=0)

    def halves(x):
        with pyro.plate("data", 2 * len(x), subsample=torch.arange(len(x))):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def half_guide(x):
        with pyro.plate("data", 2 * len(x), subsample=torch.arange(len(x))):
            pyro.sample("z1", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="the data themselves"):
        evaluate(halves, half_guide, torch.randn(4))


def test_a_model_without_arguments():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Normal(0.5, 0.5**0.5))

    graded = evaluate(model, guide, None, num_samples=5)
    assert graded.mean_log_p == pytest.approx(dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)).item(), abs=1e-5)


class Bent(Guide):
    """Reads x through a layer (steady for one chunk), with a Student's posterior, whose mean may not exist."""

    def __init__(self, model):
        super().__init__(model)
        self.layer = nn.Linear(5, 4)

    def encode(self, x):
        return self.layer(x)

    def posterior(self, name, prior):
        loc, df = self.evidence.split(2, -1)
        return dist.StudentT(0.9 + df.exp(), loc.tanh(), 0.8).to_event(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recorded_passes_give_the_same_bits(dtype, monkeypatch):
    ran = []
    staged = sys.modules["pyrarchy.inference.tape_stages"].Staged
    call = staged.__call__
    monkeypatch.setattr(staged, "__call__", lambda self, batch, inputs: ran.append(1) or call(self, batch, inputs))
    model, _, x = pair()
    pyro.set_rng_seed(3)
    guide = Bent(model)
    model, guide, x = model.to(dtype), guide.to(dtype), x.to(dtype)
    # 23 data in chunks of 6 and of 5, 113 draws in passes of 6 and of 5
    taped, plain = (evaluate(model, guide, x, num_samples=113, rows_per_pass=16, tape=on) for on in (True, False))
    assert len(ran) > 180  # in every part of the data
    for name in ("log_p", "elbo", "k_hat", "ess"):
        np.testing.assert_array_equal(getattr(taped, name), getattr(plain, name), err_msg=name)
    assert taped.rates == plain.rates
    for name in ("variances", "unit_rates"):
        one, other = getattr(taped, name), getattr(plain, name)
        assert one.keys() == other.keys() == {"z1"}
        np.testing.assert_array_equal(one["z1"], other["z1"], err_msg=name)


def test_what_no_recording_sees_is_found_out_at_each_part_of_the_data():
    """The guide reads the memory of the data itself; the first replay of each part runs beside Pyro."""
    model, guide, x = pair(0.0, 1.2)

    class Reads(type(guide)):
        def encode(self, x):
            q, seen = super().encode(x), zlib.crc32(ctypes.string_at(x.data_ptr(), 20)) % 7
            return dist.MultivariateNormal(q.mean + 0.01 * seen, scale_tril=q.scale_tril)

    reads = Reads(model)
    taped, plain = (evaluate(model, reads, x, num_samples=60, rows_per_pass=16, tape=on) for on in (True, False))
    np.testing.assert_array_equal(taped.log_p, plain.log_p)
