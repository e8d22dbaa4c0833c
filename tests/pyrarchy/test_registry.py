"""Options of rows, columns, sources, and pairs that plug in from outside."""

import dataclasses
import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

import pyrarchy
from pyrarchy import DataError, Dataset, Source, Training, registry
from pyrarchy.registry import Pair, pair, select_columns

SOURCE = Source("van der Berg, Anna and Ng, Bo", 2018, "On trees", "https://example.org")


@pair("toy", model="M", guide="G", density="", source=SOURCE)
def toy(data, *, size=3, sizes=(4, 2), rate=0.5, wide=False, drop=None, word="a", empty=()):
    """A toy.

    Second paragraph.
    """


def test_row_reads_its_builder():
    assert toy.summary == "A toy."
    assert list(toy.options) == ["size", "sizes", "rate", "wide", "drop", "word", "empty"]
    assert toy.training == Training() and toy.data == "digits"
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy.name = "other"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("size=12", 12),
        ("sizes=9,8,7", (9, 8, 7)),
        ("sizes=9", (9,)),
        ("rate=1e-3", 1e-3),
        ("rate=-2", -2.0),
        ("wide=TRUE", True),
        ("wide=no", False),
        ("drop=true", True),
        ("drop=0", False),
        ("word=x=y", "x=y"),
        ("empty=5,6", (5, 6)),
    ],
)
def test_option_takes_the_type_of_its_default(text, value):
    (found,) = toy.parse_options([text]).values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size=2.5", "size=2.5: give a value like 3"),
        ("size=0", "size=0: give a value like 3"),
        ("sizes=4,-1", "sizes=4,-1: give a value like 4,2"),
        ("sizes=", "sizes=: give a value like 4,2"),
        ("wide=maybe", "wide=maybe: give a value true or false"),
        ("drop=None", "drop=None: give a value true or false"),
        ("size", "'size' is not of the form key=value"),
        ("=3", "no option ''; it has: size, sizes"),
    ],
)
def test_wrong_option_says_what_to_write(text, words):
    with pytest.raises(ValueError, match=words):
        toy.parse_options([text])


def test_unknown_keyword_of_a_call_is_refused():
    with pytest.raises(ValueError, match=r"no option\(s\) \['zdim'\]; it has: z_dim, hidden"):
        pyrarchy.get_pair("vae")(zdim=3)


def test_a_builder_without_a_docstring_is_listed():
    row = pair("bare", model="M", guide="G", density="", source=None)(lambda data: None)
    assert row.summary == "no description"


def test_source_makes_a_bibtex_entry():
    assert SOURCE.key == "berg2018"
    assert SOURCE.bibtex.startswith("@misc{" + SOURCE.key) and "On trees" in SOURCE.bibtex


def test_select_columns_cuts_all_that_has_columns():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    data = Dataset("d", rows, rows[:1] + 1, image_shape=(2, 2), coords={"column": list("abcd"), "other": [1]})
    cut = select_columns(data, np.array([0, 3]))
    assert cut.train.tolist() == [[0, 3], [4, 7], [8, 11]] and cut.train.flags.c_contiguous
    assert cut.test.tolist() == [[1, 4]]
    assert cut.image_shape is None and cut.coords == {"column": ["a", "d"], "other": [1]}
    assert select_columns(dataclasses.replace(data, test=None), np.array([1])).test is None


def test_constant_columns_are_found_exactly():
    """A column of equal values is constant, whatever its standard deviation rounds to; one that moves by an ulp is not."""
    rows = np.random.default_rng(0).normal(size=(1001, 4)).astype(np.float32)
    rows[:, 1] = np.float32(0.1)
    rows[:, 3] = 1.0
    rows[17, 3] = np.nextafter(np.float32(1), np.float32(2))
    data = Dataset("mine", rows, coords={"column": ["age", "site", "dose", "year"]})
    fa = pyrarchy.get_pair("factor_analysis")
    with pytest.raises(DataError, match=r"mine: column\(s\) site are constant.*pass drop_constant=true"):
        fa.columns(data)
    assert fa.columns(data, {"drop_constant": True}).tolist() == [0, 2, 3]
    with pytest.raises(DataError, match=r"column\(s\) 1 are constant"):
        fa.columns(dataclasses.replace(data, coords={}), {"drop_constant": False})
    assert fa.columns(select_columns(data, np.array([0, 2]))) is None
    assert pyrarchy.get_pair("ppca").columns(data) is None


def test_digits_lose_their_constant_columns_by_default():
    digits = pyrarchy.load_data("digits")
    keep = pyrarchy.get_pair("factor_analysis").columns(digits)
    assert (np.ptp(digits.train[:, keep], axis=0) > 0).all()
    assert len(keep) == 60 and np.ptp(np.delete(digits.train, keep, axis=1)) == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("x = (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(data): pass", "broken is a function, not a pair: decorate"),
    ],
)
def test_broken_module_is_one_error(tmp_path, monkeypatch, code, words):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=words):
        pyrarchy.get_pair(f"{name}:broken")


@pytest.fixture
def plugin(tmp_path):
    """A folder with an installed package of somebody else's, which announces a pair."""
    info = tmp_path / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pyrarchy.pairs]\ntheirs = somebody_pairs:theirs\nvae = somebody_pairs:no\n"
    )
    (tmp_path / "somebody_pairs.py").write_text(
        "import dataclasses\n"
        "from pyrarchy.rows_linear import ppca\n"
        "theirs = dataclasses.replace(ppca, name='another name', caution='from outside')\n"
    )
    return tmp_path


def test_pair_of_an_entry_point_is_listed_and_fitted(plugin, monkeypatch, command, here):
    """In a process of its own for the list, here for the fit; a plugin cannot take the name of one of our rows."""
    env = {**os.environ, "PYTHONPATH": str(plugin)}
    listed = subprocess.run(
        [sys.executable, "-m", "pyrarchy", "list"], env=env, capture_output=True, text=True, cwd=plugin, timeout=60
    )
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()][-1] == "theirs"
    assert "VAE + Amortized" in next(line for line in listed.stdout.splitlines() if line.startswith("vae "))
    monkeypatch.syspath_prepend(plugin)
    registry._registry.cache_clear()
    try:
        assert isinstance(pyrarchy.list_pairs()["theirs"], Pair)
        out = plugin / "run"
        words = ("theirs", "z_dim=2", "--data", "real.csv", "--samples", "5", "--quiet", "--out", out)
        assert command("fit", *words)[0] == 0
        model, _ = pyrarchy.load(out)
        assert type(model).__name__ == "PPCA"
    finally:
        registry._registry.cache_clear()


def test_broken_plugin_is_named(plugin, monkeypatch, refused):
    (plugin / "somebody_pairs.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(plugin)
    monkeypatch.delitem(sys.modules, "somebody_pairs", raising=False)
    registry._registry.cache_clear()
    try:
        assert "cannot load the pair theirs: ModuleNotFoundError" in refused(2, "fit", "theirs")
    finally:
        registry._registry.cache_clear()


def test_no_two_sources_share_a_key():
    sources = {pair.source for pair in pyrarchy.list_pairs().values()}
    assert len({source.key for source in sources}) == len(sources)
