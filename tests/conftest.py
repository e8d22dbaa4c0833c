"""Shared settings of the tests: one thread, a clean parameter store and a fixed seed around each; and their repetition.

``--repeat 100`` runs every chosen test a hundred times, and with ``--fresh-seeds`` each time on other random numbers: a test
that checks a Monte Carlo average against its standard error must then pass, too, but for one run in 200.
"""

import gc
import re
from collections import Counter

import numpy as np
import pyro
import pytest
import torch

torch.set_num_threads(1)

FORGIVEN = 200  # with fresh seeds, one failure of a test in so many runs
failures = Counter()


def pytest_addoption(parser):
    parser.addoption("--repeat", type=int, default=1, metavar="N", help="run every test N times")
    parser.addoption("--fresh-seeds", action="store_true", help="other random numbers in each repetition")


def pytest_collection_finish(session):
    """Leave what is imported and collected out of every later search for garbage, which would go through it each time."""
    if session.config.getoption("repeat") > 1:
        gc.collect()
        gc.freeze()


def pytest_generate_tests(metafunc):
    if (number := metafunc.config.getoption("repeat")) > 1:
        metafunc.parametrize("repetition", range(number), ids=[f"again{i}" for i in range(number)])


@pytest.fixture
def repetition():
    """The number of this run of the test."""
    return 0


@pytest.fixture(autouse=True)
def clean_pyro(repetition, request):
    """Start every test from the same seed and an empty parameter store, and check that it leaves none behind."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("fresh_seeds"):
            shift_seeds(patch, repetition + 1)
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        yield
        pyro.clear_param_store()
    if (
        repetition % 10 == 9
    ):  # tensors in reference cycles: much memory in few objects, which Python does not hurry to find
        gc.collect()


def shift_seeds(patch, number):
    """Turn every seed of draws into another one, the same whenever it is asked for again.

    Seeds of draws are this file's, ``pyro.set_rng_seed``, numpy's and all ``seed=`` of the library. A test's own problem (a
    model's weights, its data) stays as it is where it is made by ``torch.manual_seed`` or by a generator of torch: make it
    inside ``torch.random.fork_rng()``, so that the draws do not follow from it.
    """
    set_rng_seed, default_rng = pyro.set_rng_seed, np.random.default_rng
    patch.setattr(pyro, "set_rng_seed", lambda seed: set_rng_seed((seed + 1_000_003 * number) % 2**32))
    patch.setattr(np.random, "default_rng", lambda seed: default_rng([*np.atleast_1d(seed), number]))


def pytest_runtest_logreport(report):
    if report.failed:
        failures[re.sub(r"again\d+-?", "", report.nodeid)] += 1


def pytest_sessionfinish(session, exitstatus):
    """With fresh seeds a run in 200 of a test may fail: chance does."""
    most = max(1, session.config.getoption("repeat") // FORGIVEN)
    chance = session.config.getoption("fresh_seeds") and max(failures.values(), default=0) <= most
    if exitstatus == pytest.ExitCode.TESTS_FAILED and chance:
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter, config):
    if (number := config.getoption("repeat")) > 1:
        worst = ", ".join(f"{name} {count}" for name, count in failures.most_common(5)) or "none"
        terminalreporter.write_line(f"{number} runs of each test; failures: {worst}")
