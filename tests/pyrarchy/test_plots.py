import doctest
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from pyrarchy import (
    plot_average,
    plot_calibration,
    plot_codes,
    plot_curves,
    plot_diagnostics,
    plot_images,
    plot_statistics,
    plot_style,
    plots,
)


def rng():
    return np.random.default_rng(7)


def texts(figure):
    """Every string that is drawn, with its extent in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = list(figure.texts)
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [tick.label2 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    for legend in figure.findobj(Legend):
        found += legend.get_texts()
    return [(t.get_text(), t.get_window_extent()) for t in found if t.get_visible() and t.get_text().strip()]


def assert_readable(figure):
    boxes = texts(figure)
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text!r} is cut: {box} in {figure.bbox}"
    for (a, box), (b, other) in combinations(boxes, 2):
        over = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
        assert min(over) <= 1, f"{a!r} and {b!r} overlap by {over} pixels"


def labels(axes):
    return axes.get_xlabel(), axes.get_ylabel()


def legend_texts(figure):
    return [text.get_text() for legend in figure.findobj(Legend) for text in legend.get_texts()]


LONG = "markov hierarchical autoencoder with a ladder, free bits 0.5, fifty particles, seed 0"


def samples():
    """Every function on ordinary input and on awkward names."""
    r, steps = rng(), np.arange(1, 301)
    curve = 20 + 500 * np.exp(-steps / 9) + r.normal(size=300)
    images = r.random((13, 6))
    strips = r.random((4, 5, 6))
    many = {f"z1[{i}]": r.integers(0, 20, 400) for i in range(9)}
    tables = {
        name: (r.normal(size=90), v, 0.03) for name, v in (("mean", 0.1), ("sd", 3.0), ("min", -2.0), (LONG, 9.0))
    }
    schools = {f"theta[{name}]": (1.0, -3.0, 4.5) for name in ("Choate", "Phillips Andover", "a" * 40)}
    rates = {"elbo": {"z1": 12.25, "z2": 3.5, "z3": 0.004}, LONG: {"z1": 11.0, "z2": 5.0}}
    return {
        "loss_curves": plots.loss_curves({"elbo": (steps, curve), LONG: (steps, curve - 1), "$a_$": (steps, curve)}),
        "loss_curves_log": plots.loss_curves({"elbo": (steps, curve)}, log_x=True),
        "loss_curves_one": plots.loss_curves({"elbo": ([4], [5.0])}),
        "loss_curves_many": plots.loss_curves({f"run {i}": (steps, curve + i) for i in range(12)}),
        "image_grid": plots.image_grid({"input": images[:7], "reconstruction": images[:7], LONG: images}, (2, 3)),
        "image_grid_left": plots.image_grid({"input": images[:7], "prior": images}, (2, 3), columns=5),
        "image_grid_one": plots.image_grid({LONG: images[:1]}, (2, 3)),
        "traversals": plots.traversals(strips, (2, 3), [f"z2[{i}]" for i in range(4)]),
        "traversals_profiles": plots.traversals(strips, None),
        "interpolations": plots.interpolations(strips, (2, 3)),
        "profile_grid": plots.profile_grid({"input": images, LONG: images[:5]}, names=[*"abcd", "long name", "f" * 30]),
        "profile_grid_plane": plots.profile_grid({"data": r.normal(size=(11, 2)), LONG: r.normal(size=(30, 2))}),
        "latent_scatter": plots.latent_scatter(r.normal(size=(90, 5)), np.arange(90) % 10, name="z1"),
        "latent_scatter_names": plots.latent_scatter(
            r.normal(size=(90, 2)), [LONG if i % 2 else "b" for i in range(90)]
        ),
        "latent_scatter_number": plots.latent_scatter(r.normal(size=(90, 3)), r.normal(size=90)),
        "latent_scatter_line": plots.latent_scatter(r.normal(size=(90, 1)), np.arange(90) % 3),
        "latent_scatter_one": plots.latent_scatter(np.ones((1, 4))),
        "forest": plots.forest({"mean field": schools, "iaf": schools, LONG: schools}, schools),
        "rank_ecdf": plots.rank_ecdf({"z1": r.integers(0, 100, 300), LONG: r.integers(0, 50, 300)}, 99),
        "rank_ecdf_many": plots.rank_ecdf(many, 19),
        "replicates": plots.replicates({"mean": (r.normal(size=90), 9.0, 0.001)}),
        "replicates_many": plots.replicates(tables),
        "replicates_more": plots.replicates({**tables, "last": tables["sd"]}),
        "rate_bars": plots.rate_bars(rates, {"elbo": {"z1": (16, 16), "z3": (0, 4)}, LONG: {"z1": (1, 16)}}),
        "rate_bars_zero": plots.rate_bars({"elbo": {"z1": 0.0, "z2": -0.02}}),
        "k_hat_histogram": plots.k_hat_histogram(r.normal(0.4, 0.2, size=200)),
        "k_hat_histogram_far": plots.k_hat_histogram(np.array([-np.inf, 0.2, 7.5, np.inf])),
    }


@pytest.fixture(scope="module")
def drawn():
    return samples()


def test_every_text_is_inside_the_picture_and_touches_no_other(drawn):
    for name, figure in drawn.items():
        try:
            assert_readable(figure)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def test_the_readability_check_sees_a_cut_and_an_overlap():
    figure = Figure(figsize=(2, 1))
    figure.text(0.9, 0.5, "this runs over the edge")
    with pytest.raises(AssertionError, match="cut"):
        assert_readable(figure)
    figure = Figure(figsize=(4, 1))
    figure.text(0.1, 0.5, "one")
    figure.text(0.12, 0.5, "two")
    with pytest.raises(AssertionError, match="overlap"):
        assert_readable(figure)


def test_every_figure_is_810_pixels_wide_and_has_no_empty_panel(drawn):
    for name, figure in drawn.items():
        assert round(figure.get_figwidth() * plot_style.DPI) == 810, name
        for axes in figure.axes:
            assert axes.has_data() or axes.get_label() == "<colorbar>", name


def test_png_is_the_same_for_the_same_data_and_does_not_feel_the_users_style(drawn):
    steps, values = np.arange(1, 6), rng().normal(size=5)
    before = dict(matplotlib.rcParams)
    plain = plots.png(plots.loss_curves({"run": (steps, values)}))
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context(
        {"font.size": 25, "savefig.dpi": 40, "savefig.bbox": "tight", "axes.grid": True, "axes.linewidth": 9}
    ):
        assert plots.png(plots.loss_curves({"run": (steps, values)})) == plain
    assert plain.startswith(b"\x89PNG") and b"matplotlib" not in plain
    assert plots.png(plots.loss_curves({"run": (steps, values + 1)})) != plain


# Curves


def test_loss_curves_draw_the_data_and_their_running_mean():
    r, steps = rng(), np.arange(10, 160)
    a, b = r.normal(size=150), r.normal(size=30)
    figure = plots.loss_curves({"a": (steps, a), "b": (steps[:30], b)})
    raw, smooth, short = figure.axes[0].lines
    assert np.array_equal(raw.get_xdata(), steps) and np.array_equal(raw.get_ydata(), a)
    mean = [a[max(i - 1, 0) : i + 2].mean() for i in range(150)]  # 150 // 50 = 3 values
    np.testing.assert_allclose(smooth.get_ydata(), mean, atol=1e-12)
    assert np.array_equal(short.get_ydata(), b)  # too few to smooth: drawn as they are, once
    assert labels(figure.axes[0]) == ("step", "loss (nats per datum)")
    assert legend_texts(figure) == ["a", "b"]
    assert raw.get_color() == smooth.get_color() != short.get_color()


def test_the_first_steps_do_not_flatten_a_curve_and_the_figure_says_so():
    steps = np.arange(1, 1001)
    values = 10 + 1e4 * (steps < 20) + np.sin(steps / 90)
    figure = plots.loss_curves({"a": (steps, values)})
    low, high = figure.axes[0].get_ylim()
    assert low < 9 and 11 < high < 12
    assert "outside" in figure.axes[0].get_title(loc="right")
    calm = plots.loss_curves({"a": (steps, 10 + np.sin(steps / 90))})
    assert calm.axes[0].get_title(loc="right") == ""


def test_log_steps():
    steps = np.arange(1, 200)
    figure = plots.loss_curves({"a": (steps, 1 / steps)}, log_x=True)
    assert figure.axes[0].get_xscale() == "log"
    assert {"1", "10", "100"} <= {text for text, _ in texts(figure)}
    with pytest.raises(ValueError, match="'a' has step 0"):
        plots.loss_curves({"a": (steps - 1, steps)}, log_x=True)


def test_a_value_that_is_not_finite_leaves_a_gap():
    values = np.array([3.0, np.nan, 2.0, np.inf, 1.0])
    figure = plots.loss_curves({"a": (np.arange(5), values)})
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [3, np.nan, 2, np.nan, 1])


# Images


def tiles(axes, height, width):
    """Cut a sheet back into its images; the gaps must be blank."""
    sheet = np.ma.filled(axes.images[0].get_array(), np.nan)
    sheet = np.pad(sheet, ((0, 1), (0, 1)), constant_values=np.nan)
    lines, columns = sheet.shape[0] // (height + 1), sheet.shape[1] // (width + 1)
    sheet = sheet.reshape(lines, height + 1, columns, width + 1).swapaxes(1, 2).reshape(-1, height + 1, width + 1)
    assert np.isnan(sheet[:, height]).all() and np.isnan(sheet[:, :, width]).all()
    return sheet[:, :height, :width]


def test_image_grid_draws_every_image_crisply_and_in_order():
    inputs, prior = rng().random((4, 6)), rng().random((7, 6))
    figure = plots.image_grid({"input": inputs, "prior samples": prior}, (2, 3), columns=5)
    first, second = figure.axes
    np.testing.assert_array_equal(tiles(first, 2, 3)[:4], inputs.reshape(4, 2, 3))
    assert np.isnan(tiles(first, 2, 3)[4:]).all()  # the fifth column has no input
    np.testing.assert_array_equal(tiles(second, 2, 3)[:7], prior.reshape(7, 2, 3))  # on a second line
    assert [text for text, _ in texts(figure)] == ["input", "prior samples"]
    for axes in figure.axes:
        assert axes.images[0].get_interpolation() == "nearest" and axes.images[0].get_clim() == (0, 1)
        assert not axes.get_xticks().size and not axes.get_yticks().size
        scale = np.array(axes.get_window_extent().size) / axes.images[0].get_array().shape[::-1]
        np.testing.assert_allclose(scale, round(scale[0]), atol=1e-6)  # square pixels, whole device pixels


def test_the_drawn_pixels_are_the_images():
    image = np.array([[0.0, 0.2, 0.4], [0.6, 0.8, 1.0]])
    figure = plots.image_grid({"x": image.reshape(1, 6)}, (2, 3))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture, box = np.asarray(canvas.buffer_rgba())[::-1, :, 0] / 255, figure.axes[0].get_window_extent()
    scale = round(box.width / 3)
    seen = picture[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)][::-1]
    np.testing.assert_allclose(seen, np.kron(image, np.ones((scale, scale))), atol=1 / 255)


@pytest.mark.parametrize("shape", [(2, 3), (5, 61)])  # pixels of 53 and of 3 device pixels
def test_a_frame_of_one_pixel_surrounds_each_image_and_nothing_else(shape):
    height, width = shape
    figure = plots.image_grid({"x": np.ones((5, height * width))}, shape, columns=3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture, box = np.asarray(canvas.buffer_rgba())[..., :3], figure.axes[0].get_window_extent()
    size = round(box.width / (3 * (width + 1) - 1))
    left, top = round(box.x0), round(figure.bbox.height - box.y1)
    expected = np.full_like(picture[top - 2 :, left - 2 :], 255)
    for line, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):  # the sixth place is empty and stays white
        y, x = 2 + line * (height + 1) * size, 2 + column * (width + 1) * size
        expected[y - 1 : y + height * size + 1, x - 1 : x + width * size + 1] = 255 * np.array(to_rgba("#C8C8C8")[:3])
        expected[y : y + height * size, x : x + width * size] = 255
    np.testing.assert_array_equal(picture[top - 2 :, left - 2 :], expected)


def test_limits_from_the_data():
    figure = plots.image_grid({"a": np.array([[-2.0, 1.0]]), "b": np.array([[0.0, 5.0]])}, (1, 2), limits=None)
    assert [axes.images[0].get_clim() for axes in figure.axes] == [(-2, 5), (-2, 5)]


def test_traversals_and_interpolations_are_a_line_per_unit():
    strips = rng().random((3, 5, 6))
    figure = plots.traversals(strips, (2, 3), ["z1[0]", "z1[4]", "z2[1]"])
    for axes, strip in zip(figure.axes, strips, strict=True):
        np.testing.assert_array_equal(tiles(axes, 2, 3), strip.reshape(5, 2, 3))
    assert [text for text, _ in texts(figure)] == ["z1[0]", "z1[4]", "z2[1]"]
    assert [text for text, _ in texts(plots.interpolations(strips, (2, 3)))] == ["pair 1", "pair 2", "pair 3"]


def test_profile_grid_draws_what_is_no_image_on_one_scale():
    a, b = rng().normal(size=(4, 5)), 3 * rng().normal(size=(6, 5))
    figure = plots.image_grid({"data": a, "samples": b}, None)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), a)
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), b)
    ends = min(a.min(), b.min()), max(a.max(), b.max())
    assert [axes.images[0].get_clim() for axes in figure.axes[:2]] == [ends, ends]
    assert figure.axes[1].get_xlabel() == "dimension of x"
    named = plots.profile_grid({"data": a}, names=["u", "v", "w", "x", "y"])
    assert [tick.get_text() for tick in named.axes[0].get_xticklabels()] == ["u", "v", "w", "x", "y"]


# Codes


def test_latent_scatter_in_two_dimensions_is_the_codes_by_label():
    z, label = rng().normal(size=(9, 2)), np.array([3, 1, 1, 3, 1, 2, 2, 3, 1])
    figure = plots.latent_scatter(z, label, name="z2")
    for points, value in zip(figure.axes[0].collections, (1, 2, 3), strict=True):
        np.testing.assert_array_equal(points.get_offsets(), z[label == value])
    assert labels(figure.axes[0]) == ("z2[0]", "z2[1]") and legend_texts(figure) == ["1", "2", "3"]


def test_latent_scatter_projects_on_the_principal_axes():
    z = rng().normal(size=(50, 4)) * [1.0, 5.0, 0.1, 2.0]
    figure = plots.latent_scatter(z)
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    values, vectors = np.linalg.eigh(np.cov(z.T))
    expected = (z - z.mean(0)) @ vectors[:, [3, 2]]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-10)
    for sign in (1, -1):  # the largest loading is positive, whichever sign the decomposition returns
        turned = np.asarray(plots.latent_scatter(sign * z).axes[0].collections[0].get_offsets())
        assert np.corrcoef(turned[:, 0], sign * z[:, 1])[0, 1] > 0.9
        assert np.corrcoef(turned[:, 1], sign * z[:, 3])[0, 1] > 0.9
    assert f"({values[3] / values.sum():.0%} of variance)" in figure.axes[0].get_xlabel()
    np.testing.assert_array_equal(plots.latent_scatter(z).axes[0].collections[0].get_offsets(), points)


def test_ten_labels_look_different():
    figure = plots.latent_scatter(rng().normal(size=(40, 2)), np.arange(40) % 20)
    lines = [line for legend in figure.findobj(Legend) for line in legend.get_lines()]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20
    assert len({line.get_color() for line in lines[:10]}) == 10


# Statistics


def test_forest_draws_means_intervals_and_reference():
    reference = {"mu": (4.0, -1.0, 9.0), "tau": (3.0, 0.5, 8.0)}
    guides = {"mean field": {"mu": (4.5, 1.0, 7.0), "tau": (2.0, 1.0, 3.5)}, "iaf": {"tau": (2.9, 0.6, 7.0)}}
    figure = plots.forest(guides, reference)
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["mu", "tau"]
    bands = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert bands == [(-1, 9), (0.5, 8)]
    segments = [[tuple(s[:, 0]) for s in lines.get_segments()] for lines in axes.collections]
    assert segments == [[(1, 7), (1, 3.5)], [(0.6, 7)]]
    means = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() != "None"]
    assert means == [[4.5, 2.0], [2.9]]
    rows = [round(float(y)) for y in np.concatenate([ln.get_ydata() for ln in axes.lines if ln.get_marker() != "None"])]
    assert rows == [0, 1, 1]
    assert legend_texts(figure) == ["mean field", "iaf", "reference"]


def test_rate_bars_have_the_rates_as_lengths_and_the_units_in_words():
    rates = {"a": {"z1": 12.0, "z2": 3.5, "z3": 0.004}, "b": {"z1": 9.0}}
    figure = plots.rate_bars(rates, {"a": {"z1": (15, 16), "z3": (0, 4)}})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [12.0, 3.5, 0.004, 9.0]
    written = [text.get_text() for text in axes.texts]
    assert written == ["12.00   15 of 16 units active", "3.50", "0.004   0 of 4 units active", "9.00"]
    assert axes.get_xlabel() == "rate KL(q || p) (nats per datum)"
    ends = [text.get_window_extent().x1 for text in axes.texts]
    right = axes.get_window_extent().x1
    assert right > 780 and right - 30 < max(ends) <= right  # the axis is as long as the longest words need, no longer


def test_k_hat_histogram_counts_every_datum_once_and_shades_the_thresholds():
    k = np.array([0.1, 0.5, 0.5, 0.55, 0.7, 0.71, 3.0, np.inf, -np.inf])
    figure = plots.k_hat_histogram(k)
    axes = figure.axes[0]
    bars = [p for p in axes.patches if p.get_facecolor() == to_rgba("#4D4D4D")]
    by_class = [0, 0, 0]
    for bar in bars:
        right = round(bar.get_x() + bar.get_width(), 6)
        by_class[0 if right <= 0.5 else 1 if right <= 0.7 else 2] += bar.get_height()
    assert by_class == [4, 2, 3]
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches if p not in bars]
    np.testing.assert_allclose(spans, [(axes.get_xlim()[0], 0.5), (0.5, 0.7), (0.7, axes.get_xlim()[1])])
    assert legend_texts(figure)[0].startswith("good: 44.4%") and "k > 0.7" in legend_texts(figure)[2]
    assert labels(axes) == ("Pareto k-hat", "data")
    assert plots.k_hat_shares(k) == {"good": 4 / 9, "usable": 2 / 9, "do not trust": 3 / 9}


# Errors

SHAPE = (2, 3)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plots.loss_curves({}), "curves is empty"),
        (lambda: plots.loss_curves({"a": ([], [])}), "'a' has no finite value"),
        (lambda: plots.loss_curves({"a": ([1, 2], [np.nan, np.inf])}), "'a' has no finite value"),
        (lambda: plots.loss_curves({"a": ([1, 2], [1.0])}), r"'a'.*\(2,\).*\(1,\)"),
        (lambda: plots.image_grid({}, SHAPE), "rows is empty"),
        (lambda: plots.image_grid({"x": np.zeros((0, 6))}, SHAPE), r"'x' has shape \(0, 6\)"),
        (lambda: plots.image_grid({"x": np.zeros((3, 5))}, SHAPE), r"'x' has shape \(3, 5\).*\(n, 6\)"),
        (lambda: plots.image_grid({"x": np.zeros((3, 6))}, (6,)), "height, width"),
        (lambda: plots.profile_grid({}), "rows is empty"),
        (lambda: plots.profile_grid({"a": np.full((2, 3), np.nan)}), "'a' has no finite value"),
        (lambda: plots.profile_grid({"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}), "one common D"),
        (lambda: plots.profile_grid({"a": np.zeros((2, 3))}, names=["u"]), "1 names for 3"),
        (lambda: plots.traversals(np.zeros((0, 5, 6)), SHAPE), "none of them 0"),
        (lambda: plots.traversals(np.zeros((2, 5, 6)), SHAPE, ["one"]), "2 units"),
        (lambda: plots.interpolations(np.zeros((2, 6)), SHAPE), "pairs, steps, D"),
        (lambda: plots.latent_scatter(np.zeros((0, 2))), r"\(0, 2\)"),
        (lambda: plots.latent_scatter(np.zeros((3, 2)), [1, 2]), "2 labels for 3 codes"),
        (lambda: plots.latent_scatter(np.full((3, 2), np.nan)), "not finite"),
        (lambda: plots.latent_scatter(np.zeros((30, 2)), [f"s{i}" for i in range(30)]), "30 different labels"),
        (lambda: plots.forest({}), "intervals is empty"),
        (lambda: plots.forest({"g": {}}), "'g' is empty"),
        (lambda: plots.forest({"g": {"mu": (0.0, 2.0, 1.0)}}), "'g', 'mu'"),
        (lambda: plots.forest({"g": {"mu": (0.0, -1.0, 1.0)}}, {}), "'reference' is empty"),
        (lambda: plots.rate_bars({}), "rates is empty"),
        (lambda: plots.rate_bars({"a": {}}), "'a' is empty"),
        (lambda: plots.rate_bars({"a": {"z1": np.nan}}), "'a', site 'z1'"),
        (lambda: plots.k_hat_histogram(np.array([])), "k is empty"),
        (lambda: plots.k_hat_histogram(np.array([0.1, np.nan])), "1 of 2 k-hats are NaN"),
    ],
)
def test_empty_or_wrong_input_is_a_value_error_that_says_what(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


@pytest.mark.parametrize("module", [plots, plot_curves, plot_statistics], ids=lambda module: module.__name__)
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_plots_offers_every_figure_of_its_files():
    parts = (
        plot_average,
        plot_calibration,
        plot_codes,
        plot_curves,
        plot_images,
        plot_diagnostics,
        plot_statistics,
        plot_style,
    )
    assert sorted(name for part in parts for name in part.__all__) == sorted(plots.__all__)
    for part in parts:
        for name in part.__all__:
            assert getattr(plots, name) is getattr(part, name)
