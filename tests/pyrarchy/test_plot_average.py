"""The units that differ most come first, with the distance between their distribution functions."""

import numpy as np
import pytest

from pyrarchy.plots import average_marginals, png


def test_panels_are_those_of_the_units_that_differ_most():
    """A uniform on [0, 1] moved by d is d from itself, for d < 1; the same draws are not apart at all."""
    grid = ((np.arange(1000) + 0.5) / 1000)[:, None]
    figure = average_marginals(grid + np.array([0.0, 0.5, 0.25, 2.0]), grid.repeat(4, 1), name="u", most=3)
    assert [axes.get_title() for axes in figure.axes] == ["u[3], KS 1.00", "u[1], KS 0.50", "u[2], KS 0.25"]
    heights = [patch.get_data().values for patch in figure.axes[0].patches]
    assert len(heights) == 2 and np.nanmax(heights[0]) == pytest.approx(1, rel=0.2)  # a uniform's density
    assert figure.axes[0].get_yscale() == "log"
    assert not any("$" in tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels())


def test_any_number_of_units_and_draws_by_datum():
    rng = np.random.default_rng(0)
    for units in (1, 2, 5):
        figure = average_marginals(rng.normal(size=(3, 40, units)), rng.standard_cauchy(size=(90, units)))
        assert len(figure.axes) == units and png(figure)[1:4] == b"PNG"
    assert len(average_marginals(np.zeros((5, 1)), np.zeros((7, 1))).axes) == 1


def test_what_it_refuses():
    with pytest.raises(ValueError, match="same units"):
        average_marginals(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="prior have 1 values"):
        average_marginals(np.zeros((5, 1)), np.array([[np.inf]]))
