"""Grey to binary: the right frequencies, drawn as often as said, and refused where it makes no sense."""

import numpy as np
import pytest
import torch

from pyrarchy.binarize import BINARIZATIONS, LIKELIHOODS, binarization, check_support, support_of
from pyrarchy.datasets import Dataset, load_data
from pyrarchy.files import DataError


def grey(rows=5000, tests=400):
    """Columns of constant grey 0, .1, .5, .7, 1."""
    levels = np.array([0.0, 0.1, 0.5, 0.7, 1.0], dtype=np.float32)
    return Dataset("grey", np.tile(levels, (rows, 1)), np.tile(levels, (tests, 1)), support="unit"), levels


def near(draws, levels):
    """Zeros and ones whose column means are ``levels``, within four standard errors (exactly at 0 and 1)."""
    assert set(np.unique(draws)) <= {0.0, 1.0} and draws.dtype == np.float32 and draws.flags.c_contiguous
    error = np.sqrt(levels * (1 - levels) / len(draws))
    assert (np.abs(draws.mean(0) - levels) <= 4 * error + 1e-7).all()


def test_fixed_is_drawn_once_from_the_seed():
    data, levels = grey()
    drawn = binarization("fixed", seed=3).prepare(data)
    near(drawn.train, levels)
    near(drawn.test, levels)
    assert drawn.support == "binary" == support_of(drawn.train, drawn.test) and drawn.image_shape == data.image_shape
    again, other = (binarization("fixed", seed=seed).prepare(data) for seed in (3, 4))
    np.testing.assert_array_equal(again.train, drawn.train)
    assert not np.array_equal(other.train, drawn.train) and not np.array_equal(drawn.train[:400], drawn.test)
    # Neighbouring rows and columns are independent: the agreement of two draws of .5 and .7 is one half.
    assert abs((drawn.train[:, 2] == drawn.train[:, 3]).mean() - 0.5) < 4 * 0.5 / 5000**0.5
    assert abs((drawn.train[1:, 2] == drawn.train[:-1, 2]).mean() - 0.5) < 4 * 0.5 / 5000**0.5
    # The test rows do not depend on the training rows.
    np.testing.assert_array_equal(binarization("fixed", seed=3).prepare(grey(rows=7)[0]).test, drawn.test)
    batch = torch.from_numpy(drawn.train[:6])
    assert binarization("fixed").draw(batch) is batch


def test_fixed_leaves_the_grey_data_and_numpy_s_global_state_alone():
    data, levels = grey(rows=50)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    binarization("fixed").prepare(data)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(data.train, np.tile(levels, (50, 1)))


def test_dynamic_is_drawn_at_each_use_and_tests_on_fixed_rows():
    data, levels = grey()
    dynamic = binarization("dynamic", seed=3)
    ready = dynamic.prepare(data)
    np.testing.assert_array_equal(ready.train, data.train)
    np.testing.assert_array_equal(ready.test, binarization("fixed", seed=3).prepare(data).test)
    batch = torch.from_numpy(ready.train)
    first, second = dynamic.draw(batch), dynamic.draw(batch)
    near(first.numpy(), levels)
    near(second.numpy(), levels)
    assert not torch.equal(first, second)
    test = torch.from_numpy(ready.test)
    assert torch.equal(dynamic.draw(test), test)
    torch.manual_seed(5)
    one = dynamic.draw(batch)
    torch.manual_seed(5)
    assert torch.equal(one, dynamic.draw(batch)) and dynamic.draw(batch.double()).dtype == torch.float64


def test_none_changes_nothing():
    data, _ = grey(rows=3)
    batch = torch.from_numpy(data.train)
    assert binarization("none").prepare(data) is data and binarization("none").draw(batch) is batch
    assert set(BINARIZATIONS) == {"dynamic", "fixed", "none"}


def test_data_without_test_rows():
    data = Dataset("a", np.full((9, 4), 0.5, np.float32), support="unit")
    assert binarization("fixed").prepare(data).test is None and binarization("dynamic").prepare(data).test is None


@pytest.mark.parametrize(("likelihood", "support", "binarize"), [
    ("bernoulli", "binary", "none"), ("bernoulli", "unit", "dynamic"), ("bernoulli", "unit", "fixed"),
    ("bernoulli", "binary", "dynamic"), ("continuous_bernoulli", "unit", "none"), ("gaussian", "real", "none"),
    ("gaussian", "unit", "none"), ("gaussian", "binary", "none"),
])  # fmt: skip
def test_what_is_allowed(likelihood, support, binarize):
    check_support(Dataset("a", np.ones((2, 3), np.float32), support=support), likelihood, binarize)


@pytest.mark.parametrize(("likelihood", "support", "binarize", "reason"), [
    ("bernoulli", "unit", "none", r"grey values in \[0, 1\].*--binarize dynamic or --binarize fixed.*vae_gaussian"),
    ("bernoulli", "real", "none", "from -2 to 255.*zeros and ones.*vae_gaussian.*--binarize dynamic or --bin"),
    ("bernoulli", "real", "dynamic", "from -2 to 255, which --binarize dynamic cannot take.*vae_gaussian"),
    ("gaussian", "real", "fixed", "from -2 to 255, which --binarize fixed cannot take"),
    ("gaussian", "unit", "dynamic", "makes zeros and ones, but a gaussian.*--binarize none"),
    ("continuous_bernoulli", "real", "none", r"needs values in \[0, 1\]; .*scale the data to \[0, 1\]$"),
    ("bernoulli", "unit", "static", "binarize is 'static'; give one of dynamic, fixed, none"),
    ("bernouli", "unit", "none", "likelihood is 'bernouli'; give one of bernoulli"),
])  # fmt: skip
def test_what_is_refused_says_which_option_to_pass(likelihood, support, binarize, reason):
    train = np.array([[-2.0, 3.0], [4.0, 5.0]], np.float32)
    data = Dataset("mine", train, np.array([[0.0, 255.0]], np.float32), support=support)
    with pytest.raises(DataError, match=reason):
        check_support(data, likelihood, binarize)


def test_preparing_what_cannot_be_drawn_is_refused_too():
    for name in ("fixed", "dynamic"):
        with pytest.raises(DataError, match=f"eight_schools: has values from -3 to 28, which --binarize {name}"):
            binarization(name).prepare(load_data("eight_schools"))
        with pytest.raises(DataError, match=f"^pair: has values from 0.25 to 0.5, which --binarize {name}"):
            pair = (np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
            binarization(name).prepare(Dataset("pair", pair, support="unit"))
    with pytest.raises(DataError, match=r"eight_schools: .*bernoulli likelihood"):
        check_support(load_data("eight_schools"), "bernoulli")
    check_support(load_data("eight_schools"), "gaussian")
    assert list(LIKELIHOODS) == ["bernoulli", "continuous_bernoulli", "gaussian"]


def test_support_looks_at_every_chunk(monkeypatch):
    monkeypatch.setattr("pyrarchy.binarize._CHUNK", 6)  # two rows at a time
    for last, support in ((1.0, "binary"), (0.5, "unit"), (1.5, "real"), (-0.1, "real")):
        values = np.zeros((7, 3), np.float32)
        values[6, 2] = last
        assert support_of(values) == support
        assert support_of(np.eye(3), values) == support
