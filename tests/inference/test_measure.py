"""The gradients' common norm, whatever lies in their memory."""

import pytest
import torch

from pyrarchy.inference.measure import total_norm

GENERATOR = torch.Generator().manual_seed(3)


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=GENERATOR, dtype=dtype)


WHOLE = draw(6, 5)
CASES = {
    "plain": [draw(3, 4), draw(5)],
    "transposed": [draw(3, 4).T, draw(2, 3, 4).permute(2, 0, 1)],
    "number": [draw(1).squeeze(0), draw(2)],
    "none between": [draw(2), None, draw(3)],
    "part of a whole": [WHOLE[1:3], WHOLE[:, 2], WHOLE[::2, ::2]],
    "repeated": [draw(1).expand(7), draw(4, 1).expand(4, 3)],
    "no element": [draw(0, 3), draw(2)],
    "two precisions": [draw(3), draw(4, dtype=torch.float32)],
}


@pytest.mark.parametrize("name", CASES)
def test_the_norm_is_that_of_all_elements(name):
    gradients = CASES[name]
    elements = torch.cat([g.flatten().double() for g in gradients if g is not None])
    torch.testing.assert_close(total_norm(gradients).double(), elements.square().sum().sqrt(), rtol=1e-14, atol=0)


def test_no_gradient_has_the_norm_zero():
    assert total_norm([None, None]).item() == total_norm([]).item() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows(bad):
    gradients = [draw(3), draw(2, 2)]
    gradients[1][1, 0] = bad
    assert not total_norm(gradients).isfinite()
