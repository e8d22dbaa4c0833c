"""``pyrarchy fit --no-report``: weights and figures now, draws, pictures and page by ``pyrarchy report`` when wanted."""

import json

import numpy as np
import pytest
import torch

import pyrarchy
from pyrarchy import zoo
from pyrarchy.run_folder import FILES

from .conftest import RUNS
from .test_fit_command import contents, differing

LATER = {"posterior.nc", "diagnostics.nc", "report.html"}


@pytest.mark.parametrize("name", ["hvae", "factor_analysis", "ppca", "eight_schools"])
def test_a_report_made_later_is_the_one_of_the_fit(name, fitted, here, command, tmp_path):
    whole, out = fitted(name).out, tmp_path / "run"
    code, said, err = command("fit", *RUNS[name], "--no-report", "--out", out)
    assert (code, err) == (0, []) and said[-1].endswith(f"pyrarchy report {out})")
    left = {path.name for path in out.iterdir() if path.name[0] != "."}
    assert left == {name for name in FILES[:-2] if name not in LATER and not name.endswith("png")} | {"checkpoint.npz"}
    early = json.loads((out / "result.json").read_text())
    assert command("report", out, "--quick")[0] == 0
    assert differing(contents(whole), contents(out)) == []
    late = json.loads((out / "result.json").read_text())
    del early["remarks"]  # the draws may add one
    assert early == {key: late[key] for key in early}


def test_weights_without_a_report_open_as_a_pair(here, command, tmp_path):
    """The figure of ``--no-report`` is that of the weights as they were written."""
    out = tmp_path / "run"
    words = ("factor_analysis", "z_dim=1", "--data", "real.csv", "--no-report", "--quiet", "--out", out)
    assert command("fit", *words) == (0, [], [])
    model, guide = pyrarchy.load(out)
    assert isinstance(model, zoo.FactorAnalysis) and guide.model is model
    rows = torch.from_numpy(pyrarchy.load_data("real.csv").test)
    exact = model.double().log_marginal(rows.double()).mean().item()
    assert json.loads((out / "result.json").read_text())["exact_log_p"] == pytest.approx(exact, rel=1e-12)
    assert command("encode", out, "--data", "real.csv", "--out", tmp_path / "z.npz")[0] == 0
    assert np.load(tmp_path / "z.npz")["z1"].shape == (60, 1)


@pytest.mark.parametrize(("option", "code"), [("z_dim=9", 2), ("noise_floor=2.0", 2)])
def test_what_cannot_be_fitted_leaves_no_folder(option, code, here, refused, tmp_path):
    refused(code, "fit", "factor_analysis", option, "--data", "real.csv", "--no-report", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
