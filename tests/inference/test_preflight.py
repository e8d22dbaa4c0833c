"""The traps of Pyro 1.9: each is refused before the first step, by the name of the site or parameter, or avoided."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, AutoNormalMessenger
from pyro.nn import PyroModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyrarchy.guides import Guide, Ladder
from pyrarchy.inference import ELBO, ImportanceWeighted, fit, isolated, preflight

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


class Model(PyroModule):
    def __init__(self, name="model", attribute="net"):
        super().__init__(*([name] if name else []))
        setattr(self, attribute, nn.Linear(2, 2))
        self.attribute = attribute

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(getattr(self, self.attribute)(z), 1.0).to_event(1), obs=x)


class Q(PyroModule):
    def __init__(self, name="guide", attribute="net"):
        super().__init__(*([name] if name else []))
        setattr(self, attribute, nn.Linear(2, 2))
        self.attribute = attribute

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(getattr(self, self.attribute)(x), 1.0).to_event(1))


def refused(message, model, guide, data=X, error=ValueError, **options):
    modules = [m for m in (model, guide) if isinstance(m, nn.Module)]
    before = [p.clone() for m in modules for p in m.parameters()]
    with pytest.raises(error, match=message):
        fit(model, guide, data, steps=2, optimizer=0.1, **options)
    after = [p for m in modules for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=False))  # a lazy guide may have made its own


@pytest.mark.parametrize("names", [("", ""), ("model", "model")], ids=["unnamed", "one name"])
def test_roots_that_would_share_keys_are_refused_and_else_both_train(names):
    refused(r"\['net'\].*super\(\).__init__\('model'\)", Model(names[0]), Q(names[1]))
    for model, guide in ((Model(names[0]), Q(names[1], "other")), (Model(), Q())):
        before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
        fit(model, guide, X, steps=2, optimizer=0.1)
        after = [*model.parameters(), *guide.parameters()]
        assert len(after) == 4 and not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class Methods(PyroModule):
    """Plain methods: Pyro's SVI registers nothing of them and trains nothing."""

    def __init__(self):
        super().__init__("methods")
        self.p, self.q = nn.Linear(2, 2), nn.Linear(2, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.p(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(self.q(x), 1.0).to_event(1))


def test_plain_methods_train_or_are_refused_but_never_stand_still():
    both = Methods()
    before = [p.clone() for p in both.parameters()]
    fit(both.model, both.guide, X, steps=2, optimizer=0.1)
    assert not any(torch.equal(a, b) for a, b in zip(before, both.parameters(), strict=True))
    refused("nothing to train.*plain methods", lambda x: both.model(x), lambda x: both.guide(x))


class Lost(Q):
    def forward(self, x):
        with torch.no_grad():
            loc = self.net(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(loc, 1.0).to_event(1))


def test_an_unreached_parameter_is_named():
    model, guide = Model(), Q()
    model.spare = nn.Linear(3, 1)
    refused(r"\['model.spare.weight', 'model.spare.bias'\] are never reached", model, guide)
    model.spare.requires_grad_(False)
    fit(model, guide, X, steps=1)
    lost = Lost()
    refused(r"\['guide.net.weight', 'guide.net.bias'\]", Model(), lost)


def test_sites_are_compared():
    refused(r"does not sample.*'z1'", Model(), lambda x: None)

    class More(Q):
        def forward(self, x):
            super().forward(x)
            pyro.sample("z9", dist.Normal(0.0, 1.0))

    refused("'z9'", Model(), More())


class Answers(Guide):
    def __init__(self, model):
        super().__init__(model)
        self.net = nn.Linear(2, 2)

    def encode(self, x):
        return self.net(x)

    def posterior(self, name, prior):
        return dist.Normal(self.evidence, 1.0).to_event(1)


def test_a_guide_of_another_model_is_refused_and_a_users_own_guide_takes_minibatches():
    model = Model()
    refused("Answers was built with another model", Model(), Answers(model))
    refused("Answers was built with another model", poutine.scale(model, scale=0.5), Answers(model))
    fit(model, Answers(model), X, steps=2, batch_size=4)


@pytest.mark.parametrize("make", [AutoNormal, AutoDelta, AutoNormalMessenger])
@pytest.mark.parametrize(
    ("data", "size"),
    [
        (X, 3),
        (X, 6),  # one batch of all rows is shuffled, so the rows of the parameters would not be those of the data
        ([X[:3], X[3:]], None),
        (DataLoader(TensorDataset(X), batch_size=3), None),
    ],
    ids=["batches", "shuffled", "list", "loader"],
)
def test_a_row_of_parameters_per_datum_is_refused_under_minibatches(make, data, size):
    model = Model()
    refused(r"one row of parameters per datum.*'z1'", model, make(model), data, batch_size=size)


def test_per_datum_parameters_train_on_the_whole_data_and_in_subsampled_plates():
    model = Model()
    guide = AutoNormal(model)
    fit(model, guide, X, steps=2)
    assert guide.locs.z1.shape == (6, 2)

    class Subsampled(PyroModule):
        def __init__(self):
            super().__init__("model")

        def forward(self, x):
            with pyro.plate("data", len(x), subsample_size=4) as rows:
                z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    model = Subsampled()
    fit(model, AutoNormal(model), X, steps=2)


def latent_mean(x):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)


def scaled_mean(rows):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(X), subsample=rows):
        pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=X[rows])


def test_global_latents_under_minibatches_are_refused_unless_the_plate_says_the_full_size():
    refused("'mu'.*outside plate 'data'.*full size", latent_mean, AutoNormal(latent_mean), batch_size=3)
    for data, size in ((X, None), (X, 6)):
        fit(latent_mean, AutoNormal(latent_mean), data, steps=2, batch_size=size)
    rows = torch.arange(6)
    fit(scaled_mean, AutoNormal(scaled_mean), rows, steps=2, batch_size=3, objective=Trace_ELBO())
    refused("'x'.*subsampled plate 'data'", scaled_mean, AutoNormal(scaled_mean), rows, batch_size=3)


def upward_pair():
    class Two(PyroModule):
        def __init__(self):
            super().__init__("model")
            self.net = nn.Linear(2, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                top = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                z = pyro.sample("z1", dist.Normal(self.net(top), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    class Up(Q):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z1 = pyro.sample("z1", dist.Normal(self.net(x), 1.0).to_event(1))
                pyro.sample("z2", dist.Normal(z1, 1.0).to_event(1))

    return Two(), Up()


def test_stock_objectives_are_refused_where_they_are_wrong_and_taken_where_right():
    refused(r"TraceMeanField_ELBO is wrong.*\['z1', 'z2'\].*\['z2', 'z1'\]", *upward_pair(),
            objective=TraceMeanField_ELBO())  # fmt: skip
    renyi = RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    refused(r"ReweightedWakeSleep.*6 rows", Model(), Q(), objective=ReweightedWakeSleep(num_particles=3,
            max_plate_nesting=1, vectorize_particles=True))  # fmt: skip

    def mixed(x):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    refused(r"one importance weight for all 6 rows.*'mu'", mixed, AutoNormal(mixed), objective=renyi)
    refused(r"'mu'.*outside plate 'data'", mixed, AutoNormal(mixed), objective=ImportanceWeighted(2))

    def scaled(x):
        with pyro.plate("data", 12, subsample=torch.arange(6)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    class Scaled(Q):
        def forward(self, x):
            with pyro.plate("data", 12, subsample=torch.arange(6)):
                pyro.sample("z1", dist.Normal(self.net(x), 1.0).to_event(1))

    refused(r"scale of site\(s\).*'x'.*inside its exponent", scaled, Scaled(), objective=renyi)
    for objective in (renyi, Trace_ELBO(), TraceMeanField_ELBO()):
        record = fit(Model(), Q(), X, steps=2, objective=objective)
        assert len(record.losses) == 2 and record.objective == type(objective).__name__


def test_stock_losses_are_per_datum_like_ours():
    def run(objective, **kwargs):
        pyro.set_rng_seed(1)
        model, guide = Model(), Q()
        return fit(model, guide, X, objective=objective, steps=4, optimizer=0.01, **kwargs).losses

    assert run(Trace_ELBO(max_plate_nesting=1)) == pytest.approx(run(ELBO()), rel=1e-5)
    assert run(Trace_ELBO(max_plate_nesting=1), batch_size=4) == pytest.approx(run(ELBO(), batch_size=4), rel=1e-5)


def test_discrete_sites():
    class Bits(PyroModule):
        def __init__(self):
            super().__init__("model")
            self.net = nn.Linear(1, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                bit = pyro.sample("bit", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(self.net(bit.unsqueeze(-1)), 1.0).to_event(1), obs=x)

    class Guess(Q):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("bit", dist.Bernoulli(logits=self.net(x)[..., 0]))

    refused("'bit'.*TraceEnum_ELBO", Bits(), lambda x: None)
    refused("'bit'.*no reparameterised sampler", Bits(), Guess())
    record = fit(Bits(), lambda x: None, X, steps=2, objective=TraceEnum_ELBO(max_plate_nesting=1))
    assert len(record.losses) == 2


def test_a_first_loss_that_is_not_finite_names_its_site():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                x_dist = dist.Normal(self.net(z), 1.0).to_event(1)
                pyro.factor("limit", x_dist.log_prob(x) / 0.0)

    refused("model site 'limit'", Broken(), Q())


def test_no_gradient_is_left_behind_by_the_check():
    model, guide = Model(), Q()
    for p in (*model.parameters(), *guide.parameters()):
        p.grad = torch.ones_like(p)
    with isolated(model, guide):
        preflight(model, guide, ELBO(), (X,))
    assert all((p.grad == 1).all() for p in (*model.parameters(), *guide.parameters()))


def test_an_encoder_that_is_not_read_is_named():
    model = Model()

    class Forgets(Ladder):
        def posterior(self, name, prior):
            return prior

    net = nn.Linear(2, 2)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return {"z1": dist.Normal(self.net(x), 1.0).to_event(1)}

    refused("guide.encoder.net.weight", model, Forgets(model, Encoder()))


def test_a_continuous_guide_for_a_discrete_site_is_named():
    """The first pass says which site and which kinds, where Pyro would say that a value lies outside a support."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(loc, 1.0))

    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"site 'z1' is a Bernoulli \(discrete\) in the model"),
    ):
        preflight(model, guide, ELBO(), (torch.zeros(3),))


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (dist.Normal(0.0, 1.0), r"site 'z1' is a Categorical \(discrete\) in the model and a Normal \(continuous\)"),
        (dist.Bernoulli(0.5), r"not on the guide's values of site\(s\) \['z1'\]: one_hot is only applicable .* dtypes"),
    ],
    ids=["another kind", "another dtype"],
)
def test_a_model_that_cannot_run_on_the_guides_values_names_the_site(fn, words):
    """The model fails before there is a trace to look at."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(torch.nn.functional.one_hot(z, 3)[..., 0].float(), 1.0), obs=x)

    def guide(x):
        pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z1", fn)

    with pytest.raises(ValueError, match=words):
        preflight(model, guide, ELBO(), (torch.zeros(3),))
