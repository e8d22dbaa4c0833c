"""Comparisons: standard errors by hand on made-up results, budgets, resuming, and one with a known answer."""

import json
import math
import re
import shutil

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.inference import ELBO, ImportanceWeighted, Temper, VRMax, compare_runs
from pyrarchy.inference.compare import compare
from pyrarchy.inference.compare_runs import Entry, run_folder
from pyrarchy.inference.comparison import Comparison, Outcome, mean_and_error


class Model(PyroModule):
    """z ~ N(0, I_3), x ~ N(W z, .5^2 I_5)."""

    def __init__(self):
        super().__init__("model")
        self.net = nn.Linear(3, 5)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z | x) = N(A x, s^2); a start scale that is far too small is a bad guide after few steps."""

    def __init__(self, scale):
        super().__init__("guide")
        self.net, self.log_scale = nn.Linear(5, 3), nn.Parameter(torch.full((3,), scale).log())

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(self.net(x), self.log_scale.exp()).to_event(1))


def make(seed, scale=0.5):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Model(), Guide(scale)


def bad(seed):
    return make(seed, scale=0.02)


def rows(count, seed):
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


TRAIN, TEST = rows(31, 0), rows(13, 1)
BUDGET = dict(steps=6, batch_size=10, num_samples=20, bound_samples=4)


def outcome(log_p, elbo, ess=1.0, active=(1, 2), seconds=1.0):
    log_p, elbo = np.array(log_p, float), np.array(elbo, float)
    few = np.full(len(log_p), 0.3)
    return Outcome(elbo, elbo + 0.5, log_p, few, np.full(len(log_p), ess), {"z1": list(active)}, {"z1": 2.0},
                   "ELBO(num_particles=1)", True, 6, seconds)  # fmt: skip


def made_up():
    first = {0: outcome([-3, -5, -10], [-4, -6, -12]), 7: outcome([-3, -6, -12], [-4, -8, -13], ess=4.0, seconds=3.0)}
    second = {0: outcome([-2, -3, -10], [-3, -4, -10]), 7: outcome([-2, -5, -11], [-3, -5, -13], active=(2, 2))}
    return Comparison({"one": first, "two": second}, num_samples=20, bound_samples=4, budget="6 steps, batch 10")


def test_standard_errors_by_hand():
    found = made_up()
    # means of log p over data: -6, -7 and -5, -6; sd of two values a, b is |a - b| / sqrt 2
    assert found.mean("one", "log_p") == pytest.approx((-6.5, 0.5))
    assert found.mean("two", "log_p") == pytest.approx((-5.5, 0.5))
    # KL, datum by datum: (1, 1, 2), (1, 2, 1): 4/3 both
    assert found.mean("one", "kl") == pytest.approx((4 / 3, 0))
    # differences: seed 0 (1, 2, 0), seed 7 (1, 1, 1): over data (1, 1.5, .5) with sd .5, over seeds 1 and 1
    value, over_data, over_seeds = found.difference("two", "log_p")
    assert (value, over_data, over_seeds) == pytest.approx((1.0, 0.5 / math.sqrt(3), 0.0))
    # unpaired, the spread of log p over the data would give an error over ten times as large
    apart = math.hypot(*(np.mean([o.log_p for o in found.outcomes[n].values()], 0).std(ddof=1) for n in ("one", "two")))
    assert apart / math.sqrt(3) > 10 * over_data
    # ELBO: seed 0 (1, 2, 2), seed 7 (1, 3, 0): over seeds 5/3 and 4/3
    assert found.difference("two", "elbo") == pytest.approx((1.5, np.std([1, 2.5, 1], ddof=1) / 3**0.5, 1 / 6))
    assert found.ess("one") == pytest.approx((2.5, 1.5))
    assert found.seconds("one") == pytest.approx((2.0, 1.0))
    assert found.active_units("one") == (1.0, 2) and found.active_units("two") == (1.5, 2)
    assert mean_and_error(np.array([4.0]))[0] == 4 and math.isnan(mean_and_error(np.array([4.0]))[1])


def test_every_figure_says_what_it_is():
    found = made_up()
    found.outcomes["two"][0].is_lower_bound = False
    text = found.table()
    assert "nats per datum" in text and "6 steps, batch 10; seeds 0, 7" in text
    head = text.splitlines()[2]
    assert "ELBO (lower bound)" in head and "L_4 (lower bound)" in head and "log p, K = 20 (lower bound)" in head
    assert "(not a lower bound on log p)" in head
    assert "(lower bound)" in text.splitlines()[4] and "(not a lower bound)" in text.splitlines()[5]
    assert "-6.50 ± 0.50" in text.splitlines()[4] and "1.5 of 2" in text.splitlines()[5]
    assert "+1.00 ± 0.29 (± 0.00)" in text.splitlines()[-1]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()[2:6]} == {10}
    figures = found.figures()
    assert figures["unit"] == "nats per datum" and figures["num_data"] == 3 and figures["seeds"] == [0, 7]
    assert {k: "lower bound" in figures[f"{k}_is"] for k in ("elbo", "bound", "log_p")} == dict.fromkeys(
        ("elbo", "bound", "log_p"), True
    )
    assert "not a lower bound" in figures["kl_is"]
    less = figures["entries"]["two"]["less one"]["log_p"]
    assert less["value"] == pytest.approx(1.0) and less["paired_error_over_data"] == pytest.approx(0.5 / 3**0.5)
    assert "less one" not in figures["entries"]["one"]


def test_one_seed_and_one_datum_have_no_error():
    found = Comparison({"a": {0: outcome([-3.0], [-4.0])}, "b": {0: outcome([-2.0], [-4.0])}}, 20, 4, held_out=False)
    assert "±" not in found.table().split("\n\n", 1)[1].split("Less")[0]
    assert math.isnan(found.difference("b", "log_p")[1])
    assert "none was held out" in found.table()


def test_a_bad_guide_is_found(tmp_path):
    seen = []
    found = compare({"good": make, "bad": bad}, TRAIN, TEST, out=tmp_path, seeds=(0, 1), **BUDGET,
                    done=lambda name, seed, outcome: seen.append((name, seed)))  # fmt: skip
    assert seen == [("good", 0), ("bad", 0), ("good", 1), ("bad", 1)]
    value, error, _ = found.difference("bad", "elbo")
    assert value < -1 and abs(value) > 4 * error
    for name in ("good", "bad"):
        assert found.mean(name, "elbo")[0] < found.mean(name, "bound")[0] < found.mean(name, "log_p")[0]
        assert found.mean(name, "kl")[0] == pytest.approx(found.mean(name, "log_p")[0] - found.mean(name, "elbo")[0])
    assert found.num_data == 13 and found.held_out
    one = found.outcomes["good"][0]
    assert one.steps == 6 and one.seconds > 0 and one.active["z1"][1] == 3 and one.ess.shape == (13,)
    assert (tmp_path / "table.md").read_text() == found.table()
    on_disk = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert on_disk["entries"]["bad"]["elbo"] == pytest.approx(found.mean("bad", "elbo")[0])
    assert (run_folder(tmp_path, "bad", 1) / "checkpoint.npz").exists()


def test_what_is_finished_is_read_and_what_is_missing_is_made(tmp_path, monkeypatch):
    settings = dict(out=tmp_path, seeds=(0, 1), **BUDGET)
    first = compare({"good": make}, TRAIN, TEST, **settings)

    fits, fit = [], compare_runs.fit
    monkeypatch.setattr(compare_runs, "fit", lambda *args, **kwargs: fits.append(kwargs["out"]) or fit(*args, **kwargs))
    again = compare({"good": make}, TRAIN, TEST, **settings)
    assert fits == [] and again.table() == first.table()  # seconds too
    more = compare(
        {"good": make, "k": Entry(make, ImportanceWeighted(3))}, TRAIN, TEST, **{**settings, "seeds": (0, 2)}
    )
    assert [f"{f.parent.name}/{f.name}" for f in fits] == ["k/seed0", "good/seed2", "k/seed2"]
    np.testing.assert_array_equal(more.outcomes["good"][0].log_p, first.outcomes["good"][0].log_p)
    # other figures wanted of the same training: evaluated again, from the checkpoint, with no step taken
    before = (run_folder(tmp_path, "good", 0) / "history.csv").read_bytes()
    finer = compare({"good": make}, TRAIN, TEST, **{**settings, "num_samples": 30, "seeds": (0,)})
    assert (run_folder(tmp_path, "good", 0) / "history.csv").read_bytes() == before
    assert finer.outcomes["good"][0].seconds == pytest.approx(first.outcomes["good"][0].seconds)
    assert finer.num_samples == 30 and not np.array_equal(
        finer.outcomes["good"][0].log_p, first.outcomes["good"][0].log_p
    )


class Stop(Exception):
    """What ends a run in its middle here."""


def test_an_interrupted_run_continues_to_the_same_numbers(tmp_path, monkeypatch):
    entries = {"a": Entry(make, temper=Temper(steps=4), optimizer=0.02), "b": Entry(make, ELBO(2))}
    settings = dict(seeds=(3,), save_every=2, **BUDGET)
    whole = compare(entries, TRAIN, TEST, out=tmp_path / "whole", **settings)

    clock = compare_runs._Clock.__call__

    def stop(self, step):
        clock(self, step)
        if self.path.parent.parent.name == "b" and step.step == 5:
            raise Stop

    monkeypatch.setattr(compare_runs._Clock, "__call__", stop)
    with pytest.raises(Stop):
        compare(entries, TRAIN, TEST, out=tmp_path / "cut", **settings)
    cut = run_folder(tmp_path / "cut", "b", 3)
    assert (cut / "checkpoint.npz").exists() and not (cut / "outcome.npz").exists()
    assert not (tmp_path / "cut" / "table.md").exists()
    noted = json.loads((cut / "clock.json").read_text())
    assert list(noted) == ["2", "4"]
    monkeypatch.setattr(compare_runs._Clock, "__call__", clock)
    found = compare(entries, TRAIN, TEST, out=tmp_path / "cut", **settings)
    for name in entries:
        for metric in ("elbo", "bound", "log_p"):
            expected = getattr(whole.outcomes[name][3], metric)
            np.testing.assert_array_equal(getattr(found.outcomes[name][3], metric), expected)
    assert found.outcomes["b"][3].seconds > noted["4"]  # what the cut process took is counted
    shutil.copy(cut / "outcome.npz", cut / "whole.npz")
    (cut / "outcome.npz").write_bytes((cut / "whole.npz").read_bytes()[:100])  # cut off while it was written
    again = compare(entries, TRAIN, TEST, out=tmp_path / "cut", **settings)
    np.testing.assert_array_equal(again.outcomes["b"][3].log_p, whole.outcomes["b"][3].log_p)


def test_another_budget_or_other_data_in_the_same_folder_are_refused(tmp_path):
    settings = dict(out=tmp_path, **BUDGET)
    compare({"a": make}, TRAIN, TEST, **settings)
    with pytest.raises(ValueError, match="begun with steps 6, not 7"):
        compare({"a": make}, TRAIN, TEST, **{**settings, "steps": 7})
    with pytest.raises(ValueError, match=r"begun with objective ELBO\(num_particles=1\), not VRMax"):
        compare({"a": Entry(make, VRMax(2))}, TRAIN, TEST, **settings)
    with pytest.raises(ValueError, match="begun with training data"):
        compare({"a": make}, TRAIN + 1, TEST, **settings)
    with pytest.raises(ValueError, match="holds a run already"):
        compare({"a": make}, TRAIN, TEST, **settings, resume=False)
    for odd, message in (
        (dict(seeds=(0, 0)), "different seeds"),
        (dict(epochs=2), "exactly one of steps and epochs"),
        (dict(processes=0), "processes must be"),
    ):
        with pytest.raises(ValueError, match=message):
            compare({"b": make}, TRAIN, TEST, **{**settings, **odd})
    with pytest.raises(ValueError, match="same folder twice"):
        compare({"a b": make, "a/b": make}, TRAIN, TEST, **settings)
    with pytest.raises(ValueError, match="at least one entry"):
        compare({}, TRAIN, TEST, **settings)


def test_a_run_that_fails_names_itself_and_the_others_end(tmp_path):
    entries = {"wild": Entry(make, optimizer=1e38), "good": make}
    with pytest.raises(ArithmeticError, match="entry 'wild', seed 0"):
        compare(entries, TRAIN, TEST, out=tmp_path, **BUDGET)
    assert (run_folder(tmp_path, "good", 0) / "outcome.npz").exists()


def test_budgets_in_epochs_and_a_transform(tmp_path):
    sizes = []

    def count(x):
        sizes.append(len(x))
        return x

    settings = {**BUDGET, "steps": None, "epochs": 2}
    found = compare({"a": make}, TRAIN, out=tmp_path, transform=count, **settings)
    assert found.outcomes["a"][0].steps == 8 and found.budget == "2 epochs, batch 10"
    assert sum(sizes) >= 62 and set(sizes) == {10, 1}
    assert not found.held_out and found.num_data == 31
