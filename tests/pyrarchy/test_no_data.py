"""A pair without data goes through every command, or is refused with the reason."""

import json
import math

import numpy as np
import pytest
import torch

import pyrarchy
from pyrarchy.cli import run
from pyrarchy.dataset import Dataset
from pyrarchy.files import DataError
from pyrarchy.zoo.ising_exact import log_partition


def test_a_data_set_of_nothing():
    data = pyrarchy.load_data("no_data")
    assert data.train == () and data.num_train == 0
    with pytest.raises(DataError, match="tuple of 0 arrays, without a dim"):
        _ = data.dim
    with pytest.raises(DataError, match="equally many rows"):
        Dataset("odd", (np.zeros(3), np.zeros(2)))


def test_from_fit_to_report(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["size=4", "temperature=3.0", "width=4"]
    assert run(["fit", "ising", *options, "--steps", "4", "--objective", "elbo:20", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    exact = log_partition(4, 3.0)[0] - 16 * math.log(2)
    assert f"log p(x)  = {exact:.4f} nats for the data set (exact)" in said
    result = json.loads((out / "result.json").read_text())
    assert result["evaluated_on"] == "the density itself, without data"
    assert result["elbo"] < result["log_p"] and result["exact_log_p"] == pytest.approx(exact)
    assert list(result["rates"]) == ["s5", "s4", "s3", "s2", "s1"]
    model, guide = pyrarchy.load(out)
    assert model.size == 4 and model.temperature == 3.0
    assert guide.resample(torch.ones(2, 4, 4), "s1").shape == (2, 4, 4)
    before = (out / "result.json").read_text()
    assert run(["report", str(out)]) == 0
    assert (out / "result.json").read_text() == before
    assert run(["encode", str(out), "--data", "no_data", "--draws", "7", "--out", str(tmp_path / "z.npz")]) == 0
    with np.load(tmp_path / "z.npz") as file:
        assert file["s1"].shape == (7, 8) and set(np.unique(file["s1"])) <= {0.0, 1.0}
    capsys.readouterr()
    for words, reason in (
        (["sample", str(out)], r"factor site(s) ['energy']: its forward samples are not samples of it"),
        (["reconstruct", str(out), "--data", "no_data"], "the model observes no data"),
    ):
        assert run([*words, "--out", str(tmp_path / "x.npz")]) != 0
        assert reason in capsys.readouterr().err
