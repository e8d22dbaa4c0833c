"""Freezing a pair: which parameters are held constant, what is put back, what is refused, and training that uses it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import SVI
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from pyrarchy.guides import Guide as Messenger
from pyrarchy.inference import ELBO, MIWAE, ImportanceWeighted, fit, isolated
from pyrarchy.inference.estimators import ESTIMATORS
from pyrarchy.inference.freeze import FixValues, frozen
from pyrarchy.inference.run import Run

B, K, X_DIM = 4, 3, 5
X = torch.randn(B, X_DIM, generator=torch.Generator().manual_seed(3))


class Inner(PyroModule):
    """A nested PyroModule with a constrained parameter and a plain network."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.7), constraints.positive)
        self.shift = nn.Parameter(torch.tensor(0.1))
        self.net = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2)])

    def forward(self, z):
        return dist.Normal(self.net[1](self.net[0](z).tanh()) + self.shift, self.scale).to_event(1)


class Model(PyroModule):
    def __init__(self, shared=None, extra=None):
        super().__init__("model")
        self.inner = Inner()
        self.shared = shared if shared is not None else nn.Linear(2, X_DIM)
        self.extra = extra if extra is not None else nn.Identity()

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", self.inner(z2))
            free = pyro.param("bias", torch.tensor(0.2))
            pyro.sample("x", dist.Normal(self.extra(self.shared(z1)) + free, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    """Reads the shared network backwards, so that one module belongs to p and q."""

    def __init__(self, shared=None, front=None):
        super().__init__("guide")
        self.front = front if front is not None else nn.Identity()
        self.shared = shared if shared is not None else nn.Linear(2, X_DIM)
        self.inner = Inner()

    def forward(self, x):
        h = self.front(x) @ self.shared.weight
        scale = pyro.param("q_scale", torch.tensor(0.6), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(h, scale).to_event(1))
            pyro.sample("z1", self.inner(z2))


def pair(**kwargs):
    shared = nn.Linear(2, X_DIM)
    return Model(shared, **{k: v for k, v in kwargs.items() if k == "extra"}), Guide(shared, kwargs.get("front"))


def tensors(model, guide):
    return [*model.parameters(), *guide.parameters(), *(p for _, p in pyro.get_param_store().named_parameters())]


def snapshot(*modules):
    owners = [m for root in modules for m in root.modules()]
    return [(id(m), n, id(p), p.requires_grad, p.clone()) for m in owners for n, p in m._parameters.items()]


def test_the_frozen_table_agrees_in_value_and_carries_the_path_alone():
    model, guide = pair()
    run = Run(model, guide, (X,), {}, K, 1)
    terms = run.live()
    before = snapshot(model, guide)
    still = run.freeze(terms)
    torch.testing.assert_close(still.log_w, terms.log_w, rtol=0, atol=1e-5)
    for (*ids, a), (*others, b) in zip(before, snapshot(model, guide), strict=True):
        assert ids == others and torch.equal(a, b)
    # at constant latents nothing is left of any parameter: modules', shared, constrained, nested, free
    constant = run._frozen({n: z.detach() for n, z in terms.values.items()})
    assert not constant.log_w.requires_grad
    everything = torch.autograd.grad(terms.log_w.sum(), tensors(model, guide), allow_unused=True, retain_graph=True)
    assert all(g is not None for g in everything[:4])
    # live minus frozen: value zero, and the gradient of the parameters at constant latents
    with FixValues({n: z.detach() for n, z in terms.values.items()}):
        direct = Run(model, guide, (X,), {}, K, 1).live()
    roots = list(dict.fromkeys(tensors(model, guide)))
    ours = torch.autograd.grad((terms.log_w - still.log_w).sum(), roots, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(direct.log_w.sum(), roots, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_parameters_come_back_after_an_exception():
    model, guide = pair()
    model.inner.shift.requires_grad_(False)
    before = snapshot(model, guide)
    with pytest.raises(ZeroDivisionError):
        with frozen(model, guide):
            assert not any(p.requires_grad for m in (model, guide) for p in m.parameters())
            raise ZeroDivisionError
    for (*ids, a), (*others, b) in zip(before, snapshot(model, guide), strict=True):
        assert ids == others and torch.equal(a, b)
    assert "inner" not in model.__dict__ and "shared" not in model.__dict__


def test_a_parameter_frozen_by_the_user_stays_frozen():
    model, guide = pair()
    model.inner.shift.requires_grad_(False)
    kept = model.inner.shift.clone()
    fit(model, guide, X, objective=ImportanceWeighted(K, estimator="dreg"), optimizer=0.05, steps=3)
    assert torch.equal(model.inner.shift, kept) and not model.inner.shift.requires_grad


def test_free_parameters_live_in_a_scoped_store():
    model, guide = pair()
    with isolated(model, guide, seed=1):
        ImportanceWeighted(K, estimator="dreg").loss_and_grads(model, guide, X)
        store = dict(pyro.get_param_store().named_parameters())
        assert store["bias"].grad is not None and store["q_scale"].grad is not None
        assert store["bias"].requires_grad and store["q_scale"].is_leaf


class Hidden(nn.Module):
    """Keeps a parameter in a plain list, where no module can find it."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Parameter(torch.tensor(0.3))]

    def forward(self, x):
        return x + self.hidden[0]


@pytest.mark.parametrize("estimator", ["stl", "dreg", "rws-dreg", "wake"])
def test_dropout_and_hidden_parameters_are_refused_in_the_first_step(estimator):
    bound = ImportanceWeighted(K, estimator=estimator)
    model, guide = pair(front=nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"dropout.*two passes.*estimator='plain'"):
        fit(model, guide, X, objective=bound, steps=2)
    fit(model, guide, X, objective=ImportanceWeighted(K), steps=2)
    # in the likelihood, in the guide: each named by what depends on it
    for kwargs, site in (({"extra": Hidden()}, "'x'"), ({"front": Hidden()}, "'z2'")):
        model, guide = pair(**kwargs)
        with pytest.raises(ValueError, match=rf"site\(s\) \[{site}\] depend on a parameter that belongs to no module"):
            fit(model, guide, X, objective=bound, steps=2)


def test_networks_of_plain_functions_are_refused_not_misread():
    net, encoder = nn.Linear(2, X_DIM), nn.Linear(X_DIM, 2)

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Laplace(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Laplace(encoder(x), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"\['x', 'z1'\] depend on a parameter.*pyro.module"):
        ImportanceWeighted(K, estimator="dreg").loss_and_grads(model, guide, X)


def test_recurrent_networks_are_frozen_too():
    """They read their weights from a list of their own."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(1, X_DIM)

        def forward(self, x):
            return x + self.gru(torch.ones(3, 1, 1))[0][-1, 0]

    model, guide = pair(extra=Recurrent(), front=Recurrent())
    ImportanceWeighted(K, estimator="dreg").loss_and_grads(model, guide, X)
    grad, listed = model.extra.gru.weight_hh_l0.grad, model.extra.gru._flat_weights
    assert grad.abs().max() > 0 and all(isinstance(w, nn.Parameter) for w in listed)


class OwnFlow(Messenger):
    """A flow that lives as long as the guide, and so remembers the inverse of the very tensor that it made."""

    def __init__(self, model):
        super().__init__(model)
        self.flow = affine_autoregressive(2, [5])

    def posterior(self, name, prior):
        if name == "z1":
            return prior
        return dist.TransformedDistribution(dist.Normal(torch.zeros(B, 2), 1.0).to_event(1), [self.flow])


def test_flows_do_not_answer_from_memory():
    model = Model()
    guide = OwnFlow(model)
    run = Run(model, guide, (X,), {}, K, 1)
    terms = run.live()
    still = run.freeze(terms)
    parameters = list(guide.flow.parameters())
    found = torch.autograd.grad((terms.log_q["z2"] - still.log_q["z2"]).sum(), parameters)
    z = terms.values["z2"].detach()
    q = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [guide.flow])
    for a, b in zip(found, torch.autograd.grad(q.log_prob(z).sum(), parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_auxiliary_sites_of_a_joint_guide_are_kept():
    def model(x):
        mean = pyro.param("mean", torch.tensor(0.3))
        a = pyro.sample("a", dist.Normal(mean, 1.0))
        b = pyro.sample("b", dist.LogNormal(a, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    guide = AutoMultivariateNormal(model)
    guide(X[:, 0])
    means = {}
    for estimator in ("plain", "stl"):
        pyro.set_rng_seed(4)
        for p in guide.parameters():
            p.grad = None
        ELBO(20_000, estimator=estimator).loss_and_grads(model, guide, X[:, 0])
        means[estimator] = guide.loc.grad.clone()
    torch.testing.assert_close(means["stl"], means["plain"], rtol=0.05, atol=0.05)
    assert not torch.equal(means["stl"], means["plain"])


def test_sleep_refuses_data_that_it_cannot_dream():
    class Centred(Model):
        def forward(self, x):
            super().forward(x - 1.0)

    model, guide = Centred(), Guide()
    with pytest.raises(ValueError, match=r"\['x'\] do not observe one of the model's arguments.*'wake'"):
        ELBO(K, estimator="sleep").loss_and_grads(model, guide, X)

    def factor(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.factor("energy", -z1.square().sum(-1))
            pyro.sample("x", dist.Normal(x.mean(), 1.0).expand([X_DIM]).to_event(1), obs=x)

    with pytest.raises(ValueError, match="factor are not its own"):
        ELBO(K, estimator="sleep").loss_and_grads(factor, guide, X)
    given = Model()
    assert math.isfinite(ELBO(K, estimator="sleep").loss_and_grads(given, guide, x=X))  # by name as well


@pytest.mark.parametrize("estimator", [n for n in ESTIMATORS if n != "plain"])
def test_estimators_train_under_svi(estimator):
    """SVI learns which tensors to move from the statements of the step, frozen passes included."""
    model, guide = pair()
    bound = ELBO(K, estimator="stl") if estimator == "stl" else MIWAE(2, K, estimator=estimator)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), bound)
    svi.evaluate_loss(X)
    before = {id(p): p.clone() for p in tensors(model, guide)}
    losses = [svi.step(X) for _ in range(60)]
    assert sum(losses[-15:]) < sum(losses[:15])
    assert all(not torch.equal(p, before[id(p)]) for p in tensors(model, guide) if p is not guide.shared.bias)


@pytest.mark.parametrize("estimator", ["stl", "dreg", "rws-dreg", "wake", "sleep"])
def test_fit_trains_and_resumes_to_the_same_bits(estimator, tmp_path):
    x = (X + 2.0).repeat(4, 1)

    def run(out, steps, resume=False):
        pyro.clear_param_store()
        pyro.set_rng_seed(6)
        model, guide = pair()
        guide.shared = nn.Linear(2, X_DIM, bias=False)
        record = fit(model, guide, x, objective=objective, optimizer=0.03, steps=steps, batch_size=7, out=tmp_path / out,
                     resume=resume, seed=8)  # fmt: skip
        return record.losses, [p.detach().clone() for p in [*model.parameters(), *guide.parameters()]]

    objective = ELBO(K, estimator="stl") if estimator == "stl" else ImportanceWeighted(K, estimator=estimator)
    losses, weights = run("whole", 40)
    assert sum(losses[-10:]) < sum(losses[:10])
    run("cut", 17)
    again, resumed = run("cut", 40, resume=True)
    assert losses == again and all(torch.equal(a, b) for a, b in zip(weights, resumed, strict=True))
