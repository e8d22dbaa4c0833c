"""Kaufman's formula against enumeration and published numbers; the levels against the definition of the energy."""

import math
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrarchy
from pyrarchy.inference import ELBO
from pyrarchy.rows_spins import CRITICAL as WRITTEN
from pyrarchy.zoo.ising import Ising, decimation
from pyrarchy.zoo.ising_exact import (
    CRITICAL,
    all_spins,
    energy,
    enumerate_levels,
    field,
    log_levels,
    log_partition,
    log_sublattice,
    magnetisation,
)


@pytest.mark.parametrize("temperature", [0.4, 1.3, CRITICAL, 2.6, 5.0, 40.0])  # below and above the critical one
@pytest.mark.parametrize("size", [3, 4])
def test_kaufman_is_the_enumeration(size, temperature):
    lattices = all_spins(size**2).double().unflatten(-1, (size, size))
    e = energy(lattices)
    log_z = (-e / temperature).logsumexp(0)
    p = (-e / temperature - log_z).exp()
    found = log_partition(size, temperature)
    assert found == pytest.approx((log_z.item(), (p * e).sum().item()), abs=1e-10)
    values, probabilities = magnetisation(size, temperature)
    exact = torch.zeros(size**2 + 1, dtype=torch.float64).index_add_(
        0, ((lattices.sum((1, 2)) + size**2) / 2).long(), p
    )
    torch.testing.assert_close(probabilities, exact, rtol=0, atol=1e-10)
    assert values[0] == -(size**2) and values[-1] == size**2


def test_the_published_numbers():
    for size, log_z, per_spin in ((4, 15.52191546, -1.5656238), (8, 60.14178079, -1.4915891)):
        found = log_partition(size, CRITICAL)
        assert found[0] == pytest.approx(log_z, abs=5e-9)
        assert found[1] / size**2 == pytest.approx(per_spin, abs=5e-8)
    # Onsager's bulk value; at the critical point the correction is ln(2^(1/4) + 2^(-1/2)) for the whole lattice
    correction = math.log(2**0.25 + 2**-0.5)
    assert log_partition(512, CRITICAL)[0] == pytest.approx(512**2 * 0.929695398341 + correction, abs=1e-4)
    assert WRITTEN == CRITICAL
    # the sign of the last product: both phases below, one above, so that ln Z - N f falls from ln 2 to 0
    assert log_partition(16, 0.5)[0] == pytest.approx(2 * 16**2 / 0.5 + math.log(2), abs=1e-3)


def test_energy_and_field_by_hand():
    lattice = torch.ones(2, 5, 5)
    lattice[1, 2, 3] = -1
    assert energy(lattice).tolist() == [-50, -42]
    assert (field(lattice) * lattice).sum((-1, -2)).tolist() == [100, 84]  # every bond is met from both ends


@pytest.mark.parametrize("temperature", [1.7, 3.1])
def test_the_sublattice_table_is_the_summed_enumeration(temperature):
    lattices = all_spins(16).double().unflatten(-1, (4, 4))
    index = ((lattices[:, ::2, ::2].flatten(1) > 0).long() * torch.tensor([8, 4, 2, 1])).sum(-1)
    weights = torch.zeros(16, dtype=torch.float64).index_add_(0, index, (-energy(lattices) / temperature).exp())
    torch.testing.assert_close(log_sublattice(4, temperature).flatten(), weights.log(), rtol=1e-12, atol=1e-12)
    assert log_sublattice(8, temperature).flatten().logsumexp(0) == pytest.approx(log_partition(8, temperature)[0])


@pytest.mark.parametrize("size", [4, 8, 16])
def test_every_level_doubles_the_lattice(size):
    levels = decimation(size)
    assert [len(level) for level in levels] == [1, *(2**i for i in range(2 * int(math.log2(size))))]
    assert sorted(place for level in levels for place in level) == [(i, j) for i in range(size) for j in range(size)]
    assert {(i + j) % 2 for i, j in levels[-1]} == {1}  # a colour of the checkerboard: no bond within
    kept = [place for level in levels[:-2] for place in level]
    assert sorted(kept) == [(i, j) for i in range(0, size, 2) for j in range(0, size, 2)]


def fair_coins(model):
    for name, places in model.levels.items():
        pyro.sample(name, dist.Bernoulli(torch.full((len(places),), 0.5)).to_event(1))


def test_the_factor_is_the_boltzmann_weight_of_the_lattice():
    model = Ising(8, 1.9)
    with torch.no_grad():
        terms = ELBO(5).terms(model, lambda: fair_coins(model))
    spins = 2 * torch.cat([terms.values[name] for name in model.levels], -1) - 1
    lattice = torch.empty(5, 8, 8)
    places = [place for level in model.levels.values() for place in level]
    for k, (i, j) in enumerate(places):
        lattice[:, i, j] = spins.reshape(5, 64)[:, k]
    torch.testing.assert_close(terms.log_obs["energy"], (-energy(lattice) / 1.9)[:, None])
    torch.testing.assert_close(model.assemble(spins.reshape(5, 64)), lattice)
    torch.testing.assert_close(model.disassemble(lattice), spins.reshape(5, 64))
    assert sum(terms.log_p.values()).unique() == pytest.approx(-64 * math.log(2))
    assert model.log_evidence().item() == pytest.approx(log_partition(8, 1.9)[0] - 64 * math.log(2))


def test_the_enumeration_in_levels_sums_to_one_and_nests():
    model = Ising(4, 2.4)
    lattices, tables = enumerate_levels(model)
    assert [len(t) for t in tables] == [2, 4, 16, 256, 65536]
    for coarse, fine in pairwise(tables):
        torch.testing.assert_close(fine.reshape(len(coarse), -1).logsumexp(-1), coarse)
    log_z, _ = log_partition(4, 2.4)
    torch.testing.assert_close(tables[-1], -energy(lattices) / 2.4 - log_z)
    torch.testing.assert_close(tables[0].exp(), torch.full((2,), 0.5, dtype=torch.float64))
    # the sublattice of spacing two is the third level: four spins, in an order of its own
    own = model.disassemble(lattices)[:, :4]
    assert torch.equal(own[:: 2**12], all_spins(4).double())


def test_the_levels_of_small_lattices_are_summed_out_exactly():
    model = Ising(4, 2.7)
    lattices, tables = enumerate_levels(model)
    for (name, found), table in zip(log_levels(model, lattices).items(), tables, strict=True):
        assert name in model.levels
        torch.testing.assert_close(found, table.repeat_interleave(len(lattices) // len(table)))
    # 8 x 8: over all 2^16 spins of s2 given one lattice above, then over all of s3 and s4 given a coarser one
    model = Ising(8, 2.7)
    torch.manual_seed(0)
    spins = model.disassemble(torch.randn(8, 8).double().sign()).repeat(2**16, 1)
    spins[:, 16:32] = all_spins(16)
    levels = log_levels(model, model.assemble(spins))
    torch.testing.assert_close(levels["s2"].logsumexp(0), levels["s3"][0])
    spins = spins[: 2**12]
    spins[:, 4:16] = all_spins(12)
    levels = log_levels(model, model.assemble(spins))
    torch.testing.assert_close(levels["s3"].logsumexp(0), levels["s5"][0])


def test_what_is_no_lattice_is_refused():
    for size in (2, 3, 6, 12):
        with pytest.raises(ValueError, match=f"power of two from 4 up, not {size}"):
            Ising(size)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be a positive number"):
            Ising(4, temperature)
    with pytest.raises(ValueError, match="size must be at least 3"):
        log_partition(2, 1.0)
    with pytest.raises(ValueError, match="4 x 4, not 8 x 8"):
        enumerate_levels(Ising(8))
    with pytest.raises(ValueError, match="must be 4 or 8"):
        log_sublattice(16, 1.0)


@pytest.mark.stochastic
def test_the_exact_samples_have_the_exact_moments():
    data = pyrarchy.load_data("ising4")
    spins = 2.0 * np.concatenate([data.train, data.test]).reshape(-1, 4, 4) - 1
    e = energy(torch.from_numpy(spins)).double()
    assert abs(e.mean() - log_partition(4, CRITICAL)[1]) < 4 * e.std() / len(e) ** 0.5
    m = np.abs(spins.sum((1, 2)))
    values, p = magnetisation(4, CRITICAL)
    assert abs(m.mean() - (values.abs() * p).sum().item()) < 4 * m.std() / len(m) ** 0.5


def test_exact_answer_inside_an_evaluation():
    """Evaluations run without gradients; the energy is a derivative all the same."""
    with torch.no_grad():
        inside = Ising(4, 2.0).log_evidence()
    assert inside == Ising(4, 2.0).log_evidence()
