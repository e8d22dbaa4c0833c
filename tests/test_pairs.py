"""The contract of every row: it builds, checks, trains, saves and loads, and its model is the one it names."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule

import pyrarchy
from pyrarchy import zoo
from pyrarchy.check_command import ROWS, check
from pyrarchy.inference import ELBO, evaluate, fit, isolated, load_state, save_state
from pyrarchy.inference.continuation import load_modules
from pyrarchy.objectives import make_objective
from pyrarchy.placement import to_tensors
from pyrarchy.run_folder import prepare

PAIRS = pyrarchy.list_pairs()


def small(pair):
    """A pair built for the first rows of its data, and those rows as the model takes them."""
    data, _ = prepare(pair, pyrarchy.load_data(pair.data), {})
    model, guide = pair(data)
    if isinstance(data.train, tuple):
        return data, model, guide, to_tensors(data.train)
    rows = to_tensors(data.train[:ROWS])
    return data, model, guide, ((rows > 0.5).float() if pair.likelihood == "bernoulli" else rows,)


def mixes(guide):
    """Whether global and local latents mix, so that no bound per datum exists and Pyro's Trace_ELBO takes its place."""
    return getattr(guide, "has_local", False)


@pytest.mark.parametrize("name", PAIRS)
def test_pair_passes_its_check(name):
    """Sites agree, every parameter gets a gradient, particles work, no datum leans on another."""
    pair = PAIRS[name]
    data, _ = prepare(pair, pyrarchy.load_data(pair.data), {})
    if pair.guide == "Exact":
        assert not list(pair(data)[1].parameters())
    found = check(pair, data)
    assert found.latents and found.observed and found.num_parameters > 0


@pytest.mark.parametrize("name", PAIRS)
def test_row_names_its_classes(name):
    """The classes in the row are the ones that are built."""
    _, model, guide, _ = small(PAIRS[name])
    assert type(model).__name__ == PAIRS[name].model
    assert type(guide).__name__ == PAIRS[name].guide
    assert model._pyro_name == "model"


@pytest.mark.parametrize("name", PAIRS)
def test_value_survives_save_and_load(name, tmp_path):
    """Another pair of other weights has the first one's value to the last bit once it holds its checkpoint."""
    data, model, guide, args = small(PAIRS[name])
    other = PAIRS[name](data, seed=5)
    modules = [m for m in (model, guide) if isinstance(m, torch.nn.Module)]
    save_state(tmp_path / "checkpoint.npz", {"modules": [dict(m.state_dict()) for m in modules]})

    def value(model, guide):
        with isolated(model, guide, seed=3):
            if mixes(guide):
                return torch.tensor(Trace_ELBO().loss(model, guide, *args))
            return ELBO(num_particles=2).value(model, guide, *args)

    if any(p.numel() > 1 and not name.startswith(("eight", "gaussian_tree")) for p in model.parameters()):
        assert not torch.equal(value(model, guide), value(*other))
    load_modules(*other, load_state(tmp_path / "checkpoint.npz"))
    assert torch.equal(value(model, guide), value(*other))


@pytest.mark.parametrize("name", PAIRS)
def test_model_generates_data_of_the_right_shape(name):
    """Freed data sites give samples of the data's own shape and support."""
    from pyrarchy.inference import sample

    _, model, _, args = small(PAIRS[name])
    if not args:  # a density by itself, through a factor: it generates nothing
        with pytest.raises(ValueError, match="its forward samples are not samples of it"):
            sample(model, args, 11)
        return
    draws = sample(model, args, 11)
    observed = list(draws)[-1]
    rows = 11 if PAIRS[name].likelihood != "own" else (11, *args[0].shape)
    assert draws[observed].shape[: np.size(rows)] == (rows if isinstance(rows, tuple) else (rows,))
    assert np.isfinite(draws[observed]).all()
    if PAIRS[name].likelihood == "bernoulli":
        assert set(np.unique(draws[observed])) <= {0.0, 1.0}


@pytest.mark.parametrize("name", PAIRS)
def test_importance_weighting_never_loosens_the_bound(name):
    """The held-out log p estimate is at or above the ELBO on the same weights (Jensen), for every datum."""
    _, model, guide, args = small(PAIRS[name])
    if mixes(guide):  # nothing to weight per datum: that has to be said
        with pytest.raises(ValueError, match="global and local"):
            evaluate(model, guide, *args)
        return
    found = evaluate(model, guide, args if len(args) != 1 else args[0], num_samples=40)
    assert (found.log_p >= found.elbo - 1e-9).all()
    assert np.isfinite(found.log_p).all()


@pytest.mark.parametrize("name", PAIRS)
def test_defaults_of_the_row_are_legal(name):
    """Objective, budget and data of a row can be used as they stand."""
    pair = PAIRS[name]
    assert make_objective(pair.training.objective).is_lower_bound
    assert pair.training.method in ("em", "cavi") or (pair.training.epochs is None) != (pair.training.steps is None)
    assert pair.summary.endswith(".")
    assert pair.source.link.startswith("https://")
    assert pair.source.bibtex.count("{") == pair.source.bibtex.count("}")


def test_every_model_class_has_a_row():
    """A model that is in no row is not in the zoo."""
    models = {n for n in zoo.__all__ if isinstance(v := getattr(zoo, n), type) and issubclass(v, PyroModule)}
    assert models == {pair.model for pair in PAIRS.values()}


def test_the_zoo_tells_a_type_checker_what_it_imports():
    """Models are imported when they are asked for, so what an editor reads stands apart."""
    body = ast.parse(Path(zoo.__file__).read_text()).body
    (block,) = (node for node in body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING")
    told = {alias.name: line.module for line in block.body for alias in line.names}
    assert told == {name: getattr(zoo, name).__module__.split(".")[-1] for name in zoo.__all__}
    assert set(told) <= set(dir(zoo))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = zoo.Nothing


def test_building_leaves_the_generator_alone():
    """Building a pair is a function of its seed and touches nothing outside."""
    pyro.set_rng_seed(11)
    before = torch.get_rng_state()
    first = PAIRS["vae"](seed=2)[0].decoder[1].logits.weight
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, PAIRS["vae"](seed=2)[0].decoder[1].logits.weight)
    assert not torch.equal(first, PAIRS["vae"](seed=3)[0].decoder[1].logits.weight)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="Did you mean ladder_vae"):
        pyrarchy.get_pair("lader_vae")
    with pytest.raises(ValueError, match=r"no option 'zdim'; it has: z_dim, hidden"):
        PAIRS["vae"].parse_options(["zdim=3"])
    with pytest.raises(ValueError, match="z_dim=many"):
        PAIRS["vae"].parse_options(["z_dim=many"])
    assert PAIRS["vae"].parse_options(["hidden=7,5", "z_dim=3"]) == {"hidden": (7, 5), "z_dim": 3}


def test_pair_of_another_module_is_found_by_path(tmp_path, monkeypatch):
    """``module:function`` finds a pair that no entry point announces."""
    (tmp_path / "elsewhere.py").write_text("from pyrarchy.rows_images import vae\nnot_a_pair = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = pyrarchy.get_pair("elsewhere:vae")
    assert dataclasses.replace(found, name="vae") == PAIRS["vae"]
    with pytest.raises(ValueError, match="decorate the function"):
        pyrarchy.get_pair("elsewhere:not_a_pair")
    with pytest.raises(ValueError, match="cannot load"):
        pyrarchy.get_pair("elsewhere:missing")


@pytest.mark.parametrize("name", [n for n, pair in PAIRS.items() if pair.training.method == "svi"])
def test_every_row_trains_on_the_tape_to_the_same_bits(name):
    """Ten steps by the row's own objective and estimator: recorded and replayed, and under Pyro alone."""
    plan, found = PAIRS[name].training, {}
    objective = make_objective(plan.objective, plan.estimator)
    for tape in (True, False):
        _, model, guide, args = small(PAIRS[name])
        record = fit(model, guide, args, objective=objective, steps=10, optimizer=plan.lr, tape=tape)
        found[tape] = record, [p.detach() for p in (*model.parameters(), *guide.parameters())]
    assert found[True][0].losses == found[False][0].losses
    assert all(torch.equal(a, b) for a, b in zip(found[True][1], found[False][1], strict=True))
    stock = type(objective).__module__.startswith("pyro.")
    assert found[True][0].path.startswith("Pyro (Trace_ELBO reads" if stock else "tape (5 of 10")
