"""pack, save, load and summary: exact contents, errors, files that survive a failed write, and both ArviZ lines."""

import os
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from pyrarchy.inference import groups
from pyrarchy.inference.groups import load, pack, save
from pyrarchy.inference.summary_table import summary

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz


def small(num_draws=60):
    rng = np.random.default_rng(0)
    arrays = {
        "posterior": {"mu": rng.standard_normal(num_draws), "w": rng.integers(0, 9, (num_draws, 3, 2))},
        "log_likelihood": {"y": rng.standard_normal((num_draws, 7))},
        "sample_stats": {"lp": np.full(num_draws, -np.inf), "k_hat": np.arange(7.0)},
        "observed_data": {"y": rng.random((7, 5)) < 0.5},
        "constant_data": {},
    }
    dims = {"w": ["school", "w_dim_0"], "y": ["data", "pixel"], ("log_likelihood", "y"): ["data"], "k_hat": ["data"]}
    return pack(arrays, dims, {"school": ["A", "B", "C"]}, {"seed": 3, "odd": {"a": 1}, "flag": True, "none": None})


def equal(a, b):
    one, other = groups.unwrap(a)[0], groups.unwrap(b)[0]
    return set(one) == set(other) and all(one[g].identical(other[g]) for g in one)


def test_pack_adds_chain_and_draw_to_draws_only():
    idata = small()
    assert idata["posterior"]["mu"].dims == ("chain", "draw")
    assert idata["posterior"]["w"].dims == ("chain", "draw", "school", "w_dim_0")
    assert idata["posterior"]["w"].shape == (1, 60, 3, 2)
    assert idata["log_likelihood"]["y"].dims == ("chain", "draw", "data")
    assert idata["sample_stats"]["k_hat"].dims == ("data",)
    assert idata["observed_data"]["y"].dims == ("data", "pixel")
    assert "constant_data" not in groups.unwrap(idata)[0]
    assert list(idata["posterior"]["school"].values) == ["A", "B", "C"]


def test_pack_names_axes_and_replaces_slashes():
    idata = pack({"posterior": {"top/z": np.zeros((4, 3, 2))}, "fit": {"loss": np.zeros(5)}})
    assert idata["posterior"]["top.z"].dims == ("chain", "draw", "top.z_dim_0", "top.z_dim_1")
    assert idata["fit"]["loss"].dims == ("loss_dim_0",)


@pytest.mark.parametrize(
    "arrays, dims, coords, message",
    [
        ({"z": np.zeros((4, 3, 2))}, {"z": ["a"]}, {}, r"'z' of group 'posterior'.*must name its 2 axes"),
        ({"z": np.zeros((4, 3)), "y": np.zeros((4, 2))}, {"z": ["a"], "y": ["a"]}, {}, "dim 'a' has size 3.*2 in 'y'"),
        ({"z": np.zeros((4, 3))}, {"z": ["a"]}, {"a": [1, 2]}, r"coords\['a'\] has shape \(2,\).*size 3"),
        ({"z": np.zeros((4, 3, 2))}, {"z": ["a", "z"]}, {}, r"\['z'\] name both a dim and a variable"),
        ({"z": np.zeros((4, 3, 3))}, {"z": ["a", "a"]}, {}, "make them differ"),
        ({"z": np.zeros((4, 2)), "y": np.zeros(5)}, {"z": ["a"]}, {}, "dim 'draw' has size 4"),
        ({"a/z": np.zeros(4), "a.z": np.zeros(4)}, {}, {}, r"two variables called 'a\.z'"),
        ({"z": np.zeros(())}, {}, {}, r"shape \(\)"),
    ],
)
def test_pack_errors(arrays, dims, coords, message):
    with pytest.raises(ValueError, match=message):
        pack({"posterior": arrays}, dims, coords)


def test_round_trip_through_the_file(tmp_path):
    idata = small()
    path = save(idata, tmp_path / "posterior.nc")
    back = load(path)
    assert type(back) is type(idata)
    assert equal(idata, back)
    assert back["observed_data"]["y"].dtype == bool
    assert back.attrs["seed"] == 3 and back.attrs["odd"] == "{'a': 1}" and back.attrs["flag"] == 1
    assert "none" not in back.attrs
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.nc"]


def test_file_opens_in_arviz_itself(tmp_path):
    path = save(small(), tmp_path / "posterior.nc")
    opened = arviz.from_netcdf(path, engine="h5netcdf")
    np.testing.assert_array_equal(opened["posterior"]["w"].values, small()["posterior"]["w"].values)
    opened.close()


def test_full_disk_is_an_error_and_keeps_the_old_file(tmp_path):
    path = save(small(), tmp_path / "posterior.nc")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # writing more than 4 KiB fails, as on a full disk
    try:
        with pytest.raises(OSError):
            save(small(90), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.nc"]


def test_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, swap = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (calls.append("fsync"), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), swap(a, b)))
    save(small(), tmp_path / "posterior.nc")
    assert calls == ["fsync", "replace", "fsync"]  # the bytes, the name, the folder that holds the name


def test_load_and_save_name_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.nc"):
        load(tmp_path / "nothing.nc")
    with pytest.raises(TypeError, match="got dict"):
        save({}, tmp_path / "x.nc")


def test_summary_is_exact_and_has_no_chain_diagnostics():
    idata = small()
    table = summary(idata)
    assert list(table.columns) == ["mean", "sd", "eti_3%", "eti_97%", "mcse_mean", "mcse_sd"]
    assert list(table.index) == ["mu", *(f"w[{s}, {i}]" for s in "ABC" for i in range(2))]
    draws = idata["posterior"]["w"].values[0, :, 2, 1]
    row = table.loc["w[C, 1]"]
    assert row["mean"] == pytest.approx(draws.mean())
    assert row["sd"] == pytest.approx(draws.std(ddof=1))
    assert row["eti_97%"] == pytest.approx(np.quantile(draws, 0.97))
    assert row["mcse_mean"] == pytest.approx(draws.std(ddof=1) / 60**0.5)
    assert list(summary(idata, "mu", prob=0.5).columns)[2:4] == ["eti_25%", "eti_75%"]
    assert list(summary(idata, ["mu"]).index) == ["mu"]
    assert summary(idata, group="sample_stats").index.tolist() == ["lp"]  # k_hat has no draws


def test_summary_monte_carlo_error_of_the_sd():
    """For a normal the sd has standard error sd / sqrt(2 S); the estimate's own error at S = 20,000 is about 2%."""
    draws = 3 * np.random.default_rng(1).standard_normal(20_000)
    table = summary(pack({"posterior": {"a": draws, "c": np.ones(20_000)}}))
    assert table.loc["a", "mcse_sd"] == pytest.approx(3 / 40_000**0.5, rel=0.1)
    assert table.loc["c"].tolist() == [1, 0, 1, 1, 0, 0]


def test_summary_errors():
    with pytest.raises(ValueError, match=r"no variable \['tau'\].*'mu'"):
        summary(small(), ["mu", "tau"])
    with pytest.raises(ValueError, match="no group 'prior'"):
        summary(small(), group="prior")
    with pytest.raises(ValueError, match="prob"):
        summary(small(), prob=94)


OTHER = """
import sys, types
import numpy as np
room = sys.modules["room"] = types.ModuleType("room")  # without the package's own __init__, which needs torch
room.__path__ = [sys.argv[1]]
from room import groups, summary_table
import arviz, xarray
assert arviz.__version__.startswith("1."), arviz.__version__
theirs = groups.load(sys.argv[2])
assert isinstance(theirs, xarray.DataTree)
assert theirs["posterior"]["w"].dims == ("chain", "draw", "school", "w_dim_0")
assert theirs["sample_stats"]["k_hat"].dims == ("data",)
rng = np.random.default_rng(0)
log_lik = rng.normal(size=(400, 7)) / 10 - 1
made = groups.pack({"posterior": {"mu": rng.normal(size=400)}, "log_likelihood": {"y": log_lik}}, {"y": ["data"]})
groups.save(made, sys.argv[3])
assert groups.load(sys.argv[3]).equals(made)
assert list(summary_table.summary(theirs, "w").index)[-1] == "w[C, 1]"
assert "mean" in arviz.summary(made, kind="stats")
print(arviz.loo(made).elpd)
"""


def python_with_arviz_1():
    """An interpreter with ArviZ 1.x, or skip."""
    candidates = [os.environ.get("PYRARCHY_PYTHON312"), shutil.which("python3.12"), sys.executable]
    for python in filter(None, candidates):
        probe = [python, "-c", "from importlib.metadata import version; print(version('arviz'))"]
        found = subprocess.run(probe, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.startswith("1."):
            return python
    pytest.skip("no interpreter with ArviZ 1.x: set PYRARCHY_PYTHON312 to one")


def test_arviz_1_reads_and_writes_the_same_files(tmp_path):
    python = python_with_arviz_1()
    ours, theirs = save(small(), tmp_path / "ours.nc"), tmp_path / "theirs.nc"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [python, "-W", "error", "-c", OTHER, str(Path(groups.__file__).parent), str(ours), str(theirs)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    back = load(theirs)
    assert back["log_likelihood"]["y"].dims == ("chain", "draw", "data")
    assert float(run.stdout) == pytest.approx(arviz.loo(back).elpd_loo, abs=1e-3)
