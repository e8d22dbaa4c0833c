"""Minibatches: every row once an epoch, an order fixed by seed and epoch, places that can be taken up again."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyrarchy.inference import Batches
from pyrarchy.inference.batches import IterableBatches, as_batches
from pyrarchy.inference.isolation import rng_state, set_rng_state

N = 11
X, Y = torch.arange(N), torch.arange(N) * 10.0


@pytest.mark.parametrize("size", [1, 3, 4, N, 20])
def test_every_row_once_an_epoch_and_aligned(size):
    batches = Batches((X, Y), size, seed=3)
    parts = list(batches.epoch(2))
    assert len(parts) == len(batches) == -(-N // size)
    assert sorted(torch.cat([p[0] for p in parts]).tolist()) == X.tolist()
    assert all(torch.equal(a * 10.0, b) and len(a) <= size for a, b in parts)


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    def order(seed, epoch):
        torch.rand(epoch + seed + 1)  # the global generator has no say
        return torch.cat([b[0] for b in Batches(X, 3, seed=seed).epoch(epoch)]).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(s, e)) for s in (0, 1, 2) for e in (0, 1, 2)}) == 9
    before = torch.get_rng_state()
    list(Batches(X, 3).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("start", range(5))
def test_an_epoch_is_taken_up_in_its_middle(start):
    batches = Batches(X, 3, seed=2)
    whole = [b[0].tolist() for b in batches.epoch(4)]
    assert [b[0].tolist() for b in batches.epoch(4, start=start)] == whole[start:]


def test_no_batch_size_gives_the_data_as_they_are():
    (batch,) = list(Batches((X, "anything"), None))
    assert batch[0] is X and batch[1] == "anything" and len(Batches(X)) == 1
    assert Batches(X).whole and not Batches(X, N).whole  # one batch of all rows is still shuffled
    assert list(as_batches(None).epoch(0)) == [()]


def test_a_transform_sees_every_use_and_may_return_one_tensor():
    batches = Batches((X, Y), 4, transform=lambda x, y: x + y)
    first, second = ([b[0] for b in batches.epoch(0)] for _ in range(2))
    assert all(len(b) == 1 for b in batches) and torch.equal(torch.cat(first), torch.cat(second))
    noisy = Batches(Y, 4, transform=lambda y: torch.bernoulli(torch.full_like(y, 0.5)))
    draws = [torch.cat([b[0] for b in noisy.epoch(0)]) for _ in range(4)]
    assert len({tuple(d.tolist()) for d in draws}) > 1


@pytest.mark.parametrize("start", [0, 1, 2, 4])
def test_a_shuffling_loader_is_taken_up_in_its_middle(start):
    data = as_batches(DataLoader(TensorDataset(Y), batch_size=3, shuffle=True))
    torch.manual_seed(5)
    began = rng_state()
    rest, states = [], []
    for batch in data.epoch(0):
        rest.append((batch[0].tolist(), torch.rand(1).item()))
        states.append(rng_state())
    torch.manual_seed(99)
    set_rng_state(states[start - 1] if start else began)
    again = [(b[0].tolist(), torch.rand(1).item()) for b in data.epoch(0, start=start, rng=began)]
    assert again == rest[start:]


def test_a_list_of_batches_may_hold_tensors_or_tuples():
    parts = list(as_batches([X, (X, Y), [X]]).epoch(0))
    assert [len(p) for p in parts] == [1, 2, 1] and all(isinstance(p, tuple) for p in parts)
    assert IterableBatches([X]).whole and not IterableBatches([X, X]).whole


def test_misuse_says_what_to_do():
    with pytest.raises(ValueError, match="gave no batch"):
        list(as_batches([]).epoch(0))
    with pytest.raises(TypeError, match="generator, which is exhausted"):
        as_batches(x for x in (X, X))
    for bad in (np.zeros((3, 2)), {"x": X}, 3):
        with pytest.raises(TypeError, match=f"not {type(bad).__name__}"):
            as_batches(bad)
    for size in (0, -1, 2.0):
        with pytest.raises(ValueError, match="batch_size"):
            Batches(X, size)
    with pytest.raises(ValueError, match=r"\(11,\), \(10,\)"):
        Batches((X, Y[:-1]), 3)
    with pytest.raises(ValueError, match="no rows"):
        Batches(X[:0], 3)
    with pytest.raises(ValueError, match="twice"):
        as_batches(Batches(X, 3), 4)
    with pytest.raises(ValueError, match="its own batches"):
        as_batches([X, X], 4)
