"""What a caller may hand over by mistake: named at once, in words that say what to do, and nothing is left changed."""

import threading

import numpy as np
import pyro
import pytest
import torch

from pyrarchy.atomic import WriteError
from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import ELBO, ais, evaluate, fit, run_nuts, to_inference_data
from pyrarchy.inference.compare import compare
from pyrarchy.zoo import EightSchoolsNonCentred, GaussianVAE

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


def pair():
    pyro.set_rng_seed(0)
    model = GaussianVAE(4, 2, (5,))
    return model, Amortized(model, Encoder(4, (2,), (5,)))


def with_nan():
    x = X.clone()
    x[7, 2] = float("nan")
    return x


DRIVERS = {
    "fit": lambda model, guide, x: fit(model, guide, x, steps=2),
    "evaluate": lambda model, guide, x: evaluate(model, guide, x, num_samples=5),
    "to_inference_data": lambda model, guide, x: to_inference_data(model, guide, (x,), num_samples=5),
    "ais": lambda model, guide, x: ais(model, guide, x, num_chains=2, num_temperatures=3),
}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("x", "says"),
    [
        (with_nan(), r"holds NaN or infinity, first at \(7, 2\): drop or fill"),
        (X.double(), "is torch.float64 and the pair's parameters are torch.float32: convert one"),
        (X[:0], r"has shape \(0, 4\): there are no data"),
        (X.numpy(), "hand over a tensor|as a tensor|must be a tensor|ndarray"),
    ],
    ids=["nan", "float64", "no rows", "numpy"],
)
def test_data_are_to_blame(driver, x, says):
    with pytest.raises((ValueError, TypeError), match=says):
        DRIVERS[driver](*pair(), x)


def test_nuts_blames_data_too():
    y, sigma = torch.tensor([float("nan"), 1.0]), torch.ones(2)
    with pytest.raises(ValueError, match=r"argument 0 of the model.*NaN or infinity"):
        run_nuts(EightSchoolsNonCentred(), y, sigma, num_samples=5, warmup=5, chains=1)


WRONG = {
    "steps": ([-1, 0, 1.5, "3", True, float("inf")], "steps must be a whole number of at least 1"),
    "epochs": ([-1, 1.5], "epochs must be a whole number"),
    "batch_size": ([0, True, 2.5], "batch_size must be a whole number"),
    "seed": ([None, -1, 1.5, 2**32], "seed must be a whole number from 0 to 2"),
    "optimizer": ([-0.01, float("nan"), float("inf"), None, "fast"], "optimizer must be a learning rate"),
    "clip_norm": ([-1, 0, float("nan")], "clip_norm must be a positive number"),
    "threads": ([10**6], "threads must be a number"),
    "objective": ([ELBO], "objective must be a Bound"),
    "callbacks": ([print, [3]], "callbacks must be|each of callbacks must be"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (values, _) in WRONG.items() for value in values])
def test_arguments_of_fit_are_named(name, value):
    model, guide = pair()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    given = {"steps": 2, **({"steps": None} if name == "epochs" else {}), name: value}
    with pytest.raises((ValueError, TypeError), match=WRONG[name][1]):
        fit(model, guide, X, **given)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_numpy_s_numbers_are_numbers():
    model, guide = pair()
    given = {"steps": np.int64(5), "batch_size": np.int64(7), "seed": np.int64(3)}
    record = fit(model, guide, X, **given, callbacks=[lambda step: np.float64(step.loss) < 1e9])
    assert record.step == 1  # and numpy's True ends a training
    assert evaluate(model, guide, X, num_samples=np.int64(3), seed=np.int64(1)).num_samples == 3
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="num_samples must be a whole number"):
            evaluate(model, guide, X, num_samples=wrong)
        with pytest.raises(ValueError, match="num_samples must be a whole number"):
            to_inference_data(model, guide, (X,), num_samples=wrong)


def test_gradients_are_turned_on_where_they_can_be():
    with torch.no_grad():
        assert fit(*pair(), X, steps=2).step == 2
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch.inference_mode\(\) forbids"):
        fit(*pair(), X, steps=2)


def test_a_folder_is_seen_to_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    steps = []
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WriteError, match="cannot be made"):
            fit(*pair(), X, steps=2, out=out, callbacks=[steps.append])
    assert steps == []
    fit(*pair(), X, steps=2, out=tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.npz").read_bytes()
    with pytest.raises(ValueError, match="holds a checkpoint; pass resume=True"):
        fit(*pair(), X, steps=3, out=tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.npz").read_bytes() == before


def test_threads_of_one_process_take_turns():
    """Pyro's handlers and its store are one for all threads: side by side they would meet each other's sites."""
    alone = fit(*pair(), X, steps=30).losses
    pairs, found = [pair() for _ in range(4)], {}

    def work(number):
        found[number] = fit(*pairs[number], X, steps=30).losses, evaluate(*pairs[number], X, num_samples=5).log_p

    started = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert len(found) == 4 and all(losses == alone for losses, _ in found.values())
    assert fit(*pair(), X, steps=30).losses == alone


def test_a_comparison_needs_a_new_pair_for_every_seed(tmp_path):
    shared = pair()
    with pytest.raises(ValueError, match=r"entry 'shared'.*makes one pair for all seeds"):
        compare({"shared": lambda seed: shared}, X, steps=2, seeds=(0, 1), out=tmp_path, num_samples=3)
