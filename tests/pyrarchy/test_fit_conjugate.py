"""``pyrarchy fit`` of conjugate rows: the bound in the folder is the bound of what is loaded from it."""

import json

import numpy as np
import pytest
import torch

import pyrarchy
from pyrarchy import cli
from pyrarchy.inference import groups
from pyrarchy.run_folder import read_curve


def fitted(tmp_path, name, *more):
    out = tmp_path / name
    assert cli.run(["fit", name, "--out", str(out), "--quiet", "--samples", "20", *more]) == 0
    return out, json.loads((out / "result.json").read_text())


def bound_of(run, x):
    model, guide = pyrarchy.load(run)
    with torch.no_grad():
        return model.bound(x, q=guide.factors_for(x)).item()


def test_a_model_whose_evidence_is_known(tmp_path):
    run, result = fitted(tmp_path, "normal_gamma", "strength=0.5")
    x = torch.from_numpy(pyrarchy.load_data("newcomb").train[0])
    model, _ = pyrarchy.load(run)
    assert model.strength == 0.5
    assert result["exact_log_p"] == pytest.approx(model.log_evidence(x.double()).item(), abs=1e-6)
    assert result["training"]["bound"] == pytest.approx(bound_of(run, x), abs=2e-3)  # float32 sums of 66 terms
    assert result["training"]["bound"] < result["exact_log_p"] < result["training"]["bound"] + 0.05
    assert read_curve(run).bounds[-1] == result["training"]["bound"]
    draws = groups.load(run / "posterior.nc")["posterior"]
    assert set(draws.data_vars) == {"mu", "tau"}


def test_a_user_s_own_rows(tmp_path):
    """The prior's centre and spread come from the data fitted, not from the few rows kept to build the pair anew."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((90, 3)) + 7.0 * rng.integers(0, 2, (90, 1))
    np.savetxt(tmp_path / "mine.csv", rows, delimiter=",", header="a,b,c", comments="")
    run, result = fitted(tmp_path, "gaussian_mixture", "components=3", "--data", str(tmp_path / "mine.csv"))
    train = torch.from_numpy(pyrarchy.load_data(tmp_path / "mine.csv").train)
    assert result["log_p_is"] == "lower bound, closed form" and result["evaluated_on"] == "training data"
    assert result["log_p"] == result["elbo"] == pytest.approx(result["training"]["bound"], abs=1e-3)
    assert result["elbo"] == pytest.approx(bound_of(run, train), abs=0.01)  # float32 sums of 81 terms
    before = {name: (run / name).read_bytes() for name in ("report.html", "result.json")}
    assert cli.run(["report", str(run), "--quick"]) == 0
    assert {name: (run / name).read_bytes() for name in before} == before
    page = before["report.html"].decode()
    assert "lower bound, closed form" in page and "coordinate ascent" in page
    assert groups.load(run / "posterior.nc")["posterior"]["z1"].shape == (1, 200, 81)
    saved = tmp_path / "codes.npz"
    assert cli.run(["encode", str(run), "--data", str(tmp_path / "mine.csv"), "--draws", "5", "--out", str(saved)]) == 0
    with np.load(saved) as arrays:
        assert arrays["z1"].shape == (5, 90) and arrays["weights"].shape == (5, 3)


def test_options_that_would_be_ignored_are_refused(tmp_path, capsys):
    assert cli.run(["fit", "normal_gamma", "--out", str(tmp_path / "run"), "--steps", "5"]) == 2
    words = "normal_gamma is fitted by coordinate ascent, to convergence; leave --steps away"
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
