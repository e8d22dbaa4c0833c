"""Fresh seeds are others, the same when asked for again, and leave a problem that a test fixes as it is."""

from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from pyrarchy.inference import isolated


def draws():
    """Of numpy, of pyro's seed, of a driver's, and of a test's own problem."""
    pyro.set_rng_seed(3)
    from_pyro = torch.rand(2)
    with isolated(None, None, seed=3):
        inside = torch.rand(2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        problem = torch.rand(2)
    return [*np.random.default_rng(3).random(2), *from_pyro.tolist(), *inside.tolist()], problem


def test_fresh_seeds(request):
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).parent / "conftest.py"))
    found = [draws()]
    for number in (1, 1, 2):
        with pytest.MonkeyPatch.context() as patch:
            conftest.shift_seeds(patch, number)
            found.append(draws())
    plain, first, again, second = (values for values, _ in found)
    assert first == again and len({*plain, *first, *second}) == 3 * 4  # pyro's and the driver's are one seed
    assert plain == draws()[0]
    for _, problem in found:
        torch.testing.assert_close(problem, found[0][1], rtol=0, atol=0)
