"""The page on Ising lattices: its KLs are those of their definition, and every column has its level."""

import math

import pytest
import torch

from benchmarks import ising_levels
from benchmarks.ising_levels import both_ways, coarse_to_fine, learnt
from pyrarchy import get_pair, load_data
from pyrarchy.ising_levels import level_kls


def test_both_ways_by_hand():
    log_p, log_m = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.6, 0.2]).log()  # m sums to .8: 3/4 and 1/4
    back, forward, total = both_ways(log_m, log_p)
    assert back == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert forward == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2)) and total == pytest.approx(0.8)


def test_tables_of_untrained_pairs(monkeypatch):
    monkeypatch.setattr(ising_levels, "train", lambda pair, data, **options: pair(data, **options))
    lines = coarse_to_fine(4).splitlines()
    assert lines[2] == "| KL(q to p) | s5 | s4 | s3 | s2 | s1 | all |"
    kls = level_kls(*get_pair("ising_factorised")(size=4))
    assert lines[-1].split("|")[1:-1] == [" `ising_factorised` ", *(f" {max(kl, 0):.4f} " for kl, _ in kls.values())]
    cells = learnt("vlae", num_samples=2).split("|")
    assert all(float(cell) > 0 for cell in cells[2:5])


def test_training_is_the_rows_own(monkeypatch):
    given = {}
    monkeypatch.setattr(ising_levels, "fit", lambda model, guide, data, **options: given.update(options))
    pair = get_pair("ising")
    ising_levels.train(pair, load_data("no_data"), size=4)
    assert given["steps"] == pair.training.steps and repr(given["objective"]).startswith("ELBO(num_particles=500")
    assert given["optimizer"] == pair.training.lr and given["temper"] is None
    assert given["schedule"](pair.training.steps) == pytest.approx(pair.training.decay)
