"""The tape: bit for bit what Pyro computes, or a fallback that says why; never a wrong number."""

import itertools
import random
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import pyrarchy
from pyrarchy.guides import Amortized, Encoder, Ladder
from pyrarchy.inference import ELBO, Batches, ImportanceWeighted, Temper, adam, fit, isolated
from pyrarchy.inference import tape as tape_module
from pyrarchy.inference.measure import Measure
from pyrarchy.zoo import VAE, MarkovHVAE

N, D = 13, 6
X = torch.randn(N, D, generator=torch.Generator().manual_seed(4))
BITS = (X > 0).float()


class Rates(PyroModule):
    """Gamma rates of Poisson counts, a mask, and a guide with positive parameters."""

    def __init__(self):
        super().__init__("model")
        self.shape = PyroParam(torch.tensor(1.5), constraint=constraints.positive)

    def forward(self, x):
        mask = torch.arange(N) % 3 != 0
        with pyro.plate("data", N, dim=-1), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z1", dist.Gamma(self.shape, 1.0))
            pyro.sample("x", dist.Poisson(z[..., None].expand((*z.shape, D))).to_event(1), obs=x)


class RatesGuide(PyroModule):
    def __init__(self):
        super().__init__("guide")
        self.a = PyroParam(torch.full((N,), 2.0), constraint=constraints.positive)
        self.b = PyroParam(torch.full((N,), 1.0), constraint=constraints.greater_than(0.1))

    def forward(self, x):
        with pyro.plate("data", N, dim=-1), pyro.poutine.mask(mask=torch.arange(N) % 3 != 0):
            pyro.sample("z1", dist.Gamma(self.a, self.b))


class Shares(PyroModule):
    """A Dirichlet, a Beta and a multivariate normal, all global."""

    def __init__(self):
        super().__init__("model")
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self, x):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
        odds = pyro.sample("odds", dist.Beta(2.0, 3.0))
        mean = pyro.sample("mean", dist.MultivariateNormal(torch.zeros(D), torch.eye(D)))
        with pyro.plate("rows", N, dim=-1):
            loc = mean * odds + share.sum(-1, keepdim=True) * share[..., :1]
            pyro.sample("x", dist.Normal(loc.unsqueeze(-2) if loc.dim() > 1 else loc, self.scale).to_event(1), obs=x)


class SharesGuide(PyroModule):
    def __init__(self):
        super().__init__("guide")
        self.alpha = PyroParam(torch.full((3,), 1.2), constraint=constraints.positive)
        self.beta = PyroParam(torch.full((2,), 2.0), constraint=constraints.positive)
        self.loc = nn.Parameter(torch.zeros(D))
        self.tril = PyroParam(torch.eye(D), constraint=constraints.lower_cholesky)

    def forward(self, x):
        pyro.sample("share", dist.Dirichlet(self.alpha))
        pyro.sample("odds", dist.Beta(self.beta[0], self.beta[1]))
        pyro.sample("mean", dist.MultivariateNormal(self.loc, scale_tril=self.tril))


def subsampled():
    """Plain functions with ``pyro.param`` and a plate that draws its own rows, nested in one of columns."""

    def rows():
        return pyro.plate("data", N, subsample_size=5, dim=-2)

    def model(x):
        loc = pyro.param("loc", torch.zeros(D))
        with rows() as index, pyro.plate("columns", D, dim=-1):
            z = pyro.sample("z1", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[index])

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.3))
        scale = pyro.param("scale", torch.ones(D), constraint=constraints.positive)
        with rows() as index, pyro.plate("columns", D, dim=-1):
            pyro.sample("z1", dist.Normal(slope * x[index], scale))

    return model, guide


def vae(seed=0):
    torch.manual_seed(seed)
    model = VAE(D, 3, (8, 7))
    return model, Amortized(model, Encoder(D, (3,), ((7, 8),)))


def ladder(seed=0):
    torch.manual_seed(seed)
    model = MarkovHVAE(D, (4, 2), (5, 3))
    return model, Ladder(model, Encoder(D, (4, 2), (5, 3)))


PAIRS = {
    "positive parameters, Gamma, mask": (lambda: (Rates(), RatesGuide()), BITS, ELBO(num_particles=2)),
    "Dirichlet, Beta, MVN": (lambda: (Shares(), SharesGuide()), X, ELBO()),
    "subsampled and nested plates": (subsampled, X, ELBO(plates=2)),
    "VAE": (vae, BITS, ELBO()),
    "ladder, K = 3": (ladder, BITS, ImportanceWeighted(3)),
}


def by_pyro(make, x, objective, steps, lr):
    """Losses per datum by Pyro's own ELBO, validation on, and ``torch.optim``: none of our code."""
    torch.manual_seed(0)
    model, guide = make()
    k, plates = objective.num_particles, objective.plates
    settings = {"num_particles": k, "vectorize_particles": k > 1, "max_plate_nesting": plates}
    stock = Trace_ELBO(**settings) if isinstance(objective, ELBO) else RenyiELBO(alpha=0, **settings)
    losses, optimiser, size = [], None, len(x) if not isinstance(model, Shares) else 1
    with isolated(model, guide, seed=0, train=True), pyro.validation_enabled(True):
        for _ in range(steps):
            with pyro.poutine.trace(param_only=True) as used:
                loss = stock.loss_and_grads(model, guide, x) / size
            values = [s["value"].unconstrained() for s in used.trace.nodes.values()]
            tensors = list({id(v): v for v in values}.values())
            optimiser = optimiser or torch.optim.Adam(tensors, lr=lr)
            for p in tensors:
                p.grad /= size
            optimiser.step()
            optimiser.zero_grad()
            losses.append(float(loss))
        return losses


@pytest.mark.parametrize("name", PAIRS)
def test_150_steps_equal_pyros_own_and_the_eager_ones_to_the_bit(name):
    make, x, objective = PAIRS[name]
    torch.set_default_dtype(torch.float64)
    try:
        wanted = by_pyro(make, x.double(), objective, 150, 0.01)
        found = {}
        for tape in (True, False):
            torch.manual_seed(0)
            model, guide = make()
            with isolated_params():
                found[tape] = fit(
                    model, guide, x.double(), objective=objective, steps=150, optimizer=0.01, tape=tape, clip_norm=None
                )
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[True].path == "tape (143 of 150 steps)" and found[False].path == "Pyro (tape=False)"
    assert found[True].losses == found[False].losses and found[True].grad_norms == found[False].grad_norms
    np.testing.assert_allclose(found[True].losses, wanted, rtol=1e-9)


class isolated_params:
    """Free ``pyro.param`` of a test's functions are gone afterwards."""

    def __enter__(self):
        self.kept = pyro.get_param_store().get_state()
        pyro.clear_param_store()

    def __exit__(self, *exc):
        pyro.get_param_store().set_state(self.kept)


def gradients(model, guide, x, objective, **kwargs):
    """Figures and gradients of the sixth call from one seed: a replay, when a tape is used."""
    with isolated(model, guide, seed=0, train=True):
        tensors = [*model.parameters(), *guide.parameters()]
        measure = Measure(model, guide, objective, tensors, **kwargs)
        with pyro.validation_enabled(False):
            for _ in range(6):
                torch.manual_seed(5)
                figures, found = measure((x,))
    return figures.clone(), [g.clone() for g in found], measure.tape.path


def test_gradients_are_those_of_trace_elbo_in_float32():
    """Difference zero, the same seed, on 16 rows (a power of two, so that dividing by it rounds nothing)."""
    x = torch.cat([BITS, BITS[:3]])
    for make in (vae, ladder):
        model, guide = make()
        _, ours, path = gradients(model, guide, x, ELBO())
        assert path == "tape (1 of 6 steps)"  # the last replay has no check beside it
        with isolated(model, guide, train=True):
            torch.manual_seed(5)
            loss = Trace_ELBO().differentiable_loss(model, guide, x) / len(x)
            stock = torch.autograd.grad(loss, [*model.parameters(), *guide.parameters()])
        assert [float((a - b).abs().max()) for a, b in zip(ours, stock, strict=True)] == [0.0] * len(stock)


def test_gradients_are_those_of_renyi_elbo_in_float64():
    torch.set_default_dtype(torch.float64)
    try:
        model, guide = ladder()
        _, ours, path = gradients(model, guide, BITS.double(), ImportanceWeighted(5))
        assert path == "tape (1 of 6 steps)"
        stock = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
        with isolated(model, guide, train=True):
            torch.manual_seed(5)
            stock.loss_and_grads(model, guide, BITS.double())
        for gradient, p in zip(ours, [*model.parameters(), *guide.parameters()], strict=True):
            torch.testing.assert_close(gradient, p.grad / N, rtol=1e-12, atol=1e-12)
            p.grad = None
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_ladders_gap_is_closed_on_the_tape():
    """An analytic value: the trained ladder's ELBO on the tree is its exact log p(x)."""
    data = pyrarchy.load_data("gaussian_tree")
    model, guide = pyrarchy.get_pair("gaussian_tree")(data)
    x = torch.from_numpy(data.train)
    record = fit(model, guide, x, steps=3000, optimizer=0.1, schedule=lambda t: 0.5 ** (t // 350))
    assert record.path.startswith("tape")
    assert record.values[-1] == pytest.approx(float(model.log_marginal(x).mean()), abs=3e-3)


def eager_and_tape(make, x=BITS, steps=80, **kwargs):
    """The record with a tape; its losses equal those without."""
    found = {}
    for tape in (True, False):
        COUNT["calls"] = 0
        model, guide = make()
        settings = {k: v() if k in ("callbacks", "temper") else v for k, v in kwargs.items()}
        if "callbacks" in settings:
            settings["callbacks"] = [c(model) for c in settings["callbacks"]]
        found[tape] = fit(model, guide, x, steps=steps, tape=tape, **settings)
    assert found[True].losses == found[False].losses
    assert found[True].grad_norms == found[False].grad_norms
    return found[True]


class Changing(PyroModule):
    """A linear model whose forward pass calls a hook first."""

    def __init__(self, hook=lambda model, x: 1.0):
        super().__init__("model")
        self.w = nn.Parameter(torch.randn(D, 2, generator=torch.Generator().manual_seed(0)))
        self.hook, self.flag, self.weights = hook, False, [1.0, 2.0]

    def forward(self, x):
        factor = self.hook(self, x)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.mT * factor, 1.0).to_event(1), obs=x)


def changing(hook):
    def make():
        model = Changing(hook)
        torch.manual_seed(1)
        return model, Amortized(model, Encoder(D, (2,), ((3,),)))

    return make


COUNT = {"calls": 0}


def counting(model, x):
    model.calls = getattr(model, "calls", 0) + 1
    return 1.0 if model.calls < 50 else 0.5


def counting_globally(model, x):
    COUNT["calls"] += 1
    return 1.0 if COUNT["calls"] < 50 else 0.5


def branching(model, x):
    return 1.0 if model.w.sum() > 0.3 else 0.5


def branching_in_numpy(model, x):
    return 1.0 if model.w.detach().numpy().sum() > 0.3 else 0.5


def branching_on_data(model, x):
    return 1.0 if sum(x[0].tolist()) > 2 else 0.5


def dice(model, x):
    return 1.0 + random.random()


def numpy_dice(model, x):
    return 1.0 + np.random.rand()  # noqa: NPY002


def ticking(model, x, clock=itertools.count()):  # noqa: B008
    return 1.0 + 0.01 * next(clock)


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (counting, "calls' when it runs"),
        (counting_globally, "calls' when it runs"),
        (branching, "Python reads a value of a tensor in branching, line"),
        (branching_in_numpy, "Python reads a value of a tensor in branching_in_numpy, line"),
        (branching_on_data, "Python reads a value of a tensor in branching_on_data, line"),
        (dice, "generator"),
        (numpy_dice, "generator"),
        (ticking, "iterator"),
    ],
)
def test_what_a_recording_cannot_see_runs_under_pyro_and_says_why(hook, reason):
    if hook is ticking:
        model, guide = changing(hook)()
        assert reason in fit(model, guide, BITS, steps=9).path
        return
    state = np.random.get_state()  # noqa: NPY002
    path = eager_and_tape(changing(hook)).path
    np.random.set_state(state)  # noqa: NPY002
    assert path.startswith("Pyro (") and reason in path


def flagging(model):
    def callback(step):
        model.flag = step.step >= 50

    return callback


def listing(model):
    def callback(step):
        if step.step == 50:
            model.weights[1] = 5.0

    return callback


def replacing(model):
    def callback(step):
        if step.step == 50:
            model.w.data = model.w.data.clone() * 0.5

    return callback


def scaling(model):
    def callback(step):
        if step.step == 50:
            model.w.data *= 0.5

    return callback


@pytest.mark.parametrize(
    ("callback", "hook", "reason"),
    [
        (flagging, lambda model, x: 0.5 if model.flag else 1.0, "'Changing.flag' changed after 48 recorded steps"),
        (listing, lambda model, x: model.weights[1], "weights[1]' changed after 48"),
        (replacing, lambda model, x: 1.0, "memory of a parameter' changed after 48"),
        (scaling, lambda model, x: 1.0, "tape (74 of 80"),  # values are read anew
    ],
)
def test_a_structure_that_changes_at_step_50(callback, hook, reason):
    assert reason in eager_and_tape(changing(hook), callbacks=lambda: [callback]).path


def test_a_schedule_in_a_python_float_is_seen_and_a_temperature_is_recorded():
    schedule = {"beta": 1.0}

    def callback(model):
        def change(step):
            schedule["beta"] = 1.0 / (1 + step.step)

        return change

    hook = lambda model, x: schedule["beta"]  # noqa: E731
    schedule["beta"] = 1.0
    model, guide = changing(hook)()
    taped = fit(model, guide, BITS, steps=30, callbacks=[callback(model)])
    schedule["beta"] = 1.0
    model, guide = changing(hook)()
    assert taped.losses == fit(model, guide, BITS, steps=30, callbacks=[callback(model)], tape=False).losses
    assert "beta' changed after 0 recorded steps" in taped.path
    assert eager_and_tape(ladder, temper=lambda: Temper(steps=40)).path == "tape (68 of 80 steps)"


def test_growing_batches_and_a_short_last_one():
    def growing():
        return [BITS[: 2 + i] for i in range(11)]

    found = {}
    for tape in (True, False):
        model, guide = vae()
        found[tape] = fit(model, guide, growing(), epochs=4, tape=tape)
    assert found[True].losses == found[False].losses and found[True].path == "tape (0 of 44 steps)"
    found = {}
    for tape in (True, False):
        model, guide = vae()
        found[tape] = fit(model, guide, Batches(BITS, 5, transform=torch.bernoulli), epochs=20, tape=tape)
    assert found[True].losses == found[False].losses and found[True].path == "tape (48 of 60 steps)"


def test_a_replay_that_goes_wrong_is_found(monkeypatch):
    """An early difference ends the recording with Pyro's numbers; a late one is an error, for numbers were used."""
    for wrong_from, steps in ((2, 30), (9, 30)):
        real = tape_module._Recorded.replay

        def spoiled(self, batch, real=real, wrong_from=wrong_from):
            figures, found = real(self, batch)
            return (figures, [g + 1e-6 for g in found]) if self.count >= wrong_from else (figures, found)

        monkeypatch.setattr(tape_module._Recorded, "replay", spoiled)
        model, guide = vae()
        if wrong_from == 2:
            assert "replay 2 gave other numbers" in fit(model, guide, BITS, steps=steps).path
        else:
            with pytest.raises(tape_module.TapeError, match="tape=False"):
                fit(model, guide, BITS, steps=steps)
        monkeypatch.setattr(tape_module._Recorded, "replay", real)


def test_without_torchs_private_names_everything_runs_and_says_so(monkeypatch):
    """Adam by torch.optim, no recording, or a compilation that fails: the same losses."""
    model, guide = vae()
    wanted = fit(model, guide, BITS, steps=12).losses

    def losses(path):
        model, guide = vae()
        record = fit(model, guide, BITS, steps=12)
        assert path in record.path
        return record.losses

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["pyrarchy.inference.adam"], "FUSED", False)
        model, guide = vae()
        record = fit(model, guide, BITS, steps=3)
        np.testing.assert_allclose(record.losses, wanted[:3], rtol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(tape_module, "Recorder", None)
        assert losses("Pyro (this torch cannot record)") == wanted
    with monkeypatch.context() as patch:
        patch.setattr(tape_module, "compile_program", lambda program: 1 / 0)
        assert losses("Pyro (the recording could not be compiled (ZeroDivisionError") == wanted


def test_gradients_lie_in_memory_of_their_own():
    """Clipping in place must neither reach a constant nor the gradient of another parameter."""

    class Sum(PyroModule):
        def __init__(self):
            super().__init__("model")
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z1", dist.Normal(0.0, 1.0))
                pyro.factor("f", (self.a + self.b).sum().expand(len(x)))

    def make():
        model = Sum()
        torch.manual_seed(0)
        return model, Amortized(model, Scalar())

    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return {"z1": dist.Normal(self.loc.expand(len(x)), 1.0)}

    assert "tape" in eager_and_tape(make, steps=30, clip_norm=0.1).path


def reshaping(model, x):
    """A factor of one by way of views in place, of a result that has fixed memory in a replay."""
    rows = model.w.sum(1, keepdim=True) * 0 + 1
    rows.squeeze_(-1).unsqueeze_(0).t_().transpose_(0, 1)
    return rows.squeeze()


def test_views_in_place_leave_the_memory_of_a_replay_as_it_is():
    assert eager_and_tape(changing(reshaping), steps=30).path == "tape (24 of 30 steps)"


def test_adam_is_torchs_fused_adam_to_the_bit():
    """Values, state, and a parameter that gets no gradient in some steps."""
    torch.manual_seed(0)
    starts = [torch.randn(s) for s in ((3, 4), (5,), ())]
    ours, theirs = ([s.clone().requires_grad_() for s in starts] for _ in range(2))
    a, b = adam(0.01, betas=(0.8, 0.95), eps=1e-4)(ours), torch.optim.Adam(theirs, 0.01, (0.8, 0.95), 1e-4, fused=True)
    for step in range(6):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = None if step % 3 == 1 and i == 1 else torch.randn_like(p)
            q.grad = None if p.grad is None else p.grad.clone()
        a.step(), b.step()
        if step == 3:
            again = adam(0.5)(ours)
            again.load_state_dict(b.state_dict())
            a = again
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    mine, stock = a.state_dict()["state"], b.state_dict()["state"]
    assert all(torch.equal(mine[i][k], stock[i][k]) for i in stock for k in ("step", "exp_avg", "exp_avg_sq"))


def test_a_fit_on_the_tape_does_not_import_the_compiler():
    code = (
        "import sys, torch, pyrarchy; from pyrarchy.inference import fit\n"
        "data = pyrarchy.load_data('digits'); model, guide = pyrarchy.get_pair('vae')(data)\n"
        "record = fit(model, guide, torch.bernoulli(torch.from_numpy(data.train[:50])), steps=8)\n"
        "assert record.path.startswith('tape'), record.path\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
