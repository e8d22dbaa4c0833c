"""Strokes of known width: straight, tilted, ring-shaped; and a blank page."""

import math

import numpy as np
import pytest

from pyrarchy.stroke_width import stroke_width

SIZE = 96


def grid():
    """Coordinates of the pixels' centres."""
    return np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2


def drawn(distance, width):
    """An anti-aliased stroke about the points at distance zero."""
    return np.clip(width / 2 + 0.5 - np.abs(distance), 0, 1).reshape(1, -1)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, 1.2])
@pytest.mark.parametrize("width", [2.0, 3.5, 6.0])
def test_a_tilted_stroke(angle, width):
    y, x = grid()
    across, along = y * math.cos(angle) - x * math.sin(angle), y * math.sin(angle) + x * math.cos(angle)
    image = drawn(across, width) * np.clip(30.5 - np.abs(along), 0, 1).reshape(1, -1)
    exact = 2 * 60 * width / (2 * 60 + 2 * width)
    assert stroke_width(image, (SIZE, SIZE))[0] == pytest.approx(exact, rel=0.1 if width < 3 else 0.05)  # pixels tell


def test_a_ring_and_a_blank_page():
    y, x = grid()
    ring = drawn(np.hypot(y, x) - 30, 4.0)
    found = stroke_width(np.concatenate([ring, np.zeros_like(ring)]), (SIZE, SIZE))
    assert found[0] == pytest.approx(4.0, rel=0.05) and np.isnan(found[1])


def test_height_and_width_are_not_mixed_up():
    image = np.zeros((5, 40))
    image[1:3] = 1
    assert stroke_width(image.reshape(1, -1), (5, 40))[0] == pytest.approx(2 * 80 / 84, rel=0.02)
    with pytest.raises(ValueError, match="are not"):
        stroke_width(image, (5, 40))
