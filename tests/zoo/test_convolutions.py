"""Masks keep their order, and leading dimensions pass through."""

import pytest
import torch
from torch import nn

from pyrarchy.zoo.convolutions import MaskedConv2d, MaskedImageNN, join, on_maps

C, H, W = 2, 3, 4


def dependence(function, dim, draws=20):
    """Which outputs move with which inputs: (out, dim) of booleans, by autograd at some random points."""
    points = torch.randn(draws, dim, dtype=torch.float64)
    return sum(torch.autograd.functional.jacobian(function, p).abs() for p in points) > 0


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("index", [0, 1], ids=["m", "s"])
def test_an_entry_reads_those_before_it_alone(reverse, index):
    """And, two 3 x 3 windows deep, all of those in reach: rows up to two above, the whole of the pixel's own past."""
    net = MaskedImageNN((C, H, W), 5, 7, reverse).double()
    context = torch.randn(5, H, W, dtype=torch.float64)
    reads = dependence(lambda v: net(v, context)[index], C * H * W)
    place = torch.empty(C * H * W, dtype=torch.long)
    place[net.permutation] = torch.arange(C * H * W)  # when an entry is generated
    later = place.unsqueeze(0) >= place.unsqueeze(1)
    assert not reads[later].any()
    # within two pixels' reach in the same row, all channels of every earlier pixel are read
    pixel = torch.arange(C * H * W) % (H * W)
    order = (H * W - 1 - pixel) if reverse else pixel
    row, column = order // W, order % W
    near = (row.unsqueeze(0) == row.unsqueeze(1)) & ((column.unsqueeze(1) - column.unsqueeze(0)) == 1)
    above = (row.unsqueeze(1) - row.unsqueeze(0) == 1) & ((column.unsqueeze(1) - column.unsqueeze(0)).abs() <= 1)
    assert reads[near | above].all()
    same = (pixel.unsqueeze(0) == pixel.unsqueeze(1)) & ~later
    assert same.sum() == H * W and reads[same].all()


def test_reversed_is_the_same_net_on_the_turned_map():
    net = MaskedImageNN((C, H, W), 5, 7)
    turned = MaskedImageNN((C, H, W), 5, 7, reverse=True)
    turned.load_state_dict({**net.state_dict(), "permutation": turned.permutation})
    x, context = torch.randn(6, C * H * W), torch.randn(6, 5, H, W)
    for a, b in zip(net(x, context), turned(x.flip(-1), context.flip((-2, -1))), strict=True):
        torch.testing.assert_close(a, b.flip(-1))


@pytest.mark.parametrize("lead", [(), (6,), (5, 6)])
def test_leading_dimensions_pass_through(lead):
    net, conv = MaskedImageNN((C, H, W), 5, 7), nn.Conv2d(C, 4, 3, padding=1)
    x, context = torch.randn(*lead, C * H * W), torch.randn(*lead[-1:], 5, H, W)
    found = net(x, context)[0]
    assert found.shape == x.shape
    one = net(x.reshape(-1, C * H * W)[-1], context.reshape(-1, 5, H, W)[-1])[0]
    torch.testing.assert_close(found.reshape(-1, C * H * W)[-1], one)
    maps = x.reshape(*lead, C, H, W)
    torch.testing.assert_close(on_maps(conv, maps).reshape(-1, 4, H, W)[-1], conv(maps.reshape(-1, C, H, W)[-1:])[0])
    assert join(maps, torch.zeros(3, H, W)).shape == (*lead, C + 3, H, W)


def test_the_reach_of_one_masked_convolution():
    conv = MaskedConv2d([0], [0], 2, strict=True).double()
    reads = dependence(lambda v: conv(v.reshape(1, 1, 5, 5)).flatten(), 25).reshape(5, 5, 5, 5)
    seen = {tuple(p) for p in reads[2, 2].nonzero().tolist()}
    assert seen == {(r, c) for r in (0, 1) for c in range(5)} | {(2, 0), (2, 1)}


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="at least the number of channels, 2, not 1"):
        MaskedImageNN((C, H, W), 5, 1)
