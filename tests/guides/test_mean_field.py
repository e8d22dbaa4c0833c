import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.nn import PyroModule

from pyrarchy.guides.mean_field import MeanField
from pyrarchy.inference import ELBO, AnalyticELBO, check_pair, evaluate, fit
from pyrarchy.inference.terms import make_terms, trace_pair


class Local(PyroModule):
    """z_b ~ N(0, 1) in R^2, x_b ~ N(z_b, 1/2): the posterior of a row is N(4x/5, 1/5), its factors independent."""

    def __init__(self):
        super().__init__("model")

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z1", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def log_marginal(self, x):
        return dist.Normal(0.0, 1.25**0.5).log_prob(x).sum(-1)


def rows(n=7, seed=3):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def exact(guide, x):
    """Set the parameters to the exact posterior of each row."""
    guide.locs["z1"].data.copy_(0.8 * x)
    guide.raw_scales["z1"].data.fill_(math.log(math.expm1(0.2**0.5 - 1e-6)))


def test_exact_parameters_give_log_p_for_every_particle_and_every_subset_of_rows():
    model, x = Local(), rows()
    guide = MeanField(model, x)
    exact(guide, x)
    for index in ([0, 1, 2, 3, 4, 5, 6], [5, 2, 3], [6, 0, 4, 4]):
        part = x[index]
        terms = make_terms(*trace_pair(model, guide, (part,), num_particles=3), num_particles=3)
        torch.testing.assert_close(terms.log_w, model.log_marginal(part).expand(3, -1), atol=1e-4, rtol=0)
    assert AnalyticELBO().value(model, guide, x).shape == (7,)  # q is a plain Normal where the support is real


def test_the_fit_reaches_the_exact_posterior_and_its_evaluation_log_p():
    model, x = Local(), rows()
    guide = MeanField(model, x)
    fit(model, guide, x, objective=AnalyticELBO(num_particles=64), optimizer=0.05, steps=400,
        schedule=lambda step: 1 - step / 400)  # fmt: skip
    # one gradient has a noise of 4 x .45 / 8 = .22, or .045 in units of the mean (curvature 5); Adam averages tens
    torch.testing.assert_close(guide.locs["z1"].data, 0.8 * x, atol=0.03, rtol=0)
    graded = evaluate(model, guide, x, num_samples=50, rows_per_pass=4)  # chunks of fewer rows than the example
    torch.testing.assert_close(torch.tensor(graded.log_p), model.log_marginal(x).double(), atol=0.01, rtol=0)


def positive(y):
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(3.0), 2.0))
    share = pyro.sample("share", dist.Dirichlet(y.new_tensor([2.0, 3.0, 4.0, 5.0])))
    with pyro.plate("group", 3, dim=-1):
        effect = pyro.sample("effect", dist.LogNormal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(rate * share[..., 0] + effect, 1.0), obs=y)


@pytest.mark.stochastic
def test_log_q_of_a_positive_site_is_the_change_of_variables_by_hand():
    guide = MeanField(positive, torch.zeros(3), init_scale=0.3)
    with torch.no_grad():
        guide.locs["effect"].copy_(torch.tensor([0.3, -0.4, 1.1]))
    terms = make_terms(*trace_pair(positive, guide, (torch.zeros(3),), num_particles=5), num_particles=5)
    z = terms.values["effect"]
    log_z = z.log()
    by_hand = -0.5 * ((log_z - guide.locs["effect"]) / 0.3) ** 2 - math.log(0.3 * (2 * math.pi) ** 0.5) - log_z
    torch.testing.assert_close(terms.log_q["effect"], by_hand.sum(-1, keepdim=True), atol=1e-4, rtol=1e-5)
    # the simplex, whose unconstrained space is smaller: normalised, so importance weights of q against q average one
    assert guide.locs["share"].shape == (3,) and terms.values["share"].shape == (5, 1, 4)
    share = dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0, 5.0]))
    draws = 20_000
    terms = make_terms(*trace_pair(positive, guide, (torch.zeros(3),), num_particles=draws), num_particles=draws)
    guide_log_q = terms.q["share"].log_prob(share_draws := share.sample((draws, 1)))
    ratio = (guide_log_q - share.log_prob(share_draws)).exp()  # E_p[q / p] = 1
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / draws**0.5


def test_a_scale_never_falls_below_its_floor():
    guide = MeanField(Local(), rows())
    with torch.no_grad():
        guide.raw_scales["z1"].fill_(-200.0)
    guide(rows())
    scale = guide.trace.nodes["z1"]["fn"].base_dist.scale
    assert torch.equal(scale, torch.full_like(scale, 1e-6))
    fresh = MeanField(Local().double(), rows().double(), init_scale=1e-5)
    fresh(rows().double())
    scale = fresh.trace.nodes["z1"]["fn"].base_dist.scale
    torch.testing.assert_close(scale, torch.full_like(scale, 1e-5), rtol=1e-6, atol=0)


def test_the_start_is_finite_where_the_prior_has_no_mean():
    def heavy(y):
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        nu = pyro.sample("nu", dist.Cauchy(1.0, 2.0))
        mu = pyro.sample("mu", dist.Normal(40.0, 2.0))
        pyro.sample("y", dist.Normal(mu + nu, tau), obs=y)

    guide = MeanField(heavy, torch.tensor(1.0))
    assert {name: p.item() for name, p in guide.locs.items()} == {"tau": 0.0, "nu": 0.0, "mu": 40.0}
    assert math.isfinite(ELBO().loss(heavy, guide, torch.tensor(1.0)))


def test_other_data_of_the_same_size_are_refused_by_name_also_after_loading():
    model, x = Local(), rows()
    trained = MeanField(model, x)
    with pytest.raises(ValueError, match=r"'z1'.*others"):
        trained(rows(seed=4))
    changed = x.clone()
    changed[2, 1] += 1e-3
    with pytest.raises(ValueError, match="'z1'"):
        trained(changed)
    trained(x)
    x[0] += 1.0  # in place: the remembered tensor is no longer the example
    with pytest.raises(ValueError, match="'z1'"):
        trained(x)
    x[0] -= 1.0
    other = rows(seed=4)
    loaded = MeanField(model, other)
    loaded(other)
    loaded.load_state_dict(trained.state_dict())
    with pytest.raises(ValueError, match="'z1'"):
        loaded(other)  # the very tensor that was the example a moment ago
    loaded(rows())


def test_other_context_of_the_same_rows_is_other_data():
    def model(x, scale, shift=None):
        return Local()(x * scale + shift)

    x, shift = rows(), torch.ones(2)
    guide = MeanField(model, x, 2.0, shift=shift)
    guide(x, 2.0, shift=shift.clone())
    for scale, other in ((3.0, shift), (2.0, shift + 1)):
        with pytest.raises(ValueError, match="'z1'"):
            guide(x, scale, shift=other)


def test_equal_rows_share_parameters_and_precision_does_not_matter():
    model = Local()
    x = torch.cat([rows(4), rows(4)[:1]])
    guide = MeanField(model, x)
    assert guide.data.find((x,), {}).tolist() == [0, 1, 2, 3, 0]
    assert guide.data.find((x.double(),), {}).tolist() == [0, 1, 2, 3, 0]


def test_a_subsampled_plate_trains_the_rows_of_its_indices():
    x = rows(9)

    def model(x):
        with pyro.plate("data", len(x), subsample_size=4, dim=-1) as index:
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x[index])

    guide = MeanField(model, x)
    assert guide.locs["z1"].shape == (9, 2)
    exact(guide, x)
    model_trace, guide_trace = trace_pair(model, guide, (x,))
    terms = make_terms(model_trace, guide_trace)
    observed = model_trace.nodes["x"]["value"]
    torch.testing.assert_close(terms.log_w, Local().log_marginal(observed)[None], atol=1e-4, rtol=0)
    ELBO().loss_and_grads(model, guide, x)
    assert (guide.locs["z1"].grad.abs().sum(-1) > 0).sum() == 4


def test_a_plate_of_another_size_is_refused():
    def model(y):
        with pyro.plate("school", len(y), dim=-1):
            pyro.sample("y", dist.Normal(pyro.sample("theta", dist.Normal(torch.zeros(()), 1.0)), 1.0), obs=y)

    guide = MeanField(model, torch.zeros(4))
    with pytest.raises(ValueError, match=r"'theta'.*'school' of size 3.*size of 4"):
        guide(torch.zeros(3))


def test_construction_leaves_generator_store_and_mode_alone():
    model, x = Local(), rows()
    model.train()
    before = torch.get_rng_state()
    guide = MeanField(model, x)
    assert torch.equal(before, torch.get_rng_state()) and model.training
    assert not pyro.get_param_store().keys()
    assert [n for n, _ in guide.named_parameters()] == ["locs.z1", "raw_scales.z1"]

    class Normalised(Local):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)

        def forward(self, x):
            return super().forward(self.norm(x) + pyro.param("free", torch.zeros(())))

    model = Normalised()
    MeanField(model, x + 5)
    assert model.norm.num_batches_tracked == 0 and model.norm.training  # the run moved no statistics
    assert not pyro.get_param_store().keys()


def test_pair_copies_particles_minibatches_and_pyro_s_own_tools():
    model, x = Local(), rows()
    guide = MeanField(model, x)
    guide(x)
    copied_model, copied = copy.deepcopy((model, guide))
    assert copied.model is copied_model
    copied(x)
    check_pair(model, guide, x)
    fit(model, guide, x, optimizer=0.1, epochs=2, batch_size=3)
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(num_particles=3, vectorize_particles=True)).step(x)
    assert Predictive(model, guide=guide, num_samples=4, parallel=True)(x)["z1"].shape == (4, 7, 2)


def test_misuse_is_named():
    def discrete(y):
        pyro.sample("count", dist.Poisson(2.0))

    with pytest.raises(ValueError, match=r"'count'.*Poisson"):
        MeanField(discrete, torch.zeros(1))
    with pytest.raises(ValueError, match="no latent site"):
        MeanField(lambda y: pyro.sample("y", dist.Normal(0.0, 1.0), obs=y), torch.zeros(()))
    with pytest.raises(ValueError, match="init_scale"):
        MeanField(Local(), rows(), init_scale=0.0)
