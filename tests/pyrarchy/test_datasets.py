"""Named data sets: the published bytes, the documented split, and no torch on the way."""

import gzip
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyrarchy.datasets
from pyrarchy.datasets import Dataset, list_data, load_data
from pyrarchy.fetch import REMOTES, find
from pyrarchy.files import DataError

DATA = Path(pyrarchy.datasets.__file__).with_name("data")


def test_digits_are_the_pixels_of_scikit_learn_in_the_documented_order():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digits = load_data("digits")
    assert digits.train.shape == (1500, 64) and digits.test.shape == (297, 64) and digits.image_shape == (8, 8)
    assert digits.train.dtype == digits.test.dtype == np.float32 and digits.train.flags.c_contiguous
    with np.load(DATA / "digits.npz") as archive:
        order = archive["order"]
    assert sorted(order.tolist()) == list(range(1797)) and order[:4].tolist() == [855, 921, 269, 1185]
    np.testing.assert_array_equal(np.concatenate([digits.train, digits.test]), images[order] / 16)
    np.testing.assert_array_equal(np.concatenate([digits.train_labels, digits.test_labels]), labels[order])
    assert digits.support == "unit" and digits.train.max() == 1 and digits.train.min() == 0
    # Rows come by writer: a fair split takes about 297 / 1797 of any stretch of them. 150 rows: 24.8 +- 4.4.
    held = np.histogram(order[1500:], bins=np.arange(0, 1801, 150))[0]
    assert (np.abs(held[:-1] - 24.8) < 4 * 4.4).all()
    assert digits.licence == "CC BY 4.0" and "Alpaydin and Kaynak (1998)" in digits.source


def test_the_embedded_digits_can_be_made_again():
    made = runpy.run_path(str(DATA / "make_digits.py"))["digits_arrays"]()
    with np.load(DATA / "digits.npz") as archive:
        assert set(archive.files) == set(made) == {"images", "labels", "order"}
        for name, values in made.items():
            assert archive[name].dtype == values.dtype
            np.testing.assert_array_equal(archive[name], values)


def test_what_a_data_set_knows_of_itself():
    digits = load_data("digits")
    assert (digits.dim, digits.num_train) == (64, 1500) and digits.mean.dtype == np.float32
    np.testing.assert_allclose(digits.mean, digits.train.astype(np.float64).mean(0), rtol=1e-6)
    train = np.full((3, 2), 2.0**24, dtype=np.float32) + np.array([[0], [2], [2]], dtype=np.float32)
    # Summed in float32 these means come out at 2^24 + 0 or + 2; the mean is + 4/3, which rounds to + 2.
    np.testing.assert_array_equal(Dataset("a", train).mean, np.float32(2**24 + 4 / 3))


def test_eight_schools():
    schools = load_data("eight-schools")
    effects, errors = schools.train
    assert effects.tolist() == [28, 8, -3, 7, -1, 1, 18, 12] and errors.tolist() == [15, 10, 16, 11, 9, 11, 10, 18]
    assert effects.dtype == errors.dtype == np.float32 and schools.coords == {"school": list("ABCDEFGH")}
    assert schools.num_train == 8 and schools.support == "real" and schools.test is None
    # The pooled mean and its standard error, 7.7 and 4.1, are in Gelman et al., Bayesian Data Analysis, section 5.5.
    weights = errors**-2.0
    assert round(float((weights * effects).sum() / weights.sum()), 1) == 7.7
    assert round(float(weights.sum() ** -0.5), 1) == 4.1
    for what in ("dim", "mean"):
        with pytest.raises(DataError, match=f"tuple of 2 arrays, without a {what}"):
            getattr(schools, what)


GOOD = {"train": np.zeros((5, 6), np.float32), "test": np.zeros((3, 6), np.float32)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"train": np.zeros((5, 6))}, "train is float64 of shape"),
        ({"train": np.zeros(5, np.float32)}, r"shape \(5,\)"),
        ({"train": np.zeros((5, 6), np.float32, order="F")}, "C-contiguous"),
        ({"test": np.zeros((3, 4), np.float32)}, "test has 4 columns, train 6"),
        ({"train_labels": np.zeros(3, int)}, r"train_labels has shape \(3,\); give \(5,\)"),
        ({"test_labels": np.zeros(5, int)}, r"test_labels has shape \(5,\); give \(3,\)"),
        ({"image_shape": (2, 4)}, r"image_shape \(2, 4\) does not hold 6"),
        ({"support": "grey"}, "support is 'grey'"),
        ({"train": (np.zeros(3), np.zeros(4)), "test": None}, r"shapes \(3,\), \(4,\)"),
    ],
)
def test_parts_that_do_not_fit_together(change, reason):
    Dataset("a", **GOOD, image_shape=(2, 3))
    with pytest.raises(DataError, match=f"^a: .*{reason}"):
        Dataset("a", **{**GOOD, **change})


def test_names_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no data set is called 'minst'; did you mean mnist.* or a file's path"):
        load_data("minst")
    with pytest.raises(DataError, match="digits: comes with its own split"):
        load_data("digits", held_out=0.2)
    with pytest.raises(DataError, match="no such file"):
        load_data(Path("folder") / "digits.npy")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No MNIST in any of the places that are searched on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYRARCHY_DATA", str(tmp_path / "mine"))
    if find("mnist") is not None:
        pytest.skip(f"MNIST is in {find('mnist')}, which cannot be hidden")
    return tmp_path


def write_idx(folder, seed):
    """Four small files of MNIST's form, 5 and 3 images; half of them gzipped. Returns the pixels of the first part."""
    folder.mkdir(parents=True)
    rng, kept = np.random.default_rng(seed), None
    for part, count in (("train", 5), ("t10k", 3)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = b"\0\0\x08\3" + np.array([count, 28, 28], ">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
        header = b"\0\0\x08\1" + np.array([count], ">u4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(range(count)))
        kept = pixels if kept is None else kept
    return kept


def test_mnist_that_is_nowhere_says_how_to_get_it(nowhere):
    with pytest.raises(DataError, match=r"mnist: its four files are in none of .*mine.*pyrarchy data fetch mnist$"):
        load_data("mnist")
    rows = {row.name: row for row in list_data()}
    assert list(rows)[:3] == ["digits", "mnist", "fashion_mnist"]
    assert {"eight_schools", "gaussian_tree"} <= set(rows)
    assert rows["mnist"].where == "get it with: pyrarchy data fetch mnist"
    assert rows["digits"].where == "in the package" and rows["fashion_mnist"].licence == "MIT"
    assert all(row.what and row.size and row.licence for row in rows.values())


@pytest.mark.parametrize(
    "place", ["mine/mnist", "data/MNIST/raw", ".cache/torchvision/MNIST/raw", "cache/pyrarchy/mnist"]
)
def test_mnist_is_found_and_its_bytes_are_checked(nowhere, place):
    write_idx(nowhere / place, 0)
    row = next(row for row in list_data() if row.name == "mnist")
    assert row.where.endswith(place)
    # Right names, right form, other bytes: never taken for MNIST.
    with pytest.raises(DataError, match=rf"{place}/train-images-idx3-ubyte.gz: not the published bytes"):
        load_data("mnist")


def test_mnist_is_scaled_and_the_first_folder_with_all_four_files_wins(nowhere, monkeypatch):
    monkeypatch.setattr("pyrarchy.data_images.read_idx", lambda path, digest: pyrarchy.fetch.read_idx(path))
    pixels = write_idx(nowhere / "given" / "fashion-mnist", 1)
    write_idx(nowhere / "mine" / "fashion_mnist", 2)
    (nowhere / "given" / "fashion_mnist").mkdir()
    (nowhere / "given" / "fashion_mnist" / "train-labels-idx1-ubyte").touch()  # one of four
    data = load_data("fashion-mnist", folder=nowhere / "given")
    assert data.train.dtype == np.float32 and data.test.shape == (3, 784) and data.image_shape == (28, 28)
    np.testing.assert_allclose(data.train, pixels.reshape(5, 784) / 255, rtol=1e-7)
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4] and data.support == "unit"
    assert not np.array_equal(load_data("fashion_mnist").train, data.train)


@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1306604), ("fashion_mnist", 0.2860406)])
def test_the_published_files(name, mean):
    if "PYRARCHY_DATA" not in os.environ:
        pytest.skip("$PYRARCHY_DATA is unset: it names the folder with mnist and fashion_mnist")
    if find(name) is None:
        pytest.skip(f"{name} is not on this machine: pyrarchy data fetch {name}")
    data = load_data(name)
    assert data.train.shape == (60000, 784) and data.test.shape == (10000, 784)
    # The mean pixel that the field normalises by: .1307 and .2860.
    assert abs(data.train.mean(dtype=np.float64) - mean) < 1e-6
    expected = {"mnist": [5923, 980], "fashion_mnist": [6000, 1000]}[name]
    assert [int((labels == 0).sum()) for labels in (data.train_labels, data.test_labels)] == expected


def test_no_torch_is_imported():
    code = (
        "import sys, pyrarchy.binarize, pyrarchy.files, pyrarchy.fetch, pyrarchy.datasets as d\n"
        "d.load_data('digits'), d.list_data(), pyrarchy.binarize.binarization('fixed').prepare(d.load_data('digits'))\n"
        "print([m for m in ('torch', 'pyro', 'scipy', 'sklearn', 'arviz', 'urllib.request') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_remotes_are_the_named_sets_that_are_not_in_the_package():
    elsewhere = {row.name: row.where for row in list_data() if row.where != "in the package"}
    assert elsewhere.pop("patches") == "in scikit-learn: pip install 'pyrarchy[photos]'"
    assert set(REMOTES) == set(elsewhere)
