"""Batch normalisation in fits: statistics measured anew, checkpoints, and which estimators may see it in training."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyrarchy.guides import Encoder, Ladder
from pyrarchy.inference import (
    ELBO,
    PIWAE,
    Batches,
    ImportanceWeighted,
    evaluate,
    fit,
    isolated,
    load_state,
    reestimate_statistics,
)
from pyrarchy.inference.batch_statistics import batch_normalisers, coupled_modules
from pyrarchy.inference.compare import compare
from pyrarchy.inference.compare_runs import Entry
from pyrarchy.zoo import BatchNorm, MarkovHVAE, Normalised

X, Z, H, N = 7, (4, 3), (9, 8), 11


def bits(n=N, seed=0):
    return torch.bernoulli(torch.full((n, X), 0.5), generator=torch.Generator().manual_seed(seed))


def pair(seed=1, *, model_too=True):
    pyro.set_rng_seed(seed)
    part = Normalised(nn.LeakyReLU)
    model = MarkovHVAE(X, Z, H, activation=part if model_too else nn.LeakyReLU)
    return model, Ladder(model, Encoder(X, Z, H, activation=part))


def state_of(model, guide):
    return {f"{i}.{n}": t.clone() for i, m in enumerate((model, guide)) for n, t in m.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("size", [None, 4, 5])  # whole; a last batch of three; a last row alone, left out
def test_the_statistics_are_the_datas_own(size):
    """First layer by hand: means over all rows, variances within batches, weighed by their rows."""
    model, guide = pair()
    x = bits()
    first = guide.encoder.blocks[0]
    linear, norm = first[0], first[1][0]
    before, generator = state_of(model, guide), torch.get_rng_state()
    model.train()
    guide.eval()
    names = reestimate_statistics(model, guide, x, size, seed=3)
    assert len(names) == 8 and all(name.startswith(("model.", "guide.")) for name in names)
    batches = [b for (b,) in Batches(x, size, seed=3).epoch(0) if len(b) > 1]
    rows = sum(len(b) for b in batches)
    assert rows == {None: 11, 4: 11, 5: 10}[size]
    with torch.no_grad():
        mean = sum(linear(b).sum(0) for b in batches) / rows
        variance = sum(len(b) * linear(b).var(0) for b in batches) / rows
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.num_batches_tracked == len(batches)
    after = state_of(model, guide)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in before if "running" in n or "tracked" in n}
    assert all(m.momentum == 0.1 for m in batch_normalisers(model, guide).values())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(m.training for m in model.modules()) and not any(m.training for m in guide.modules())
    reestimate_statistics(model, guide, x, size, seed=3)
    assert same(after, state_of(model, guide))  # a function of the weights, the data and the seed


def test_without_a_normalisation_nothing_is_run():
    def never(*args):
        raise AssertionError("it was run")

    assert reestimate_statistics(never, never, bits()) == []


def test_measured_anew_the_bound_in_evaluation_is_what_training_saw():
    """After large steps the lagging statistics belong to other weights; the data's own repair the evaluation."""
    x = bits(400)
    model, guide = pair()
    record = fit(model, guide, x, steps=10, optimizer=0.1, batch_size=100)
    lagging = evaluate(model, guide, x, num_samples=5).mean_elbo
    reestimate_statistics(model, guide, x, 100)
    anew = evaluate(model, guide, x, num_samples=5).mean_elbo
    assert anew > lagging + 0.3
    assert anew == pytest.approx(record.values[-1], abs=0.2)


def test_buffers_are_in_the_checkpoint_and_a_killed_run_ends_on_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    def kill(now):
        if now.step == 7:
            raise Killed

    options = {"optimizer": 0.02, "seed": 5, "steps": 12, "save_every": 3, "batch_size": 4}
    straight, resumed = pair(), pair(seed=8)
    fit(*straight, bits(), **options)
    with pytest.raises(Killed):
        fit(*pair(), bits(), out=tmp_path, callbacks=[kill], **options)
    saved = load_state(tmp_path / "checkpoint.npz")["modules"][0]
    assert saved["decoder.0.1.0.num_batches_tracked"] == 6 and saved["decoder.0.1.0.running_mean"].any()
    fit(*resumed, bits(), out=tmp_path, resume=True, **options)
    assert same(state_of(*straight), state_of(*resumed))
    for one in (straight, resumed):
        reestimate_statistics(*one, bits(), 4)
    assert same(state_of(*straight), state_of(*resumed))


def test_a_step_counts_once_whatever_the_estimator_runs():
    for model_too, objective in ((True, ELBO(estimator="stl")), (False, ImportanceWeighted(3, estimator="dreg"))):
        model, guide = pair(model_too=model_too)
        fit(model, guide, bits(), steps=4, objective=objective)
        assert {m.num_batches_tracked.item() for m in batch_normalisers(model, guide).values()} == {4}
    model, guide = pair(model_too=False)
    fit(model, guide, bits(), steps=4, objective=ImportanceWeighted(3, estimator="sleep"))
    assert {m.num_batches_tracked.item() for m in batch_normalisers(model, guide).values()} == {4}


@pytest.mark.parametrize(
    ("data", "size", "words"),
    [
        (bits(), 5, "11 rows in batches of 5 leave one row alone: choose another batch_size, 4 or 6"),
        (bits(), 1, "11 rows in batches of 1 leave one row alone: choose another batch_size, 3 or 4"),
        (bits(2), 1, "2 rows in batches of 1 leave one row alone: choose another batch_size, 2 or 3"),
        (bits(1), None, "holds a single row"),
        ([bits(4), bits(1), bits(5)], None, "holds a single row"),
        (DataLoader(TensorDataset(bits()), batch_size=2), None, "holds a single row"),
    ],
    ids=["last of five", "all of one", "two rows", "one row", "list", "loader"],
)
def test_a_row_left_alone_is_refused_before_the_first_step(data, size, words, tmp_path):
    """Before any step, so before a checkpoint; the normalisation is named. Where it reads no batch, nothing is refused."""
    model, guide = pair()
    before, generator = state_of(model, guide), torch.get_rng_state()
    with pytest.raises(ValueError, match=f"'guide.encoder.blocks.0.1.0' takes a variance over the rows.*{words}"):
        fit(model, guide, data, batch_size=size, steps=9, out=tmp_path)
    assert same(before, state_of(model, guide)) and torch.equal(generator, torch.get_rng_state())
    assert not list(tmp_path.iterdir())
    assert all(not module._forward_pre_hooks for module in batch_normalisers(model, guide).values())
    for part in batch_normalisers(model, guide).values():
        part.__class__ = type("Whitened", (nn.Identity,), {"forward": lambda self, h: h * self.weight + self.bias})
    fit(model, guide, data, batch_size=size, steps=9)


def test_batches_without_a_lone_row_are_not_refused():
    loader = DataLoader(TensorDataset(bits()), batch_size=5, drop_last=True)
    for data, size in ((bits(), 4), (bits(), 6), (loader, None)):
        assert fit(*pair(), data, batch_size=size, steps=4).step == 4


def test_draws_are_rows_too():
    """A decoder that is normalised over the draws of one row has a variance to take, as it has in training."""
    model, guide = pair()
    encoder = Encoder(X, Z, H)
    guide = Ladder(model, encoder)
    fit(model, guide, bits(), batch_size=5, steps=4, objective=ELBO(2))
    for alone in (ELBO(), Trace_ELBO(), Trace_ELBO(2)):  # the last draws one after the other
        with pytest.raises(ValueError, match=r"'model.priors.0.0.1.0' takes a variance"):
            fit(model, guide, bits(), batch_size=5, steps=4, objective=alone)


def test_what_reads_latents_is_found_and_the_value_is_called_no_bound():
    model, guide = pair()
    with isolated(model, guide, train=True):
        found = coupled_modules(model, guide, (bits(),))
    assert found == [f"model.{n}" for n in ("priors.0.0.1.0", "priors.0.0.3.0", "decoder.0.1.0", "decoder.0.3.0")]
    with isolated(model, guide):
        assert coupled_modules(model, guide, (bits(),)) == []
    record = fit(model, guide, bits(), steps=1)
    assert not record.is_lower_bound and "bounds nothing" in record.remarks[0]
    model, guide = pair(model_too=False)
    assert fit(model, guide, bits(), steps=1).is_lower_bound


@pytest.mark.parametrize(
    "objective",
    [
        ImportanceWeighted(3, estimator="dreg"),
        ImportanceWeighted(3, estimator="stl"),
        ImportanceWeighted(3, estimator="wake"),
        ImportanceWeighted(3, estimator="sleep"),
        PIWAE(2, 2),
    ],
    ids=repr,
)
def test_estimators_that_weigh_paths_are_refused_where_latents_are_normalised(objective):
    model, guide = pair()
    with pytest.raises(ValueError, match=r"'model.priors.0.0.1.0'.*read latents in training mode"):
        fit(model, guide, bits(), steps=1, objective=objective)
    with isolated(model, guide):  # in evaluation nothing is coupled
        objective.differentiable_loss(model, guide, bits()).backward()
    model, guide = pair(model_too=False)  # normalised features of the data alone
    fit(model, guide, bits(), steps=1, objective=objective)


class Decoder(PyroModule):
    """One latent and a normalised decoder: small enough for thousands of gradients."""

    def __init__(self):
        super().__init__("model")
        self.norm = BatchNorm(2)
        self.out = nn.Linear(2, X)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.out(self.norm(z).tanh()), 0.5).to_event(1), obs=x)


class Linear(PyroModule):
    def __init__(self):
        super().__init__("guide")
        self.loc = nn.Linear(X, 2)
        self.log_scale = nn.Parameter(torch.tensor([-0.3, 0.2]))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(self.loc(x), self.log_scale.exp()).to_event(1))


@pytest.mark.parametrize("depth", [2, float("inf")], ids=["told", "guessed"])
def test_draws_of_pyro_s_own_objective_lie_left_of_nested_plates(depth):
    """It draws on an axis left of both plates, though a batch of one row and one view would stand alone without."""

    def in_views(part):
        def forward(self, x):
            with pyro.plate("views", 1, dim=-2):
                part.forward(self, x)

        return type("InViews", (part,), {"forward": forward})()

    stock = {"vectorize_particles": True, "max_plate_nesting": depth}
    given = {"batch_size": 5, "steps": 4}
    fit(in_views(Decoder), in_views(Linear), torch.randn(11, X), objective=Trace_ELBO(2, **stock), **given)
    with pytest.raises(ValueError, match=r"'model.norm' takes a variance"):
        fit(in_views(Decoder), in_views(Linear), torch.randn(11, X), objective=Trace_ELBO(1, **stock), **given)


def z_scores(bound, estimator, seeds=150):
    """How far the guide's mean gradient is from the plain one's, in standard errors of their difference."""
    pyro.set_rng_seed(2)
    model, guide = Decoder().double().train(), Linear().double().train()
    x = torch.randn(3, X, dtype=torch.float64)
    differences = []
    with pyro.validation_enabled(False):  # nor is anything refused, therefore
        for seed in range(seeds):
            gradients = []
            for objective in (bound(), bound(estimator=estimator)):
                pyro.set_rng_seed(seed)
                loss = objective.differentiable_loss(model, guide, x)
                gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(guide.parameters()))]))
            differences.append(gradients[1] - gradients[0])
    differences = torch.stack(differences)
    return (differences.mean(0) / (differences.std(0) / seeds**0.5)).abs().max().item()


@pytest.mark.stochastic
def test_sticking_the_landing_is_unbiased_for_the_elbo_of_a_coupled_batch():
    assert z_scores(ELBO, "stl") < 4.5


def test_the_reason_of_the_refusal():
    """DReG's gradient differs from the plain one's by many standard errors where latents are normalised."""
    assert z_scores(lambda estimator=None: ImportanceWeighted(2, estimator=estimator), "dreg") > 6


def test_a_comparison_grades_with_the_datas_own_statistics(tmp_path):
    """The outcome is that of the same fit, measured anew and evaluated by hand."""
    x, test = bits(40), bits(9, seed=1)
    entry = Entry(pair, optimizer=0.05)
    found = compare({"normalised": entry}, x, test, out=tmp_path, seeds=[3], steps=7, batch_size=8, num_samples=20)
    model, guide = pair(3)
    fit(model, guide, Batches(x, 8, seed=3), optimizer=0.05, steps=7, seed=3)
    lagging = evaluate(model, guide, test, num_samples=20).log_p
    reestimate_statistics(model, guide, Batches(x, 8, seed=3), seed=3)
    own = evaluate(model, guide, test, num_samples=20).log_p
    (outcome,) = found.outcomes["normalised"].values()
    assert outcome.log_p == pytest.approx(own, abs=1e-6) and abs(lagging - own).max() > 0.01
    assert not outcome.is_lower_bound
