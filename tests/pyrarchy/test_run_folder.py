"""Run folders: what lies in them, and that the pair opened from one is the pair that was fitted, to the last bit."""

import json
import os
import subprocess
import sys

import arviz
import numpy as np
import pyro
import pytest
import torch

import pyrarchy
from pyrarchy import DataError
from pyrarchy.faults import RunError
from pyrarchy.inference import ELBO, isolated
from pyrarchy.placement import to_tensors
from pyrarchy.run_config import plain, read_config, write_json
from pyrarchy.run_folder import read_curve, read_example, select_rows

from .conftest import RUNS

GROUPS = {"posterior", "posterior_predictive", "prior", "prior_predictive", "observed_data",
          "constant_data", "sample_stats"}  # fmt: skip


def value(model, guide, args):
    with isolated(model, guide, seed=3), torch.no_grad():
        return ELBO(num_particles=2).value(model, guide, *args)


@pytest.mark.parametrize("name", RUNS)
def test_loaded_pair_has_the_same_value_to_the_last_bit(name, fitted, here):
    run = fitted(name)
    rows = to_tensors(run.fit.prepared.train)
    if run.fit.pair.likelihood == "bernoulli":
        rows = (rows > 0.5).float()
    args = rows if isinstance(rows, tuple) else (rows[:20],)
    before = torch.get_rng_state()
    expected = value(run.model, run.guide, args)
    pyro.clear_param_store()
    model, guide = pyrarchy.load(run.out)
    assert torch.equal(value(model, guide, args), expected)
    assert torch.equal(before, torch.get_rng_state())
    for part in (model, guide):
        assert not getattr(part, "training", False)


@pytest.mark.parametrize("name", RUNS)
def test_folder_holds_what_it_should(name, fitted, here):
    out = fitted(name).out
    files = {path.name for path in out.iterdir()}
    assert {"config.json", "example.npz", "history.csv", "checkpoint.npz", "posterior.nc", "report.html",
            "result.json", "curves.png"} <= files  # fmt: skip
    assert not [file for file in files if file.startswith(".")]
    with np.load(out / "checkpoint.npz", allow_pickle=False) as archive:
        assert all(archive[key].dtype != object for key in archive.files if key != "state.json")
    for file in ("config.json", "result.json"):
        json.loads((out / file).read_text(encoding="utf-8"), parse_constant=pytest.fail)  # no NaN, no Infinity
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["vae", "hvae", "factor_analysis", "eight_schools"])
def test_posterior_opens_in_arviz(name, fitted, here):
    run = fitted(name)
    idata = arviz.from_netcdf(run.out / "posterior.nc")
    groups = set(idata.groups()) if hasattr(idata, "fromdict") or hasattr(idata, "groups") else set()
    groups = {group.strip("/") for group in groups}
    wanted = GROUPS - ({"constant_data"} if name != "eight_schools" else set())
    wanted |= set() if name == "factor_analysis" else {"fit"}
    assert wanted <= groups, wanted - groups
    for group in ("posterior", "prior"):
        for site, draws in idata[group].items():
            assert draws.dims[:2] == ("chain", "draw"), site
    if name == "eight_schools":
        assert idata["posterior"]["theta_std"].dims[2:] == ("school",)
        assert list(idata["posterior"]["school"].values) == list("ABCDEFGH")


@pytest.mark.parametrize("name", ["vae", "hvae", "plain"])
def test_curve_read_back_is_the_record(name, fitted, here):
    run = fitted(name)
    found = read_curve(run.out)
    for field in (*found.CURVES, "objective", "is_lower_bound", "step", "remarks"):
        assert getattr(found, field) == getattr(run.curve, field), field


def test_curve_of_em_is_read_back_exactly(fitted, here):
    run = fitted("factor_analysis")
    assert read_curve(run.out) == run.curve and len(run.curve) > 1


def test_example_is_the_data_in_small(fitted, here):
    """The builder sees the mean, support and image shape of the whole data, whatever rows were kept."""
    example, whole = read_example(fitted("hvae").out), pyrarchy.load_data("digits")
    assert example.image_shape == (8, 8) and example.support == "unit" and len(example.train) == 16
    assert np.array_equal(example.mean, whole.mean)
    example = read_example(fitted("factor_analysis").out)
    assert example.image_shape is None and example.dim == 60 == len(example.mean)
    assert [part.tolist() for part in read_example(fitted("eight_schools").out).train] == [
        part.tolist() for part in pyrarchy.load_data("eight_schools").train
    ]


def test_columns_are_recorded_and_chosen_again(fitted, here):
    out, digits = fitted("factor_analysis").out, pyrarchy.load_data("digits")
    columns = read_config(out)["columns"]
    assert len(columns) == 60
    assert np.array_equal(select_rows(out, digits).test, digits.test[:, columns])
    assert select_rows(fitted("hvae").out, digits) is digits


@pytest.mark.parametrize(
    ("run", "data", "words"),
    [
        ("vae", "digits", "digits: 64 columns, but the run .* was fitted to 6"),
        ("vae", "eight_schools", "eight_schools: is another kind of data than unit.npy"),
        ("eight_schools", "digits", "digits: is another kind of data than eight_schools"),
    ],
)
def test_other_data_are_refused(run, data, words, fitted, here):
    with pytest.raises(DataError, match=words):
        select_rows(fitted(run).out, pyrarchy.load_data(data))


def test_options_survive_json(fitted, here):
    config = read_config(fitted("vae").out)
    assert config["options"] == {"z_dim": 3, "hidden": [7, 5]}
    model, _ = pyrarchy.load(fitted("vae").out)
    assert model.state_dict().keys() == fitted("vae").model.state_dict().keys()


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        pyrarchy.load(tmp_path)
    (tmp_path / "config.json").write_text('{"pair": "vae", ')
    with pytest.raises(RunError, match="cannot be read"):
        pyrarchy.load(tmp_path)
    (tmp_path / "config.json").write_text('{"pair": "vae", "data": "digits"}')
    with pytest.raises(RunError, match=r"example.npz: cannot be read"):
        pyrarchy.load(tmp_path)


def test_code_that_changed_is_said(fitted, here, tmp_path):
    """Weights that do not fit the pair any more are one sentence, not a line per tensor."""
    for path in fitted("vae").out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = read_config(tmp_path)
    config["options"]["z_dim"] = 4
    write_json(tmp_path / "config.json", config)
    with pytest.raises(RunError, match=r"checkpoint.npz: its weights do not fit the pair vae; has its code changed\?"):
        pyrarchy.load(tmp_path)


def test_load_in_a_fresh_process(fitted, here):
    """From another process, by a user's module that was imported first, parameters in the store included.

    The folder names that module, but opening a run imports nothing: whoever opens it must have done so.
    """
    run = fitted("plain")
    rows = to_tensors(run.fit.prepared.train)
    expected = value(run.model, run.guide, (rows,)).numpy()
    np.save(here / "rows.npy", rows.numpy())
    code = (
        "import sys, numpy as np, torch, pyrarchy; from pyrarchy.inference import ELBO, isolated\n"
        "torch.set_num_threads(1)\n"
        "try:\n"
        "    sys.exit(f'opened: {pyrarchy.load(sys.argv[1])}')\n"
        "except ValueError as error:\n"
        "    assert 'import plain_pair first' in str(error) and 'plain_pair' not in sys.modules\n"
        "import plain_pair; model, guide = pyrarchy.load(sys.argv[1])\n"
        "with isolated(model, guide, seed=3), torch.no_grad():\n"
        "    found = ELBO(num_particles=2).value(model, guide, torch.from_numpy(np.load('rows.npy')))\n"
        "np.save('value.npy', found.numpy())"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(run.out)], cwd=here, env=env, timeout=100,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(here / "value.npy"), expected)


def test_plain_makes_strict_json(tmp_path):
    content = {1: np.float32(0.5), "a": (np.nan, np.inf, -np.inf), "b": np.arange(3), "c": [np.bool_(True), None, "é"],
               "d": {"e": np.int64(7)}, "f": np.array([[1.0, np.nan]])}  # fmt: skip
    expected = {"1": 0.5, "a": [None] * 3, "b": [0, 1, 2], "c": [True, None, "é"], "d": {"e": 7}, "f": [[1.0, None]]}
    assert plain(content) == expected
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"), parse_constant=pytest.fail) == expected
