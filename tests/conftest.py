"""Shared settings of the tests: one thread, a clean parameter store and a fixed seed around each."""

import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_pyro():
    """Start every test from the same seed and an empty parameter store, and check that it leaves none behind."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()
