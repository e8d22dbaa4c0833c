"""One thread or all: the timing leaves no trace in the numbers, and what it settled is kept by a resumed run."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import Amortized, Encoder, Ladder
from pyrarchy.inference import ELBO, Batches, DivergedError, fit, isolated, load_state, threads
from pyrarchy.inference.loop import Loop
from pyrarchy.inference.rehearsal import Rehearsal
from pyrarchy.zoo import MarkovHVAE, Normalised

from .test_nothing_lost import vae_pair

ONE, ALL = {1: 0.1, 2: 0.3}, {1: 0.3, 2: 0.1}  # seconds of a step, by the number of threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """Torch says that it has two threads and takes any other number, but has one: on a busy machine two take a minute."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    now = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: now.__setitem__(0, number))
    yield
    assert now == [2]


@pytest.fixture
def pace(monkeypatch):
    """Function of a table like ONE: steps seem to take so long, and every training is long enough."""
    monkeypatch.setattr(threads, "SHORT", 0.0)

    def seem(table):
        def seconds_of(step):
            step()
            return table[torch.get_num_threads()]

        monkeypatch.setattr(threads, "seconds_of", seconds_of)

    return seem


def trained(out, number, steps=9, resume=False):
    """A ladder with batch normalisation trained on grey values, binarised anew at every use; returns the record."""
    torch.manual_seed(3)
    parts = {"z_dims": (3, 2), "hidden": (7, 6), "activation": Normalised(nn.LeakyReLU)}
    model = MarkovHVAE(5, **parts)
    guide = Ladder(model, Encoder(5, **parts))
    batches = Batches(torch.rand(11, 5), 4, seed=2, transform=torch.bernoulli)
    return fit(model, guide, batches, steps=steps, seed=1, out=out, threads=number, resume=resume)


@pytest.mark.parametrize(("table", "number"), [(ONE, 1), (ALL, 2), ({1: 0.1, 2: 0.095}, 1)])
def test_the_faster_number_is_taken_and_the_timing_leaves_no_trace(table, number, pace, tmp_path):
    """The same bytes as with the number asked for: weights, batch statistics, generators. Near enough, one is taken."""
    pace(table)
    found = trained(tmp_path / "auto", "auto")
    asked = trained(tmp_path / "asked", number)
    assert (found.threads, asked.threads) == (number, number)
    assert f"ms on 1, {1e3 * table[2]:.3g} ms on 2" in found.threads_why and asked.threads_why == "as asked"
    first, second = ((tmp_path / name / "checkpoint.npz").read_bytes() for name in ("auto", "asked"))
    assert first == second


def test_a_resumed_run_keeps_the_number_and_its_bits(pace, tmp_path):
    pace(ALL)
    trained(tmp_path / "whole", "auto")
    trained(tmp_path / "run", "auto", steps=4)
    pace(ONE)
    record = trained(tmp_path / "run", "auto", resume=True)
    assert record.describe_threads() == "2 threads (as before)"
    first, second = ((tmp_path / name / "checkpoint.npz").read_bytes() for name in ("whole", "run"))
    assert first == second and load_state(tmp_path / "run" / "checkpoint.npz")["threads"] == 2


def test_nothing_is_timed_where_it_is_not_worth_it_or_not_wanted(monkeypatch, tmp_path):
    model, guide, x = vae_pair()
    monkeypatch.setattr(threads, "time_steps", None)
    record = fit(model, guide, x, steps=2, threads="auto")
    assert record.describe_threads() == "1 thread (not timed: a short run)"
    record = fit(model, guide, x, steps=2, out=tmp_path)
    assert record.describe_threads() == "" and load_state(tmp_path / "checkpoint.npz")["threads"] is None
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    record = fit(model, guide, x, steps=2, threads="auto")
    assert record.describe_threads() == "2 threads (by OMP_NUM_THREADS)"
    with threads.threads_kept():
        torch.set_num_threads(1)
        record = fit(model, guide, x, steps=2, threads="auto")
        assert record.describe_threads() == "1 thread (there is no other)"
    for wrong in (0, -1, "all", 1.5, True):
        with pytest.raises(ValueError, match="threads must be a number of at least 1, 'auto' or None"):
            fit(model, guide, x, steps=2, threads=wrong)


def test_several_processes_take_a_thread_each(monkeypatch):
    """Whatever the environment says: together they have as many as there are processes."""
    monkeypatch.setattr(threads.parallel, "ranks", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.choose_threads(None, 9, 2) == (1, "several processes")


def test_torch_itself_takes_the_number(monkeypatch):
    monkeypatch.undo()
    with threads.threads_kept():
        threads.set_threads(2)
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_a_training_runs_on_its_threads_and_gives_them_back(pace):
    model, guide, x = vae_pair()
    seen = []

    def look(step):
        seen.append(torch.get_num_threads())

    for asked in (1, 2, 3, None):
        fit(model, guide, x, steps=1, threads=asked, callbacks=(look,))
    pace(ONE)
    fit(model, guide, x, steps=1, threads="auto", callbacks=(look,))
    assert seen == [1, 2, 3, 2, 1]
    with pytest.raises(DivergedError):
        fit(model, guide, x, steps=9, threads=1, optimizer=1e38, clip_norm=None)


def test_all_threads_are_not_waited_for(monkeypatch):
    """Eighty-one times slower than one: a single step of them ends the timing."""
    steps = []
    monkeypatch.setattr(threads, "seconds_of", lambda step: steps.append(torch.get_num_threads()) or 3.0 ** steps[-1])
    with threads.threads_kept():
        threads.set_threads(1)
        one, several = threads.time_steps(lambda: None, 5)
    assert (one, several) == (3.0, 243.0)
    assert steps.count(5) == 1 and steps.count(1) == 2 * (threads.STEPS + 1)


def test_a_burst_of_somebody_else_s_work_does_not_decide(monkeypatch):
    """All threads are twice as fast, but for the first block, which somebody else's work falls into."""
    steps = []

    def seconds_of(step):
        steps.append(torch.get_num_threads())
        return 2.0 if steps[-1] == 1 or steps.count(2) <= threads.STEPS + 1 else 1.0

    monkeypatch.setattr(threads, "seconds_of", seconds_of)
    with threads.threads_kept():
        threads.set_threads(1)
        assert threads.time_steps(lambda: None, 2) == (2.0, 1.0)


class Counting(PyroModule):
    """Its Python counts the passes."""

    def __init__(self):
        super().__init__("model")
        self.passes, self.loc = 0, nn.Parameter(torch.zeros(2))

    def forward(self, x):
        self.passes += 1
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 + self.loc, 1.0).to_event(1), obs=x)


def test_a_pair_that_a_pass_changes_is_not_timed(pace):
    pace(ALL)
    model = Counting()
    guide = Amortized(model, Encoder(2, z_dims=(2,), hidden=(3,)))
    record = fit(model, guide, torch.randn(6, 2), steps=2, threads="auto")
    assert record.describe_threads() == "1 thread (not timed: a pass changes the pair)"


def test_a_rehearsed_step_is_the_training_s_own():
    """Same loss and same update as the loop's first step, on copies; the weights stay."""
    model, guide, x = vae_pair()
    with isolated(model, guide, seed=0, train=True):
        loop = Loop(model, guide, Batches(x, 5), ELBO(), 1e-2, None, None, 1e-3, None, 0)
        before = [t.detach().clone() for t in loop.tensors]
        with Rehearsal(loop) as rehearsal:
            rehearsal.step()
            updated = [c.detach().clone() for c in rehearsal.copies]
            for _ in range(4):
                rehearsal.step()
        assert rehearsal.measure.tape.path == "tape (2 of 5 steps)"
        assert all(torch.equal(t, b) for t, b in zip(loop.tensors, before, strict=True))
        assert not any(torch.equal(c, b) for c, b in zip(updated, before, strict=True))
        loop.run(1, (), 0, False)
    assert all(torch.equal(t, c) for t, c in zip(loop.tensors, updated, strict=True))
