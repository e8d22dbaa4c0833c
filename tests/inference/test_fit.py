"""Training: the numbers are decided by the seed alone, survive a kill, and nothing global is left behind."""

import contextlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader, TensorDataset

import pyrarchy
from pyrarchy.guides import Encoder, Ladder
from pyrarchy.inference import (
    ELBO,
    AnalyticELBO,
    Batches,
    DivergedError,
    FreeBits,
    ImportanceWeighted,
    Temper,
    evaluate,
    fit,
    isolated,
    load_state,
)
from pyrarchy.inference.continuation import load_modules
from pyrarchy.zoo import MarkovHVAE

N = 11
PIXELS = torch.rand(N, 5, generator=torch.Generator().manual_seed(0))
X = (PIXELS > 0.5).float()


def ladder(seed=3):
    """A pair with everything that a checkpoint must hold: shared modules, dropout, running statistics."""
    torch.manual_seed(seed)
    model = MarkovHVAE(5, z_dims=(3, 2), hidden=(7, 6))
    encoder = Encoder(5, z_dims=(3, 2), hidden=(7, 6))
    encoder.blocks[0].append(nn.Sequential(nn.BatchNorm1d(7), nn.Dropout(0.3)))
    return model, Ladder(model, encoder)


def state_of(model, guide):
    return {f"{i}.{n}": t.clone() for i, m in enumerate((model, guide)) for n, t in m.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def binarize(pixels):
    return torch.bernoulli(pixels)


class Killed(Exception):
    pass


def kill_at(step):
    def callback(now):
        if now.step == step:
            raise Killed

    return callback


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.05, momentum=0.9)


CASES = {
    "whole": lambda: (X, {}),
    "minibatches": lambda: (X, {"batch_size": 4}),
    "binarized": lambda: (Batches(PIXELS, 3, seed=2, transform=binarize), {}),
    "temper": lambda: (X, {"batch_size": 4, "temper": Temper(steps=9)}),
    "schedule": lambda: (X, {"batch_size": 4, "schedule": lambda t: 1 / (1 + t), "optimizer": sgd}),
    "weights": lambda: (X, {"batch_size": 4, "objective": ImportanceWeighted(3)}),
    "list": lambda: ([X[:5], (X[5:],)], {}),
    "loader": lambda: (DataLoader(TensorDataset(X), batch_size=4, shuffle=True), {}),
}


@pytest.mark.parametrize("killed", [6, 8, 10])  # 4: in the middle of an epoch of three steps; 6: at its end
@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_ends_on_the_same_bits(case, killed, tmp_path):
    options = {"optimizer": 0.02, "seed": 5, "steps": 13, "save_every": 2}

    def run(pair, **more):
        data, special = CASES[case]()
        return fit(*pair, data, **{**options, **special, **more})

    straight = ladder()
    record = run(straight)
    with pytest.raises(Killed):
        run(ladder(), out=tmp_path, callbacks=[kill_at(killed)])
    saved = load_state(tmp_path / "checkpoint.npz")["step"]
    assert saved == killed - 2 + killed % 2
    torch.rand(killed)  # whatever else the new process did
    resumed = ladder(seed=8)
    again = run(resumed, out=tmp_path, resume=True)
    assert same(state_of(*straight), state_of(*resumed))
    assert again.losses == record.losses and again.values == record.values and again.step == 13
    assert again.grad_norms == record.grad_norms and again.temperatures == record.temperatures


def test_a_run_may_be_continued_after_its_end_and_stays_when_it_is_over(tmp_path):
    straight, parts = ladder(), ladder()
    whole = fit(*straight, X, batch_size=4, epochs=5)
    for epochs in (1, 3, 3, 5):  # 3 epochs: ends at the end of an epoch
        record = fit(*parts, X, batch_size=4, epochs=epochs, out=tmp_path, resume=True)
        assert record.step == 3 * epochs
    assert same(state_of(*straight), state_of(*parts)) and record.losses == whole.losses
    history = (tmp_path / "history.csv").read_text().splitlines()
    assert len(history) == 16 and history[0] == "step,loss,value,temperature,grad_norm,learning_rate"
    assert float(history[-1].split(",")[1]) == pytest.approx(whole.losses[-1], rel=1e-7)


def test_a_damaged_checkpoint_falls_back_one_generation_says_so_and_ends_the_same(tmp_path):
    straight, resumed = ladder(), ladder()
    record = fit(*straight, X, batch_size=4, steps=9)
    fit(*ladder(), X, batch_size=4, steps=6, out=tmp_path, save_every=2)
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-500])
    again = fit(*resumed, X, batch_size=4, steps=9, out=tmp_path, resume=True)
    assert same(state_of(*straight), state_of(*resumed)) and again.losses == record.losses
    assert len(again.remarks) == 1 and "generation before" in again.remarks[0]


def test_the_same_run_writes_the_same_bytes(tmp_path):
    for name in "ab":
        fit(*ladder(), X, batch_size=4, steps=5, out=tmp_path / name)
    a, b = ((tmp_path / name / "checkpoint.npz").read_bytes() for name in "ab")
    assert a == b


SCRIPT = """
import os, sys
sys.path.insert(0, {folder!r})
from test_fit import X, ladder, state_of
from pyrarchy.inference import fit
import numpy as np
import torch
torch.set_num_threads(1)  # as in these tests: the number of threads decides the order of sums
pair = ladder(4)
fit(*pair, X, batch_size=4, steps=7)
np.savez({out!r} + "/second.npz", **{{n: t.numpy() for n, t in state_of(*pair).items()}})
fit(*ladder(3), X, batch_size=4, steps=9, out={out!r}, save_every=2,
    callbacks=[lambda step: os._exit(9) if step.step == 6 else None])
"""


def test_one_process_equals_two_and_a_dead_process_is_continued(tmp_path):
    script = SCRIPT.format(folder=str(Path(__file__).parent), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    first, second = ladder(3), ladder(4)
    fit(*first, X, batch_size=4, steps=9)
    fit(*second, X, batch_size=4, steps=7)
    with np.load(tmp_path / "second.npz") as there:
        here = state_of(*second)
        assert set(there) == set(here) and all(np.array_equal(there[n], here[n].numpy()) for n in here)
    resumed = ladder(5)
    assert load_state(tmp_path / "checkpoint.npz")["step"] == 4
    fit(*resumed, X, batch_size=4, steps=9, out=tmp_path, resume=True)
    assert same(state_of(*first), state_of(*resumed))


@pytest.mark.parametrize("fails", [False, True])
def test_generators_store_modes_and_validation_are_restored(fails):
    model, guide = ladder()
    guide.encoder.eval()
    pyro.param("mine", torch.ones(2))
    validation = is_validation_enabled()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with contextlib.suppress(Killed):
        fit(model, guide, X, steps=2, callbacks=[kill_at(1)] if fails else [])
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert model.training and not guide.encoder.training and not guide.encoder.blocks[0].training
    assert set(pyro.get_param_store()) == {"mine"}
    assert is_validation_enabled() is validation


def coin(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z1", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, pyro.param("width", torch.tensor(1.5), constraint=constraints.positive)), obs=x)


def coin_guide(x):
    slope = pyro.param("slope", torch.tensor(0.1))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z1", dist.Normal(slope * x, scale))


def test_free_parameters_train_in_the_store_to_the_exact_answer(tmp_path):
    x = torch.randn(400)
    x = 2.0 * (x - x.mean()) / x.std(unbiased=False)  # variance 4 = 1 + width^2
    half = fit(coin, coin_guide, x, steps=150, optimizer=0.05, objective=AnalyticELBO(5), out=tmp_path)
    assert set(pyro.get_param_store()) == {"width", "slope", "scale"}
    pyro.clear_param_store()
    fit(coin, coin_guide, x, steps=300, optimizer=0.05, objective=AnalyticELBO(5), out=tmp_path, resume=True,
        schedule=lambda t: 1.0 if t < 200 else 0.1)  # fmt: skip
    assert pyro.param("width").item() == pytest.approx(3**0.5, rel=0.03)
    assert pyro.param("slope").item() == pytest.approx(1 / 4, rel=0.05)
    assert pyro.param("scale").item() == pytest.approx((3 / 4) ** 0.5, rel=0.05)
    exact = dist.Normal(0.0, 2.0).log_prob(x).mean().item()
    graded = evaluate(coin, coin_guide, x, num_samples=50, rows_per_pass=20_000)
    assert graded.mean_log_p == pytest.approx(exact, abs=0.002) and graded.mean_elbo == pytest.approx(exact, abs=0.01)
    assert half.values[-1] > half.values[0]


class Scaled(PyroModule):
    def __init__(self):
        super().__init__("model")
        self.width = PyroParam(torch.tensor(1.5, dtype=torch.float64), constraint=constraints.positive)
        self.net = nn.Linear(2, 3).double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.width).to_event(1), obs=x)


class Linear(PyroModule):
    def __init__(self):
        super().__init__("guide")
        self.net = nn.Linear(3, 2).double()
        self.width = PyroParam(torch.full((2,), 0.8, dtype=torch.float64), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(self.net(x), self.width).to_event(1))


def scaled():
    torch.manual_seed(2)
    return Scaled(), Linear()


REAL = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), AnalyticELBO(), ImportanceWeighted(4)], ids=repr)
def test_one_optimiser_equals_pyros_svi_with_adam_pyroparams_included(objective):
    """Adam's 1e-8 meets gradients per datum here and per data set there, so weights agree to about that."""
    a, b, c = scaled(), scaled(), scaled()
    record = fit(*a, REAL, objective=objective, steps=20, seed=7, clip_norm=None,
                 optimizer=lambda p: torch.optim.Adam(p, 0.02, eps=0.0))  # fmt: skip
    pyro.set_rng_seed(7)
    svi = SVI(*b, pyro.optim.Adam({"lr": 0.02, "eps": 0.0}), loss=objective)
    losses = [svi.step(REAL) / N for _ in range(20)]
    assert record.losses == pytest.approx(losses, rel=1e-10)
    pyro.clear_param_store()
    optimiser = torch.optim.Adam([*c[0].parameters(), *c[1].parameters()], 0.02, eps=0.0)
    pyro.set_rng_seed(7)
    direct = []
    for _ in range(20):
        pyro.clear_param_store()
        optimiser.zero_grad()
        loss = objective.differentiable_loss(*c, REAL)
        loss.backward()
        optimiser.step()
        direct.append(loss.item() / N)
    assert direct == pytest.approx(losses, rel=1e-12)
    for other in (b, c):
        for name, value in state_of(*a).items():
            torch.testing.assert_close(state_of(*other)[name], value, rtol=1e-8, atol=1e-10)
    assert all(n in state_of(*a) for n in ("0.width_unconstrained", "1.width_unconstrained"))


def test_the_loss_is_the_same_after_save_and_load(tmp_path):
    for make, data in ((scaled, REAL), (ladder, X)):
        trained = make()
        fit(*trained, data, steps=3, optimizer=0.1, out=tmp_path / make.__name__)

        def value(pair, data=data):
            with isolated(*pair, seed=1):
                return ELBO(5).loss(*pair, data)

        torch.manual_seed(77)
        fresh = make()
        start = value(fresh)
        load_modules(*fresh, load_state(tmp_path / make.__name__ / "checkpoint.npz"))
        assert value(fresh) == value(trained) != start


def test_epochs_are_steps_and_a_smaller_last_batch_counts_by_its_own_size():
    a, b = ladder(), ladder()
    by_epoch, by_step = (fit(*a, X, batch_size=4, epochs=2), fit(*b, X, batch_size=4, steps=6))
    assert by_epoch.losses == by_step.losses and by_epoch.step == 6 and same(state_of(*a), state_of(*b))
    ones = torch.ones(N, 5)  # all rows alike, and an exact guide: every step's loss per datum is -log p(x)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(pyro.param("m", torch.zeros(5)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal((x + pyro.param("m", torch.zeros(5))) / 2, 0.5**0.5).to_event(1))

    expected = -dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)).item() * 5
    for size in (None, 3, 4, N):
        pyro.clear_param_store()
        record = fit(model, guide, ones, batch_size=size, steps=5, optimizer=0.0)
        assert record.losses == pytest.approx([expected] * 5, rel=1e-5)
        assert record.values == pytest.approx([-expected] * 5, rel=1e-5)


def test_callbacks_stop_see_the_step_and_may_evaluate_without_changing_a_bit():
    seen, straight, watched = [], ladder(), ladder()

    def watch(step):
        seen.append((step.step, step.epoch, step.loss == step.record.losses[-1], step.model is watched[0]))
        evaluate(step.model, step.guide, X, num_samples=3)
        return step.step == 5

    record = fit(*watched, X, batch_size=4, epochs=9, callbacks=[watch, lambda step: None])
    fit(*straight, X, batch_size=4, steps=5)
    assert record.step == len(record.losses) == 5 and same(state_of(*straight), state_of(*watched))
    assert seen == [(1, 0, True, True), (2, 0, True, True), (3, 0, True, True), (4, 1, True, True), (5, 1, True, True)]


def test_a_loss_that_is_not_finite_names_its_site_and_keeps_the_checkpoint(tmp_path):
    pair = scaled()
    bad = REAL.clone()
    bad[4] = math.inf
    data = [REAL[:4], REAL[4:8], bad[4:8]]
    with pytest.raises(DivergedError, match=rf"step 3: .*model site 'x'.*{tmp_path}"):
        fit(*pair, data, epochs=2, out=tmp_path, save_every=1)
    assert load_state(tmp_path / "checkpoint.npz")["step"] == 2
    assert all(torch.isfinite(t).all() for t in state_of(*pair).values())  # the bad step was not taken
    again = scaled()
    record = fit(*again, data[:2], steps=4, out=tmp_path, resume=True)
    assert record.step == 4 and all(map(math.isfinite, record.losses))


def test_the_gradient_is_clipped_by_its_global_norm():
    free, clipped = scaled(), scaled()
    start = torch.cat([p.detach().flatten() for m in free for p in m.parameters()])

    def step(pair, clip):
        record = fit(*pair, REAL, steps=1, clip_norm=clip, optimizer=lambda p: torch.optim.SGD(p, 1.0))
        return torch.cat([p.detach().flatten() for m in pair for p in m.parameters()]) - start, record.grad_norms[0]

    (whole, norm), (cut, shown) = step(free, None), step(clipped, 0.01)
    assert norm == shown == pytest.approx(whole.norm().item(), rel=1e-9) and norm > 0.1
    torch.testing.assert_close(cut, whole * 0.01 / norm, rtol=1e-4, atol=1e-12)


def test_the_schedule_is_a_factor_on_the_first_rate_and_does_not_add_up():
    model, guide = ladder()
    record = fit(model, guide, X, optimizer=0.1, schedule=lambda t: (1.0, 0.5, 0.5, 0.25)[t], steps=4, seed=1)
    assert record.learning_rates == pytest.approx([0.1, 0.05, 0.05, 0.025])


def test_pyros_objective_with_a_single_parameter_counts_per_datum():
    """Seven rows, one free number: the loss is the ELBO of the data over seven, and its gradient too."""
    x = torch.linspace(-1, 2, 7)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(slope * x, 0.5**0.5))

    record = fit(model, guide, (x,), objective=Trace_ELBO(), steps=1, optimizer=lambda p: torch.optim.SGD(p, 1e-3))
    exact = -dist.Normal(0.0, 2**0.5).log_prob(x).mean().item()  # the guide is the posterior, so every draw says so
    assert record.losses == pytest.approx([exact], rel=1e-5) and record.values == [-record.losses[0]]


@pytest.mark.parametrize("objective", [ELBO(), Trace_ELBO()], ids=["ours", "pyro's"])
def test_gradients_of_earlier_steps_are_gone(objective):
    """A point mass leaves nothing to chance, and a rate of nothing leaves it in its place: each step has one gradient."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Delta(slope * x))

    x = torch.linspace(-1, 2, 7)
    record = fit(model, guide, (x,), objective=objective, steps=4, optimizer=lambda p: torch.optim.SGD(p, 1e-20))
    exact = (0.2 * x * x - 0.8 * x * x).mean().abs().item()  # d/ds of (s x)^2 / 2 + (x - s x)^2 / 2
    assert record.grad_norms == pytest.approx([exact] * 4, rel=1e-5)


def test_arguments_are_checked(tmp_path):
    pair = ladder()
    for bad in ({}, {"steps": 1, "epochs": 1}):
        with pytest.raises(ValueError, match="exactly one of steps and epochs"):
            fit(*pair, X, **bad)
    with pytest.raises(ValueError, match="needs the folder"):
        fit(*pair, X, steps=1, resume=True)
    with pytest.raises(TypeError, match="generator"):
        fit(*pair, (x for x in (X,)), steps=1)
    with pytest.raises(TypeError, match="ndarray"):
        fit(*pair, X.numpy(), steps=1)
    fit(*pair, X, steps=1, out=tmp_path, seed=1)
    with pytest.raises(ValueError, match="seed 1, not 2"):
        fit(*ladder(), X, steps=2, out=tmp_path, resume=True, seed=2)
    with pytest.raises(ValueError, match="another pair"):
        fit(*scaled(), REAL, steps=2, out=tmp_path, resume=True, seed=1)


def test_resume_refuses_another_setting(tmp_path):
    """Batch size and objective decide the numbers to come, so a resumed run must have the same."""
    fit(*ladder(), X, steps=3, batch_size=4, out=tmp_path)
    with pytest.raises(ValueError, match=r"started with \(batch size, rows\) \(4, \d+\), not \(3, \d+\)"):
        fit(*ladder(), X, steps=5, batch_size=3, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="started with objective ELBO"):
        fit(*ladder(), X, steps=5, batch_size=4, out=tmp_path, resume=True, objective=FreeBits(0.1))


def test_divergence_met_by_validation_is_still_divergence(tmp_path):
    """A batch of a new shape runs with validation on, which meets the damage of the step before it first."""
    rows = X[:7]

    def spoil(step):
        if step.step == 1:
            with torch.no_grad():
                next(step.model.parameters()).fill_(torch.nan)

    with pytest.raises(DivergedError, match="step 2"):
        fit(*ladder(), rows, steps=4, batch_size=4, callbacks=[spoil], out=tmp_path)


def test_a_frozen_parameter_stays_frozen():
    """Pyro turns requires_grad on again at every read of a PyroModule's own parameter; fit does not train it."""
    model, guide = pyrarchy.get_pair("linear_vae")(pyrarchy.load_data("digits"), z_dim=3)
    model.requires_grad_(False)
    before = {n: p.clone() for n, p in model.named_parameters()}
    weight = guide.encoder.heads[0].loc.weight
    moved = weight.clone()
    fit(model, guide, torch.rand(9, 64), steps=3)
    assert all(
        torch.equal(p, before[n]) and not p.requires_grad and p.grad is None for n, p in model.named_parameters()
    )
    assert not torch.equal(weight, moved)
