"""What a process imports before it does its work, seen from outside: ``python -X importtime`` and ``sys.modules``."""

import subprocess
import sys

import numpy as np
import pytest

PLOTS_AND_TABLES = {"arviz", "xarray", "pandas", "h5py", "h5netcdf", "matplotlib", "scipy", "sklearn"}
FIRST_STEP = """
import sys
from pyrarchy import fit_command
from pyrarchy.__main__ import main
from pyrarchy.inference import loop

class Reached(BaseException):
    pass

def first(self, batch):
    raise Reached(*sorted(name for name in sys.modules if "." not in name))

loop.Loop._step = first
try:
    main(["fit", "vae", "hidden=5,4", "z_dim=2", "--out", sys.argv[1], "--quiet"])
except Reached as reached:
    print(*reached.args)
"""


def imported(*words):
    """The top-level packages that ``python -m pyrarchy`` with some words imports."""
    command = [sys.executable, "-X", "importtime", "-m", "pyrarchy", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.split("|")[-1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("words", [("--help",), ("fit", "--help"), ("list",), ("list", "eight_schools")])
def test_help_and_list_need_not_even_numpy(words):
    found = imported(*words)
    assert "argparse" in found and "pyrarchy" in found
    assert not found & {"torch", "pyro", "numpy", *PLOTS_AND_TABLES}


def test_data_list_needs_numpy_alone():
    found = imported("data", "list")
    assert "numpy" in found and not found & {"torch", "pyro", *PLOTS_AND_TABLES}


def test_the_rooms_import_nothing_for_plots_and_tables_and_rest_the_collector():
    code = """import gc, sys, pyrarchy.inference, pyrarchy.zoo, pyrarchy.guides
print(gc.isenabled(), sum(g["collections"] for g in gc.get_stats()), *sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    enabled, collections, *found = done.stdout.split()
    assert "torch" in found and not set(found) & {*PLOTS_AND_TABLES, "torch._dynamo"}
    assert enabled == "True" and int(collections) < 100  # four hundred when the collector is on all the time


def test_a_fit_reaches_its_first_step_without_plots_and_tables(tmp_path):
    command = [sys.executable, "-c", FIRST_STEP, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = set(done.stdout.split())
    assert {"torch", "pyro"} <= found and not found & PLOTS_AND_TABLES


@pytest.mark.parametrize("pair", ["factor_analysis", "ppca"])
def test_factor_analysis_of_a_file_needs_no_torch(pair, tmp_path):
    rng = np.random.default_rng(0)
    np.save(
        tmp_path / "x.npy",
        (rng.standard_normal((300, 2)) @ rng.standard_normal((2, 6)) + rng.standard_normal((300, 6))),
    )
    words = ("fit", pair, "z_dim=2", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), "--no-report")
    found = imported(*words)
    assert "numpy" in found and not found & {"torch", "pyro", *PLOTS_AND_TABLES}
    assert (tmp_path / "run" / "checkpoint.npz").exists()


def test_a_zoo_without_a_model_has_no_torch():
    code = "import sys, pyrarchy.zoo; print('torch' in sys.modules); pyrarchy.zoo.VAE; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]
