"""Two ranks against one process: the same numbers where there is no noise, the same bytes again where there is."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrarchy
from pyrarchy.inference import Batches, CheckpointError, fit, load_state, parallel
from pyrarchy.inference.batches import smallest

from . import parallel_jobs

ROOT = Path(pyrarchy.__file__).parents[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The results of both ranks of one group, and the folder in which they worked."""
    folder = tmp_path_factory.mktemp("two")
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        parallel_jobs.__file__,
        str(folder),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return [dict(np.load(folder / f"rank{number}.npz")) for number in (0, 1)], folder


@pytest.fixture(scope="module")
def one():
    return parallel_jobs.fits()


@pytest.mark.parametrize("name", ["exact", "elbo", "iwae", "dreg", "stock", "scaled", "list", "em", "grades"])
def test_two_ranks_are_one_process_of_twice_the_batch(name, two, one):
    """Steps of ten rows out of 43 (parts of five, then of two and one) and 41 (then of one and none)."""
    for key, value in one[name].items():
        for rank in two[0]:
            found = rank[f"{name} {key}"]
            np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-6, err_msg=f"{name} {key}")


def test_both_ranks_end_with_the_same_bits(two):
    first, second = two[0]
    same = [
        key for key in first if " " in key and not key.endswith(("fails", "of first", "lone row", "weights again"))
    ] + ["losses"]
    assert [key for key in same if not np.array_equal(first[key], second[key])] == []


def test_each_rank_has_its_own_noise_and_rank_0_the_seed_itself(two):
    first, second = (rank["draws"] for rank in two[0])
    assert first.tolist() == torch.rand(3, generator=torch.Generator().manual_seed(0)).tolist()
    assert (first != second).all()


def test_a_stopped_group_resumes_to_the_same_bits(two):
    """The wish of rank 1 after step 6 ends both after step 7, between two checkpoints."""
    for rank in two[0]:
        assert rank["stopped"] == 7
        assert np.array_equal(rank["losses"], rank["losses again"])
        assert np.array_equal(rank["weights"], rank["weights again"])
    whole, cut = (two[1] / name / "rank0" for name in ("whole", "cut"))
    assert (whole / "checkpoint.npz").read_bytes() == (cut / "checkpoint.npz").read_bytes()
    held = load_state(whole / "checkpoint.npz")["ranks"]
    assert len(held) == 2 and not torch.equal(held[0]["rng"]["torch"], held[1]["rng"]["torch"])


def test_rank_0_alone_writes(two):
    for name in ("whole", "cut"):
        assert [path.name for path in (two[1] / name).iterdir()] == ["rank0"]


def test_another_number_of_processes_is_refused(two):
    model, guide = parallel_jobs.pair(parallel_jobs.Noisy)
    with pytest.raises(ValueError, match=r"started by 2 process.*torchrun --nproc-per-node 2"):
        fit(
            model,
            guide,
            parallel_jobs.data(44),
            batch_size=5,
            out=two[1] / "whole" / "rank0",
            seed=3,
            steps=20,
            resume=True,
        )


def test_batch_normalisation_is_each_rank_s_own(two):
    """Weights are common, running statistics are not; the record says so, and a single row is refused as elsewhere."""
    first, second = (rank["weights"] for rank in two[0])
    assert (first[:-14] == second[:-14]).all() and (first[-14:] != second[-14:]).all()
    for rank in two[0]:
        assert [
            line.startswith("1 batch normalisation(s) took mean and variance of each") for line in rank["remarks"]
        ] == [True]
        assert "43 rows in batches of 5 on each of 2 processes leave one row alone: choose another" in str(
            rank["lone row"]
        )


def test_what_one_rank_refuses_ends_the_others(two):
    first, second = two[0]
    assert first["first fails"] == "Said: here" and second["second fails"] == "Said: here"
    assert second["first fails"] == "RefusedElsewhereError (said): process 0 stopped: here"
    assert first["second fails"] == "RefusedElsewhereError (said): process 1 stopped: here"
    for rank, mark in ((first, ""), (second, " (said)")):  # what both know is said by the first alone
        assert rank["of first"] == f"ZeroDivisionError{mark}: integer division or modulo by zero"
        assert str(rank["lone row"]).startswith(f"ValueError{mark}: batch normalisation")
        assert str(rank["unequal"]).startswith("ValueError: the processes would take [3, 4] steps")
        assert str(rank["few rows"]).startswith("ValueError: 1 rows cannot be shared by 2 processes")


def test_means_have_the_weights_of_their_rows(two):
    """Figures 0 and 1 with weights 3 and 1; gradients 1 and 2, none and 8, none and none; the wish of rank 1."""
    for rank in two[0]:
        assert rank["unreached"].tolist() == [0.25, 1.25, 1.25, 2.0, 1.0, 1.0]


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_the_batches_are_the_batches_of_all(parts):
    rows = torch.arange(23)
    whole = [b[0].tolist() for b in Batches(rows, 3 * parts, seed=4).epoch(2, start=1)]
    split = [Batches(rows, 3, seed=4).shared(i, parts) for i in range(parts)]
    own = [[b[0].tolist() for b in each.epoch(2, start=1)] for each in split]
    assert {len(each) for each in split} == {-(-23 // (3 * parts))}
    for step, everything in enumerate(whole):
        pieces = [each[step] for each in own]
        assert sorted(row for piece in pieces for row in piece) == sorted(everything)
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_the_smallest_part_has_a_row_and_whole_data_stay_whole():
    assert smallest(Batches(torch.zeros(41, 2), 5).shared(1, 2)) == 1
    assert smallest(Batches(torch.zeros(45, 2), 5).shared(1, 2)) == 2
    assert [len(b[0]) for b in Batches(torch.zeros(41, 2)).shared(1, 2).epoch(0)] == [41]


def test_without_a_group_there_is_one_process(monkeypatch):
    assert (parallel.ranks(), parallel.rank(), parallel.own_seed(7)) == (1, 0, 7)
    assert parallel.gather("x") == ["x"] and parallel.of_first(lambda: 3) == 3
    assert parallel.shared_map(str.upper, ["x", "y"], seed=2**32 - 1) == ["X", "Y"]  # every seed has one behind it
    with pytest.raises(CheckpointError, match="gone"), parallel.agreed():
        raise CheckpointError("gone")
