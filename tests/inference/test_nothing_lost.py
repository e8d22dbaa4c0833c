"""What a training leaves behind: checkpoints without a number that is not finite, and resumption of the same run only."""

import math

import pytest
import torch

from pyrarchy.guides import Encoder, Ladder
from pyrarchy.inference import Batches, DivergedError, Temper, fit, load_state
from pyrarchy.inference.batches import digest
from pyrarchy.zoo import MarkovHVAE


def vae_pair(hidden=7, z_dims=(3, 2)):
    """A small ladder and eleven rows for it."""
    torch.manual_seed(3)
    widths = (hidden, 6)[: len(z_dims)]
    model = MarkovHVAE(5, z_dims=z_dims, hidden=widths)
    return model, Ladder(model, Encoder(5, z_dims=z_dims, hidden=widths)), torch.rand(11, 5).round()


@pytest.mark.parametrize("when", ["in the middle", "at the end", "without a folder"])
def test_no_checkpoint_holds_what_an_infinite_update_left(when, tmp_path):
    """The rate becomes infinite at step 4: its loss and gradient are finite, the weights behind it are not."""
    model, guide, x = vae_pair()
    out = None if when == "without a folder" else tmp_path
    steps = 9 if when == "in the middle" else 4
    with pytest.raises(DivergedError, match=r"step 4: parameter '.*' is not finite after the update") as caught:
        fit(model, guide, x, steps=steps, save_every=2, out=out, schedule=lambda step: 1.0 if step < 3 else math.inf)
    assert ("last good checkpoint" in str(caught.value)) == (out is not None)
    if out is not None:
        state = load_state(tmp_path / "checkpoint.npz")
        assert state["step"] == 2
        assert all(t.isfinite().all() for weights in state["modules"] for t in weights.values())


def test_a_mask_of_infinities_may_be_kept(tmp_path):
    model, guide, x = vae_pair()
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    fit(model, guide, x, steps=2, out=tmp_path)
    model.mask[0] = math.nan
    assert load_state(tmp_path / "checkpoint.npz")["step"] == 2


@pytest.mark.parametrize("change", ["last row", "width", "name"])
def test_resume_of_another_pair_or_other_data_is_one_sentence(change, tmp_path):
    model, guide, x = vae_pair()
    fit(model, guide, x, steps=2, batch_size=5, out=tmp_path)
    before = (tmp_path / "checkpoint.npz").read_bytes()
    said = {"last row": "started with data", "width": "started with shapes", "name": "of another pair"}[change]
    if change == "last row":
        x = x.clone()
        x[-1, -1] = 1 - x[-1, -1]
    else:
        model, guide, _ = vae_pair(hidden=4) if change == "width" else vae_pair(z_dims=(3,))
    with pytest.raises(ValueError, match=said) as caught:
        fit(model, guide, x, steps=4, batch_size=5, out=tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


def test_the_generation_before_is_used_when_the_newest_is_gone(tmp_path):
    whole, (model, guide, x) = vae_pair(), vae_pair()
    losses = fit(*whole, steps=6, out=tmp_path / "whole").losses
    fit(model, guide, x, steps=4, save_every=2, out=tmp_path / "run")
    (tmp_path / "run" / "checkpoint.npz").unlink()
    model, guide, x = vae_pair()
    record = fit(model, guide, x, steps=6, out=tmp_path / "run", resume=True)
    assert record.losses == losses and "no such checkpoint; the generation before it is used" in record.remarks[0]


def test_the_digest_is_of_all_rows_without_a_copy():
    x = torch.rand(6, 4)
    assert digest((x,)) == digest((x.t().contiguous().t(),)) != digest((x + 1,))
    assert digest((x,)) != digest((x.reshape(4, 6),)) and digest((torch.zeros(0, 4),)) != digest((torch.zeros(0, 3),))
    assert digest(Batches(x, 2).tensors) == digest((x,))


def test_a_run_that_was_over_bounds_what_it_bounded(tmp_path):
    """Its temperature had reached one, which the resumed run, without a step to take, must know."""
    model, guide, x = vae_pair()
    first = fit(model, guide, x, steps=4, temper=Temper(steps=2), out=tmp_path)
    before = (tmp_path / "checkpoint.npz").read_bytes()
    again = fit(*vae_pair()[:2], x, steps=4, temper=Temper(steps=2), out=tmp_path, resume=True)
    assert first.is_lower_bound and again.is_lower_bound
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
