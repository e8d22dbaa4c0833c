"""A user's own file: the same numbers give the same arrays, and every broken file gives one sentence."""

import errno
import pickle
import re
import zipfile

import numpy as np
import pytest

from pyrarchy.datasets import list_data, load_data
from pyrarchy.faults import exit_code
from pyrarchy.files import DataError, as_rows, held_out_rows, read_table, shuffled

NUMBERS = np.arange(35).reshape(7, 5) - 3
NUMPY = {
    "int64": NUMBERS.astype("<i8"),
    "int16, big-endian": NUMBERS.astype(">i2"),
    "float64": NUMBERS.astype("<f8"),
    "float64, big-endian": NUMBERS.astype(">f8"),
    "float32, big-endian": NUMBERS.astype(">f4"),
    "float16": NUMBERS.astype("<f2"),
    "Fortran": np.asfortranarray(NUMBERS.astype("<f4")),
    "Fortran, big-endian, float64": np.asfortranarray(NUMBERS.astype(">f8")),
    "strided": np.repeat(NUMBERS.astype("<f4"), 2, axis=1)[:, ::2],
}


def same(found, numbers=NUMBERS):
    assert found.dtype == np.dtype(np.float32) and found.dtype.isnative
    assert found.flags.c_contiguous and found.flags.writeable and type(found) is np.ndarray
    np.testing.assert_array_equal(found, numbers)


def says(*parts, path=None):
    """One sentence that names the file and has all the parts, in order."""
    start = "" if path is None else re.escape(str(path))
    return pytest.raises(DataError, match=start + ".*" + ".*".join(re.escape(part) for part in parts))


@pytest.mark.parametrize("kind", NUMPY)
def test_the_same_numbers_give_the_same_rows_whatever_the_layout(tmp_path, kind):
    np.save(tmp_path / "a.npy", NUMPY[kind])
    np.savez(tmp_path / "a.npz", NUMPY[kind])
    same(read_table(tmp_path / "a.npy").train)
    same(read_table(tmp_path / "a.npz").train)


def test_csv_gives_the_same_rows_and_keeps_the_names(tmp_path):
    lines = [",".join(map(str, row)) for row in NUMBERS]
    bare, named = tmp_path / "bare.csv", tmp_path / "named.CSV"
    bare.write_text("\n".join(lines))
    named.write_text("\ufeffa, b,c,d,e\r\n" + "\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    same(read_table(bare).train)
    same(read_table(named).train)
    assert read_table(bare).coords == {}
    assert load_data(named).coords == {"column": ["a", "b", "c", "d", "e"]}


def test_npz_brings_test_rows_and_labels(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(
        path, x=NUMBERS, test=NUMBERS[:2], labels=np.arange(7, dtype=np.uint8), test_labels=[5, 6], other="skipped"
    )
    data = load_data(path)
    same(data.train)
    same(data.test, NUMBERS[:2])
    assert data.train_labels.tolist() == list(range(7)) and data.test_labels.tolist() == [5, 6]
    with says("brings its own test", path=path):
        load_data(path, held_out=0.5)


def test_images_are_flattened_and_remember_their_shape(tmp_path):
    np.save(tmp_path / "a.npy", NUMBERS[:6].reshape(5, 3, 2))
    table = read_table(tmp_path / "a.npy")
    assert table.train.shape == (5, 6) and table.image_shape == (3, 2)
    np.testing.assert_array_equal(table.train[4], [21, 22, 23, 24, 25, 26])


def test_the_held_out_tenth_is_the_same_rows_for_ever(tmp_path):
    # Pinned: whoever reports a held-out number names these rows by the file alone.
    assert held_out_rows(43)[1].tolist() == [3, 11, 13, 20]
    assert held_out_rows(9)[1].size == 0 and held_out_rows(100, 0.29)[1].size == 29
    assert sorted(shuffled(1000).tolist()) == list(range(1000)) and not np.array_equal(
        shuffled(50), shuffled(50, seed=1)
    )
    rows = np.arange(86.0).reshape(43, 2)
    np.savez(tmp_path / "a.npz", x=rows, labels=np.arange(43))
    data = load_data(tmp_path / "a.npz")
    assert data.test_labels.tolist() == [3, 11, 13, 20] and data.num_train == 39
    np.testing.assert_array_equal(data.test, rows[data.test_labels])
    np.testing.assert_array_equal(data.train, rows[data.train_labels])
    assert load_data(tmp_path / "a.npz", held_out=0.0).test is None
    for share in (-0.1, 1.0, float("nan")):
        with says("held_out is", "below 1"):
            load_data(tmp_path / "a.npz", held_out=share)


def test_support_is_read_off_the_values_of_both_parts(tmp_path):
    for values, support in (([0, 1], "binary"), ([0, 0.5], "unit"), ([0, 1.5], "real"), ([-1, 1], "real")):
        np.savez(tmp_path / "a.npz", train=np.eye(2), test=np.array([values]))
        assert load_data(tmp_path / "a.npz").support == support


def test_a_file_larger_than_memory_stays_on_disk(tmp_path):
    path, rows = tmp_path / "a.npy", np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(path, rows)
    table = read_table(path, memory=239)  # the rows have 240 bytes
    assert table.mapped and not table.train.flags.writeable and not table.train.flags.owndata
    np.testing.assert_array_equal(table.train, rows)
    assert not read_table(path, memory=240).mapped
    np.save(path, rows.astype(np.float64))
    with says("480 bytes", "float32", path=path):
        read_table(path, memory=479)


def test_what_stays_on_disk_holds_out_its_last_rows(tmp_path, monkeypatch):
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(tmp_path / "a.npy", rows)
    monkeypatch.setattr("pyrarchy.files._half_of_memory", lambda: 100)
    data = load_data(tmp_path / "a.npy")
    np.testing.assert_array_equal(data.train, rows[:18])
    np.testing.assert_array_equal(data.test, rows[18:])
    assert not data.train.flags.owndata and data.support == "real"


def test_wrong_suffixes_and_places(tmp_path):
    for name in ("a.pt", "a.pkl", "a.PTH"):
        with says("pickles", "np.save", path=tmp_path / name):
            read_table(tmp_path / name)
    with says("cannot read .txt", ".csv"):
        read_table(tmp_path / "a.txt")
    with says("without a suffix"):
        read_table(tmp_path / "a")
    with says("no such file", "give the path", path=tmp_path / "a.npy"):
        read_table(tmp_path / "a.npy")
    (tmp_path / "b.npy").mkdir()
    with says("is a folder"):
        read_table(tmp_path / "b.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_empty_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    with says("empty (0 bytes)", path=path):
        read_table(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_file_cut_anywhere_or_filled_with_noise_is_a_data_error(tmp_path, suffix):
    path, rng = tmp_path / f"a{suffix}", np.random.default_rng(0)
    (np.save if suffix == ".npy" else np.savez_compressed)(path, NUMBERS)
    whole = path.read_bytes()
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with says(path=path):
            read_table(path)
    path.write_bytes(rng.bytes(400))
    with says("begins with", path=path):
        read_table(path)
    path.write_bytes(whole[:40] + rng.bytes(400))
    with says(path=path):
        read_table(path)


def test_damaged_headers_and_members(tmp_path):
    np.save(tmp_path / "a.npy", NUMBERS)
    whole = (tmp_path / "a.npy").read_bytes()
    for old, new in ((b"(7, 5)", b"(7, ]]"), (b"'<i8'", b"'<q9'"), (b"shape", b"shapf"), (b"(7, 5)", b"(9, 9)")):
        assert old in whole
        (tmp_path / "a.npy").write_bytes(whole.replace(old, new))
        with says("truncated or corrupt"):
            read_table(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", whole[:-9])
    with says("[x]", "truncated or corrupt"):
        read_table(tmp_path / "b.npz")


def test_pickles_are_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.save(tmp_path / "a.npy", np.array([[Bomb(), 1]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([[Bomb()]], dtype=object))
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "b.npz", "c.npy"):
        with says("pickled Python objects, which are refused", path=tmp_path / name):
            read_table(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_archives_and_arrays_under_each_others_name(tmp_path):
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, NUMBERS)
    with (tmp_path / "b.npy").open("wb") as stream:
        np.savez(stream, NUMBERS)
    with says("rename it to a.npy"):
        read_table(tmp_path / "a.npz")
    with says("rename it to b.npz"):
        read_table(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"b": NUMBERS, "a": NUMBERS}, ("holds a, b", "called train or x")),
        ({"x": NUMBERS, "train": NUMBERS}, ("holds train, x",)),
        ({"test": NUMBERS}, ("holds test;", "called train or x")),
        ({}, ("holds nothing",)),
        ({"x": NUMBERS, "test": NUMBERS[:, :4]}, ("test has shape (7, 4) but x has (7, 5)",)),
        ({"x": NUMBERS, "test_labels": np.arange(2)}, ("test_labels but no test",)),
        ({"x": NUMBERS, "labels": np.arange(6)}, ("[labels]", "int64 (6,)", "shape (7,)")),
        ({"x": NUMBERS, "labels": np.arange(7.0)}, ("[labels]", "float64", "one integer per row")),
        ({"x": np.array([["a"]])}, ("[x]", "<U1")),
    ],
)
def test_what_an_npz_must_hold(tmp_path, arrays, parts):
    np.savez(tmp_path / "a.npz", **arrays)
    with says(*parts, path=tmp_path / "a.npz"):
        read_table(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (np.float64(3.0), ("shape ()",)),
        (np.arange(5.0), ("shape (5,)", "(rows, 1)")),
        (np.zeros((2, 3, 4, 5)), ("shape (2, 3, 4, 5)", "(rows, columns)")),
        (np.zeros((0, 5)), ("(0, 5), no rows",)),
        (np.zeros((5, 0)), ("(5, 0), no columns",)),
        (np.zeros((2, 2), complex), ("complex128",)),
        (np.zeros((2, 2), "datetime64[s]"), ("datetime64",)),
        (np.zeros((2, 2), [("a", "f4")]), ("not real numbers",)),
        (np.array([[0.0, 1e39]]), ("row 0, column 1", "1e+39, too large for float32")),
    ],
)
def test_arrays_that_are_no_table(tmp_path, values, parts):
    np.save(tmp_path / "a.npy", values)
    with says(*parts, path=tmp_path / "a.npy"):
        read_table(tmp_path / "a.npy")


def test_nan_and_infinity_are_named_by_row_and_column(tmp_path, monkeypatch):
    values = np.zeros((7, 5), order="F")
    values[6, 1], values[4, 2] = np.nan, -np.inf
    with says("here: row 4, column 2 (counted from 0) is -inf, not a finite number"):
        as_rows(values, "here")
    monkeypatch.setattr("pyrarchy.files._CHUNK", 10)  # two rows at a time
    with says("row 4, column 2"):
        as_rows(values, "here")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,nan\n")
    with says("row 1, column 1", "nan", path=tmp_path / "a.csv"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_rows_that_lack_values_are_left_out_when_asked(tmp_path, monkeypatch, suffix, bad):
    path, rows = tmp_path / f"a{suffix}", NUMBERS.astype(float)
    rows[1, 4] = rows[6, 0] = bad
    kept = np.delete(NUMBERS, [1, 6], 0)
    if suffix == ".csv":
        np.savetxt(path, rows, delimiter=",", header="a,b,c,d,e", comments="")
    elif suffix == ".npy":
        np.save(path, rows)
    else:
        np.savez(path, x=rows, labels=np.arange(7), test=rows[1:], test_labels=np.arange(1, 7))
    for chunk in (1 << 24, 10):  # all rows at once, and two at a time
        monkeypatch.setattr("pyrarchy.files._CHUNK", chunk)
        with says("row 1, column 4", "--missing drop-rows", path=path):
            read_table(path)
        table = read_table(path, missing="drop-rows")
        same(table.train, kept)
        assert table.dropped == (4 if suffix == ".npz" else 2)
    if suffix == ".npz":
        assert table.train_labels.tolist() == [0, 2, 3, 4, 5] and table.test_labels.tolist() == [2, 3, 4, 5]
        same(table.test, kept[1:])
    data = load_data(path, missing="drop-rows")
    assert data.remarks == (f"{table.dropped} row(s) of a{suffix} hold missing or infinite values and are left out.",)


def test_what_missing_cannot_mend(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 2), np.nan))
    with says("each of its 3 rows"):
        read_table(tmp_path / "a.npy", missing="drop-rows")
    np.save(tmp_path / "a.npy", np.array([[1, 1e39], [np.nan, 2]]))
    with says("row 0, column 1", "too large for float32"):
        read_table(tmp_path / "a.npy", missing="drop-rows")
    np.save(tmp_path / "a.npy", NUMBERS)
    table = read_table(tmp_path / "a.npy", missing="drop-rows")
    same(table.train)
    assert table.dropped == 0 and load_data(tmp_path / "a.npy", missing="drop-rows").remarks == ()
    np.save(tmp_path / "a.npy", np.array([[1, np.nan], [3, 4]], dtype=np.float32))
    with says("row 0, column 1", "nan"):
        read_table(tmp_path / "a.npy", memory=3, missing="drop-rows")  # it stays on disk
    with says("missing is 'fill'", "drop-rows"):
        read_table(tmp_path / "a.npy", missing="fill")
    with says("digits", "lacks no value"):
        load_data("digits", missing="drop-rows")


def test_empty_cells_of_a_csv_are_gaps_when_asked(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,\nNA,4\n5, 6\n")
    same(read_table(tmp_path / "a.csv", missing="drop-rows").train, [[1, 2], [5, 6]])
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,four\n")
    with says("line 3, column 1", "'four', not a number"):
        read_table(tmp_path / "a.csv", missing="drop-rows")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,2\n3\n", ("line 2 has 1 columns", "have 2")),
        ("a,b\n1,2,3\n", ("line 2 has 3 columns", "have 2")),
        ("1,2\n3,four\n", ("line 2, column 1", "'four'")),
        ("a,2\n3,4\n", ("line 1, column 0", "'a'")),
        ("1,2\n3,\n", ("line 2, column 1", "''")),
        ("a;b\n1,5;2\n", ("line 2 has 2 columns",)),
        ("1;2\n3;4\n", ("line 2, column 0", "'3;4'", "commas")),
        ("1_0,2\n3,4\n", ("line 1, column 0", "'1_0'")),
        ("a,a\n1,2\n", ("line 1", "column name")),
        ("a,b\n", ("no rows",)),
        ("\n\n", ("no rows",)),
        ("1,2\n3,1e999\n", ("row 1, column 1", "inf")),
    ],
)
def test_text_that_is_no_table(tmp_path, text, parts):
    (tmp_path / "a.csv").write_text(text)
    with says(*parts, path=tmp_path / "a.csv"):
        read_table(tmp_path / "a.csv")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"1,2\n\xff\xfe\x00,3\n")
    with says("comma-separated", path=tmp_path / "a.csv"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize("gap", [",,", "NA,NA,NA"])
def test_a_first_row_of_gaps_is_no_header(tmp_path, gap):
    path = tmp_path / "a.csv"
    path.write_text(f"{gap}\n1,2,3\n4,5,6\n")
    table = read_table(path, missing="drop-rows")
    assert table.train.tolist() == [[1, 2, 3], [4, 5, 6]] and table.dropped == 1 and table.coords == {}
    path.write_text(f"a,b,c\n{gap}\n1,2,3\n")
    table = read_table(path, missing="drop-rows")
    assert table.train.tolist() == [[1, 2, 3]] and table.dropped == 1 and table.coords == {"column": ["a", "b", "c"]}


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("error", [MemoryError("Unable to allocate"), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_a_file_that_does_not_fit_into_memory_is_not_called_corrupt(tmp_path, monkeypatch, suffix, error):
    def fail(*args, **kwargs):
        raise error

    path = tmp_path / f"a{suffix}"
    np.save(path, NUMBERS) if suffix == ".npy" else np.savez(path, NUMBERS)
    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(MemoryError, match="does not fit") as caught:
        read_table(path)
    assert exit_code(caught.value) == 4


def test_an_unknown_user_is_a_file_that_is_not_there(tmp_path, monkeypatch):
    with says("~nobody_of_this_name/x.npy", "no such file"):
        read_table("~nobody_of_this_name/x.npy")
    monkeypatch.setenv("PYRARCHY_DATA", "~nobody_of_this_name")
    assert list_data()
