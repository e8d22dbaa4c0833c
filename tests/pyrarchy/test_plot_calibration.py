"""The band holds what it says, and the lines are the ranks'."""

import numpy as np
import pytest
from matplotlib.colors import same_color
from scipy import stats

from pyrarchy import plots
from pyrarchy.plot_calibration import _two_tails, ecdf_band
from pyrarchy.plot_style import MUTED


@pytest.mark.parametrize(("num", "num_draws", "level"), [(300, 19, 0.95), (80, 99, 0.8)])
def test_the_band_holds_whole_lines_at_its_level(num, num_draws, level):
    """20,000 new samples: within 4 standard errors of the level, with that of the 2,000 that calibrate it, and the
    band's own steps (one count wide) on top."""
    points, low, high = ecdf_band(num, num_draws, level=level)
    counts = np.random.default_rng(5).multinomial(num, np.full(num_draws + 1, 1 / (num_draws + 1)), 20_000)
    lines = counts.cumsum(1)[:, :-1] / num - points
    share = ((lines >= low - 1e-9) & (lines <= high + 1e-9)).all(1).mean()
    error = (level * (1 - level) * (1 / 2000 + 1 / 20_000)) ** 0.5
    assert -4 * error < share - level < 4 * error + 0.02


def test_tails_are_scipys():
    points = np.array([0.01, 0.3, 0.97])
    k = np.arange(41)
    expected = [2 * np.minimum(stats.binom.cdf(k, 40, p), stats.binom.sf(k - 1, 40, p)) for p in points]
    np.testing.assert_allclose(_two_tails(40, points), expected, rtol=1e-9, atol=1e-14)


def test_lines_are_the_ecdf_less_the_uniform_and_the_furthest_have_colours():
    ranks = {f"q{i}": np.random.default_rng(i).integers(0, 4, 200) for i in range(3)}
    ranks["low"] = np.repeat([0, 1, 2, 3], [110, 40, 30, 20])
    figure = plots.rank_ecdf(ranks, 3, most=1)
    lines = figure.axes[0].lines
    np.testing.assert_allclose(lines[3].get_ydata(), [0, 110 / 200 - 0.25, 150 / 200 - 0.5, 180 / 200 - 0.75, 0])
    assert all(same_color(line.get_color(), MUTED) for line in lines[:3])
    assert not same_color(lines[3].get_color(), MUTED)


def test_replicates_draw_the_datas_value():
    figure = plots.replicates({"sd": (np.arange(50.0), 7.5, 0.3)})
    assert list(figure.axes[0].lines[0].get_xdata()) == [7.5, 7.5] and "p = 0.3" in figure.axes[0].get_title()
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 50


def test_misuse_is_named():
    with pytest.raises(ValueError, match="'z': ranks 3 to 10 are not in 0"):
        plots.rank_ecdf({"z": np.array([3, 10])}, 9)
    with pytest.raises(ValueError, match="'b' has ranks of shape"):
        plots.rank_ecdf({"a": np.zeros(3, int), "b": np.zeros(4, int)}, 9)
    with pytest.raises(ValueError, match="level"):
        ecdf_band(10, 9, level=1.0)
    with pytest.raises(ValueError, match="'sd'"):
        plots.replicates({"sd": (np.array([np.nan]), 0.0, 0.5)})
    for draw in (lambda: plots.rank_ecdf({}, 9), lambda: plots.replicates({})):
        with pytest.raises(ValueError, match="empty"):
            draw()
