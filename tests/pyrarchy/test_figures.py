"""Pictures of runs: which there are, and that the arrays behind them are the model's own answers."""

import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import pyrarchy
from pyrarchy import plots
from pyrarchy.figures import Canvas, by_depth, curves, interpolate, pictures, traverse, widest_units
from pyrarchy.inference import Record, decode, encode, evaluate

LOCAL = {"curves", "rates", "images", "traversals", "interpolations", "latent"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hvae", LOCAL),
        ("factor_analysis", LOCAL),
        ("ppca", LOCAL),
        ("plain", {"curves", "rates", "images", "interpolations"}),
        ("eight_schools", {"curves", "forest"}),
    ],
)
def test_each_run_has_the_pictures_that_make_sense(name, expected, fitted):
    out = fitted(name).out
    assert {path.stem for path in out.glob("*.png")} == expected
    page = (out / "report.html").read_text(encoding="utf-8")
    # beside the files, the page draws k-hat, held-out log p and the rates of units, as they apply
    assert page.count("data:image/png;base64,") - len(expected) in (0, 1, 2, 3)


def test_canvas_paints_dropped_columns_with_their_mean():
    digits = pyrarchy.load_data("digits")
    keep = np.flatnonzero(np.ptp(digits.train, axis=0) > 0)
    canvas = Canvas(digits, keep)
    rows = np.random.default_rng(0).random((3, 4, len(keep)), dtype=np.float32)
    painted = canvas(rows)
    assert painted.shape == (3, 4, 64)
    assert np.array_equal(painted[..., keep], rows)
    gone = np.setdiff1d(np.arange(64), keep)
    assert (painted[..., gone] == digits.mean[gone]).all()
    assert canvas.limits == (0.0, 1.0) and canvas.image_shape == (8, 8)
    assert Canvas(digits, None)(rows) is rows
    assert Canvas(pyrarchy.load_data("gaussian_tree"), None).limits is None


def test_layers_are_sorted_from_the_top_down():
    assert by_depth({"z1": 0, "z10": 0, "z2": 0}) == ["z10", "z2", "z1"]


def test_curve_at_temperature_one_is_shown_when_it_differs(monkeypatch):
    shown = {}
    monkeypatch.setattr(plots, "loss_curves", lambda series, **kwargs: shown.update(series))
    record = Record(losses=[3.0, 2.0], values=[-4.0, -2.0], temperatures=[0.5, 1.0], step=2)
    curves(record)
    assert [shown[key][1].tolist() for key in ("training loss", "at temperature one")] == [[3, 2], [4, 2]]
    assert shown["training loss"][0].tolist() == [1, 2]
    shown.clear()
    record.temperatures = [1.0, 1.0]
    curves(record)
    assert list(shown) == ["training loss"]
    shown.clear()
    curves([-5.0, -4.5])
    assert shown["EM"][1].tolist() == [5, 4.5]


@pytest.fixture
def hierarchy():
    torch.manual_seed(0)
    model, guide = pyrarchy.get_pair("hvae")(z_dims=(11, 3), hidden=(7, 5))
    rows = (torch.rand(13, 64) > 0.5).float()
    return model, guide, rows, encode(model, guide, rows)


def test_widest_units_are_those_that_move_most(hierarchy):
    model, guide, rows, codes = hierarchy
    evaluation = evaluate(model, guide, rows, num_samples=20)
    name, units = widest_units(codes, evaluation)
    assert name == max(evaluation.rates, key=evaluation.rates.get)
    variances = evaluation.variances[name]
    assert len(units) == min(8, variances.size)
    assert variances[units].min() >= np.delete(variances, units).max(initial=0.0)


def test_traversal_moves_one_unit_and_holds_the_rest(hierarchy):
    """Each picture is the model's own decoding of the first datum's code with one unit moved, layers above held."""
    model, _, rows, codes = hierarchy
    moved, titles = traverse(model, rows[:1], codes, "z1", [4, 9])
    assert moved["x"].shape == (2, 9, 64) and titles == ["z1[4]", "z1[9]"]
    code = codes["z1"][:1].copy()
    code[0, 9] = codes["z1"][:, 9].mean() + 2.5 * codes["z1"][:, 9].std()
    values = {"z1": torch.from_numpy(code), "z2": torch.from_numpy(codes["z2"][:1])}
    np.testing.assert_allclose(moved["x"][1, -1], decode(model, (rows[:1],), values)["x"][0], rtol=1e-4, atol=1e-6)
    top, _ = traverse(model, rows[:1], codes, "z2", [0])
    assert top["x"].shape == (1, 9, 64)


def test_interpolation_ends_at_the_codes(hierarchy):
    model, _, rows, codes = hierarchy
    between = interpolate(model, rows[:1], codes, [(0, 1), (5, 2)])["x"]
    assert between.shape == (2, 9, 64)
    ends = decode(model, (rows[:1],), {n: torch.from_numpy(c) for n, c in codes.items()})["x"]
    np.testing.assert_allclose(between[:, 0], ends[[0, 5]], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(between[:, -1], ends[[1, 2]], rtol=1e-4, atol=1e-6)
    middle = {n: torch.from_numpy((c[:1] + c[1:2]) / 2) for n, c in codes.items()}
    np.testing.assert_allclose(between[0, 4], decode(model, (rows[:1],), middle)["x"][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("count", "missing"), [(1, {"traversals", "interpolations", "latent"}), (2, {"latent"})])
def test_few_rows_leave_pictures_out(hierarchy, count, missing):
    model, guide, rows, _ = hierarchy
    evaluation = evaluate(model, guide, rows[:count], num_samples=5)
    record = Record(losses=[1.0], values=[-1.0], temperatures=[1.0], step=1)
    canvas = Canvas(pyrarchy.load_data("digits"), None)
    found = pictures(pyrarchy.get_pair("hvae"), model, guide, canvas, rows[:count], None, evaluation, record)
    assert set(found) == LOCAL - missing
    assert all(isinstance(figure, Figure) for figure in found.values())


def test_pictures_leave_no_window_open(fitted):
    """Figures are not pyplot's, so nothing stays open and no display is needed."""
    fitted("hvae")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
