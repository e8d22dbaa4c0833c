"""Bad data in every way that we could think of: one line, code 3, nothing left behind, and torch not even imported."""

import io
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

ROWS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


class Bomb:
    """A pickle that leaves a trace when it is opened."""

    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def npy(array, **kwargs):
    content = io.BytesIO()
    np.save(content, array, **kwargs)
    return content.getvalue()


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def archive(*entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in entries:
            file.writestr(name, data)
    return content.getvalue()


def header(text, data=b"", version=b"\x01\x00"):
    text = text.encode("latin1")
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


def with_cell(value, row=17, column=2):
    rows = ROWS.copy()
    rows[row, column] = value
    return rows


def constant():
    return with_cell(1.0, slice(None))


PLAIN = npy(ROWS)
OBJECTS = npy(np.array([[Bomb(), 1.0]] * 3, dtype=object), allow_pickle=True)
PROMISE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"
# name of the file -> (its bytes, what the line says); several of one name are told apart by what stands before a slash
FILES = {
    "missing/none.npy": (None, "no such file"),
    "missing/none.csv": (None, "no such file"),
    "suffix/a.txt": (b"1,2\n3,4\n", "cannot read .txt"),
    "suffix/a.xlsx": (b"PK\x03\x04", "cannot read .xlsx"),
    "suffix/a.h5": (b"\x89HDF", "cannot read .h5"),
    "suffix/a.parquet": (b"PAR1", "cannot read .parquet"),
    "suffix/a.json": (b"[[1]]", "cannot read .json"),
    **{
        f"pickle/a{suffix}": (pickle.dumps(Bomb()), "pickles, which run code")
        for suffix in (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".PKL")
    },
    "pickle/a.npy": (pickle.dumps(Bomb()), "pickled"),
    "pickle/a.npz": (pickle.dumps(Bomb()), "pickled"),
    "pickle/a.csv": (pickle.dumps(Bomb()), "comma-separated"),
    **{f"pickle, protocol 0/a{suffix}": (pickle.dumps(Bomb(), 0), "") for suffix in (".npy", ".npz", ".csv")},
    "objects/a.npy": (OBJECTS, "pickled Python objects"),
    "objects/a.npz": (archive(("x.npy", OBJECTS)), "pickled Python objects"),
    "objects beside/a.npz": (archive(("x.npy", PLAIN), ("labels.npy", OBJECTS)), "pickled Python objects"),
    "torch/a.npz": (archive(("archive/data.pkl", pickle.dumps(Bomb())), ("archive/version", b"3")), "holds archive/"),
    "torch, one entry/a.npz": (archive(("data.pkl", pickle.dumps(Bomb()))), ""),
    "empty/a.npy": (b"", "empty (0 bytes)"),
    "empty/a.npz": (b"", "empty (0 bytes)"),
    "empty/a.csv": (b"", "empty (0 bytes)"),
    "cut/a.npy": (PLAIN[:-1], "truncated or corrupt"),
    "cut in the header/a.npy": (PLAIN[:50], "truncated or corrupt"),
    "cut in the magic/a.npy": (PLAIN[:5], "truncated, corrupt"),
    "cut/a.npz": (npz(x=ROWS)[:-30], "truncated or corrupt"),
    "noise/a.npy": (np.random.default_rng(1).bytes(500), "truncated, corrupt"),
    "noise/a.npz": (np.random.default_rng(1).bytes(500), "truncated, corrupt"),
    "noise/a.csv": (np.random.default_rng(1).bytes(500), "comma-separated"),
    "bit/a.npz": (npz(x=ROWS).replace(ROWS.tobytes()[:8], b"\0" * 8), "truncated or corrupt"),
    "other kind/a.npy": (npz(x=ROWS), "rename it to a.npz"),
    "other kind/a.npz": (PLAIN, "rename it to a.npy"),
    "other kind/a.csv": (PLAIN, "comma-separated"),
    "image/a.npy": (b"\x89PNG\r\n\x1a\n", "truncated, corrupt"),
    "promise/a.npy": (header(PROMISE % "1000, 1000", b"\0" * 64), "truncated or corrupt"),
    "huge promise/a.npy": (header(PROMISE % f"{10**9}, {10**9}", b"\0" * 64), "truncated or corrupt"),
    "overflowing promise/a.npy": (header(PROMISE % f"{2**63}, 4", b"\0" * 64), "truncated or corrupt"),
    "negative promise/a.npy": (header(PROMISE % "-3, 4", b"\0" * 64), ""),
    "promise/a.npz": (archive(("x.npy", header(PROMISE % "1000, 1000", b"\0" * 64))), "truncated or corrupt"),
    "code in the header/a.npy": (header("__import__('os').mkdir('exploded')\n"), "truncated or corrupt"),
    "deep header/a.npy": (header("(" * 9000 + ")" * 9000 + "\n"), ""),
    "unknown version/a.npy": (header(PROMISE % "3, 4", b"\0" * 48, version=b"\x09\x00"), "truncated or corrupt"),
    "no rows/a.npy": (npy(ROWS[:0]), "no rows"),
    "no columns/a.npy": (npy(ROWS[:, :0]), "no columns"),
    "one number/a.npy": (npy(np.float32(1)), "shape ()"),
    "one dimension/a.npy": (npy(ROWS[0]), "(rows, 1)"),
    "four dimensions/a.npy": (npy(ROWS.reshape(30, 2, 2, 1)), "rows x columns"),
    "complex/a.npy": (npy(ROWS.astype(complex)), "complex128"),
    "text/a.npy": (npy(np.array([["a", "b"]])), "not real numbers"),
    "dates/a.npy": (npy(np.zeros((3, 4), "M8[s]")), "datetime64"),
    "records/a.npy": (npy(np.zeros((3, 4), [("a", "f4")])), "not real numbers"),
    "nan/a.npy": (npy(with_cell(np.nan)), "row 17, column 2 (counted from 0) is nan"),
    "infinity/a.npy": (npy(with_cell(np.inf)), "row 17, column 2 (counted from 0) is inf"),
    "nan in the test rows/a.npz": (npz(train=ROWS, test=with_cell(np.nan)), "[test]: row 17, column 2"),
    "too large/a.npy": (npy(with_cell(0).astype(float) * 1e60), "too large for float32"),
    "longdouble/a.npy": (npy(np.full((30, 4), np.longdouble("1e4000"))), "row 0, column 0"),
    "no array/a.npz": (npz(), "holds nothing"),
    "two arrays/a.npz": (npz(a=ROWS, b=ROWS), "called train or x"),
    "other test columns/a.npz": (npz(train=ROWS, test=ROWS[:, :3]), "the same columns"),
    "labels too few/a.npz": (npz(train=ROWS, labels=np.arange(3)), "one integer per row"),
    "labels that are text/a.npz": (npz(train=ROWS, labels=np.array(["a"] * 30)), "one integer per row"),
    "ragged/a.csv": (b"1,2\n3\n", "line 2 has 1 columns"),
    "text/a.csv": (b"a,b\n1,2\n3,four\n", "'four', not a number"),
    "gap/a.csv": (b"a,b\n1,2\n3,\n", "--missing drop-rows"),
    "nan/a.csv": (b"a,b\n1,2\n3,nan\n", "row 1, column 1"),
    "infinity/a.csv": (b"a,b\n1,2\n3,1e999\n", "row 1, column 1"),
    "semicolons/a.csv": (b"1;2\n3;4\n", "commas"),
    "header only/a.csv": (b"a,b\n", "no rows"),
    "blank/a.csv": (b"\n\n\n", "no rows"),
    "names twice/a.csv": (b"a,a\n1,2\n", "column name"),
    "utf-16/a.csv": ("1,2\n3,4\n".encode("utf-16"), "comma-separated"),
    "a long line/a.csv": (b"1" * 200_000 + b",2\n", "comma-separated"),
    "nul/a.csv": (b"1,2\n3\x00,4\n", ""),
    "constant column/a.npy": (npy(constant()), "column(s) 2 are constant"),
    "few rows/a.npy": (npy(ROWS[:2]), "more rows than factors"),
}


def write(folder, name, content):
    path = folder / name.partition("/")[2]
    if content is not None:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_one_line(name, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, says = FILES[name]
    path = write(tmp_path, name, content)
    before = sorted(tmp_path.iterdir())
    said = refused(3, "fit", "factor_analysis", "z_dim=2", "--data", path, "--quiet", "--out", "runs/run")
    assert says in said and (path.stem in said) and len(said) < 600
    assert sorted(tmp_path.iterdir()) == before  # no folder, and nothing exploded
    assert content is None or path.read_bytes() == content


def test_there_are_enough_of_them():
    assert len(FILES) >= 60


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read(refused, tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / "a.npy").chmod(0)
    assert "permissions" in refused(3, "fit", "ppca", "--data", tmp_path / "a.npy", "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("pair", "data", "says"),
    [
        ("vae", npy(ROWS), "zeros and ones"),
        ("vae", npy(np.clip(ROWS, 0, 1)), None),
        ("vae", npy(np.clip(ROWS, 0, 1) * 255), "zeros and ones"),
        ("ppca", npy(ROWS[:2]), "more rows than factors"),
        ("ppca", npy(np.zeros((30, 4))), "dimensions"),
        ("ppca", npy(ROWS[:, :2] @ np.ones((2, 4), np.float32)), "dimensions"),
        ("vae_gaussian", npy(with_cell(np.nan)), "row 17"),
    ],
)
def test_values_that_a_pair_cannot_take(pair, data, says, refused, command, tmp_path, no_pictures):
    (tmp_path / "mine.npy").write_bytes(data)
    more = ("--steps", 1, "hidden=3") if pair != "ppca" else ()
    words = (
        "fit",
        pair,
        "z_dim=2",
        "--data",
        tmp_path / "mine.npy",
        "--samples",
        5,
        "--quiet",
        "--out",
        tmp_path / "run",
    )
    if says is None:
        assert command(*words, *more)[0] == 0
    else:
        assert says in refused(3, *words, *more)


def scaled(factor):
    rows = ROWS + 2 * ROWS[:, :1]  # one factor and noise
    rows[:, 0] = ROWS[::-1, 0] + 2 * ROWS[:, 0]
    return npy((rows * factor).astype(np.float32))


@pytest.mark.parametrize(
    ("pair", "data", "code", "says"),
    [
        ("gaussian_mixture", npy(constant()), 3, "column(s) 2 (counted from 0) hold one value each"),
        ("gaussian_mixture", npy(ROWS[:1]), 3, "holds one row"),
        ("gaussian_mixture", npy(np.ones((30, 7))), 3, "column(s) 0, 1, 2, 3, 4, ... (counted from 0) hold one value"),
        ("linear_state_space", npy(np.ones((30, 4))), 3, "hold one value each"),
        ("linear_state_space", npy(ROWS[:, :1]), 3, "a series of one step"),
        ("local_level", npy(ROWS[:, :1]), 3, "a series of one step"),
        ("factor_analysis drop_constant=true z_dim=2", npy(np.ones((30, 4))), 3, "all its columns are constant"),
        ("ppca z_dim=1", npy(np.ones((30, 4))), 3, "hold one value each"),
        ("ppca z_dim=1", scaled(1e-20), 3, "vary by less than 1e-6"),
        ("factor_analysis z_dim=1", scaled(1e-20), 3, "vary by less than 1e-6"),
        ("vae_gaussian", scaled(1e20), 5, "Rescale the data"),
    ],
)
def test_columns_that_a_pair_cannot_take_are_named(pair, data, code, says, refused, tmp_path):
    (tmp_path / "mine.npy").write_bytes(data)
    more = ("--steps", 2) if pair in ("linear_state_space", "local_level", "vae_gaussian") else ()
    words = ("fit", *pair.split(), "--data", tmp_path / "mine.npy", "--samples", 5, "--out", tmp_path / "run")
    said = refused(code, *words, *more)
    assert says in said and (code == 5 or "mine: " in said)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npy"]


QUICK = """
import sys, time
import numpy
from pyrarchy.__main__ import main
started = time.process_time()
for name in sys.argv[1:]:
    assert main(["fit", "factor_analysis", "z_dim=2", "--data", name, "--out", "run"]) == 3, name
    assert main(["fit", "vae", "--objective", "iwae:5", "--data", name, "--out", "run"]) == 3, name
spent = (time.process_time() - started) / (2 * len(sys.argv[1:]))
assert spent < 0.5, spent
assert "torch" not in sys.modules
print(spent)
"""


def test_bad_data_are_refused_before_torch_is_imported(tmp_path):
    for name in ("nan/a.npy", "gap/a.csv", "cut/a.npz"):
        write(tmp_path, name, FILES[name][0])
    done = subprocess.run([sys.executable, "-c", QUICK, "a.npy", "a.csv", "a.npz"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == done.stderr.count("error: ") == 6
