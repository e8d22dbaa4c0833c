"""What the README promises of the demo, measured: slow, because it trains in full."""

import json

import pytest

from pyrarchy.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The demo's ladder and a one-layer VAE of equal budget, by the command line."""
    folder = tmp_path_factory.mktemp("runs")
    for pair in ("ladder_vae", "vae"):
        assert main(["fit", pair, "--out", str(folder / pair), "--quiet"]) == 0
    return {p: json.loads((folder / p / "result.json").read_text()) for p in ("ladder_vae", "vae")}


def test_at_least_two_layers_hold_something(runs):
    assert sum(rate > 0.1 for rate in runs["ladder_vae"]["rates"].values()) >= 2


def test_the_ladder_beats_one_layer_at_equal_budget(runs):
    assert runs["ladder_vae"]["training"]["steps"] == runs["vae"]["training"]["steps"]
    assert runs["ladder_vae"]["log_p"] > runs["vae"]["log_p"]


def test_a_linear_vae_reaches_ppca(tmp_path):
    """SVI with a linear amortised guide ends within .05 nats per datum of PPCA's maximum likelihood (Lucas 2019)."""
    import torch

    from pyrarchy import get_pair, load, load_data
    from pyrarchy.inference import fit_em

    x = torch.from_numpy(load_data("digits").train)
    assert main(["fit", "linear_vae", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    model, _ = load(tmp_path / "run")
    best, _ = get_pair("ppca")(load_data("digits"))
    fit_em(best, x)
    with torch.no_grad():
        gap = (best.log_marginal(x).mean() - model.log_marginal(x).mean()).item()
    assert -1e-3 < gap < 0.05
