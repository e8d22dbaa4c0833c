"""Small fitted runs, each made once by the command line, with the pair as it was in memory at the end of the fit."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pytest

from pyrarchy import fit_command, run_report
from pyrarchy.__main__ import main

UNIT = ("--steps", "9", "--batch-size", "13", "--samples", "7", "--seed", "3")
RUNS = {
    "vae": ("vae", "z_dim=3", "hidden=7,5", "--data", "unit.npy", *UNIT),
    "ladder_vae_bn": ("ladder_vae_bn", "z_dims=3,2", "hidden=7,5", "--data", "unit.npy", *UNIT),
    "hvae": ("hvae", "z_dims=3,2", "hidden=7,5", "--steps", "8", "--samples", "7"),
    "factor_analysis": ("factor_analysis", "z_dim=2", "--samples", "7"),
    "ppca": ("ppca", "z_dim=2", "--data", "real.csv", "--samples", "7"),
    "eight_schools": ("eight_schools", "--steps", "30"),
    "plain": ("plain_pair:plain", "--data", "real.csv", "--steps", "6", "--samples", "7"),
}
PLAIN = '''
import pyro
import pyro.distributions as dist
import torch
from torch.distributions.constraints import positive
from pyrarchy import Source, Training, pair

SOURCE = Source("Nobody, A.", 2020, "None", "https://example.org")

@pair("plain", model="function", guide="function", density="", likelihood="gaussian", source=SOURCE,
      training=Training(steps=3, lr=0.1))
def plain(data):
    """Two plain functions."""
    def model(x):
        scale = pyro.param("noise", torch.tensor(1.0), constraint=positive)
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z1.unsqueeze(-1).expand(*z1.shape, x.shape[-1]), scale).to_event(1), obs=x)

    def guide(x):
        gain = pyro.param("gain", torch.tensor(0.1))
        spread = pyro.param("spread", torch.tensor(0.5), constraint=positive)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z1", dist.Normal(gain * x.sum(-1), spread))

    return model, guide
'''


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with a user's own files: unit.npy (41, 6) in [0, 1], real.csv (60, 5) with names, plain_pair.py."""
    folder = tmp_path_factory.mktemp("workplace")
    rng = np.random.default_rng(0)
    np.save(folder / "unit.npy", rng.random((41, 6)))
    loadings = rng.normal(size=(2, 5))
    real = rng.normal(size=(60, 2)) @ loadings + 0.3 * rng.normal(size=(60, 5)) + np.arange(5)
    np.savetxt(folder / "real.csv", real, delimiter=",", header="a,b,c,d,e", comments="")
    (folder / "plain_pair.py").write_text(PLAIN)
    return folder


PICTURES = run_report.pictures


@pytest.fixture(scope="session")
def fitted(workplace):
    """Function of a name in RUNS: the run's folder, and model and guide as the fit left them in memory."""
    made = {}

    def get(name):
        if name not in made:
            pyro.clear_param_store()
            made[name] = fit_now(workplace, RUNS[name], workplace / "runs" / name), pyro.get_param_store().get_state()
        run, free = made[name]
        pyro.get_param_store().set_state(free)  # parameters of plain functions; each test begins with an empty store
        return run

    return get


def fit_now(folder, words, out):
    """Fit by the command line, quietly, from a folder; keep the pair in memory."""
    kept, finish = [], fit_command.Fit.finish

    def keep(self, model, guide, curve):
        kept[:] = [model, guide, curve, self]
        return finish(self, model, guide, curve)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(fit_command.Fit, "finish", keep)
        patch.setattr(run_report, "pictures", PICTURES)  # the first test that asks may go without
        assert main(["fit", *words, "--quiet", "--out", str(out)]) == 0
    model, guide, curve, fit = kept
    return SimpleNamespace(out=Path(out), model=model, guide=guide, curve=curve, fit=fit)


@pytest.fixture
def here(workplace, monkeypatch):
    """Work in the workplace."""
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture
def no_pictures(monkeypatch):
    """Fits without their pictures, which take most of a small fit's time."""
    monkeypatch.setattr(run_report, "pictures", lambda *args: {})


@pytest.fixture
def command(capsys):
    """Run the command line in this process: (exit code, lines of stdout, lines of stderr)."""

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def refused(command):
    """Run a command that must fail: checks code and form, returns the one line of the error."""

    def run(code, *words):
        found, _, err = command(*words)
        assert found == code, err
        assert len(err) == 1 and err[0].startswith("error: "), err
        return err[0]

    return run
