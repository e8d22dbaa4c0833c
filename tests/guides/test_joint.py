import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.nn import PyroModule

from pyrarchy.guides.full_rank import FullRank
from pyrarchy.guides.joint import Joint
from pyrarchy.guides.joint_iaf import JointIAF
from pyrarchy.inference import ELBO, AnalyticELBO, ImportanceWeighted, check_pair, evaluate, fit
from pyrarchy.inference.terms import make_terms, trace_pair

GUIDES = [FullRank, JointIAF]


class LogScale(PyroModule):
    """A conjugate Gaussian under constraints: u in R^4 is N(0, I), y ~ N(A u, 1/2).

    Site ``rate`` is e^{u_1}; ``share``, in plate ``part`` of 2, the logistic of u_2, u_3; ``shift`` is u_4.
    """

    A = torch.tensor([[1.0, 0.5, -0.3, 0.2], [0.0, 1.0, 0.8, -1.0], [0.7, 0.0, 1.0, 0.4],
                      [0.3, -0.6, 0.1, 1.0], [1.2, 0.1, 0.0, 0.9]])  # fmt: skip

    def __init__(self):
        super().__init__("model")

    def forward(self, y):
        logistic = [dist.transforms.SigmoidTransform()]
        rate = pyro.sample("rate", dist.LogNormal(y.new_zeros(()), 1.0))
        with pyro.plate("part", 2, dim=-1):
            share = pyro.sample("share", dist.TransformedDistribution(dist.Normal(y.new_zeros(()), 1.0), logistic))
        shift = pyro.sample("shift", dist.Normal(y.new_zeros(()), 1.0))
        one = rate.log().reshape((*rate.shape[:1], 1)) if rate.dim() else rate.log().unsqueeze(-1)
        last = shift.reshape((*shift.shape[:1], 1)) if shift.dim() else shift.unsqueeze(-1)
        u = torch.cat([one, share.logit(), last], -1)
        mean = u @ self.A.to(y).T
        if rate.dim():
            mean = mean.unsqueeze(-2)
        pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)

    def exact(self, y):
        """Posterior mean and covariance of u, and log p(y), by linear algebra."""
        a = self.A.to(y)
        covariance = torch.linalg.inv(torch.eye(4).to(y) + a.T @ a / 0.25)
        marginal = dist.MultivariateNormal(torch.zeros(5).to(y), a @ a.T + 0.25 * torch.eye(5).to(y))
        return covariance @ a.T @ y / 0.25, covariance, marginal.log_prob(y)


Y = torch.tensor([0.9, -0.4, 1.3, 0.2, 0.6], dtype=torch.float64)


def exact_full_rank(model, y):
    guide = FullRank(model, y)
    mean, covariance, log_z = model.exact(y)
    tril = torch.linalg.cholesky(covariance)
    scale = tril.diagonal()
    row, column = torch.tril_indices(4, 4, -1)
    with torch.no_grad():
        guide.loc.copy_(mean)
        guide.raw_scale.copy_((scale - 1e-6).expm1().log())
        guide.coupling.copy_((tril / scale.unsqueeze(-1))[row, column])
    return guide, log_z


@pytest.mark.parametrize("num_particles", [1, 6])
def test_the_exact_joint_gaussian_gives_log_p_for_every_particle(num_particles):
    # Wrong by the Jacobian of exp and the logistic, if log_density were dropped or had the other sign.
    model = LogScale()
    guide, log_z = exact_full_rank(model, Y)
    terms = make_terms(*trace_pair(model, guide, (Y,), num_particles=num_particles), num_particles=num_particles)
    torch.testing.assert_close(terms.log_w, log_z.expand(num_particles, 1), atol=1e-9, rtol=0)
    assert set(terms.log_q) == {"joint", "rate", "share", "shift"}


def test_log_q_is_the_change_of_variables_by_hand():
    guide, _ = exact_full_rank(LogScale(), Y)
    terms = make_terms(*trace_pair(guide.model, guide, (Y,), num_particles=3), num_particles=3)
    rate, share = terms.values["rate"], terms.values["share"]
    assert rate.shape == (3, 1) and share.shape == (3, 2)
    torch.testing.assert_close(terms.log_q["rate"], -rate.log())  # |du/dz| = 1/z
    torch.testing.assert_close(terms.log_q["share"], -(share * (1 - share)).log().sum(-1, keepdim=True))
    torch.testing.assert_close(terms.log_q["shift"], torch.zeros_like(rate))
    u = torch.cat([rate.log(), share.logit(), terms.values["shift"]], -1)
    mean, covariance, _ = guide.model.exact(Y)
    expected = dist.MultivariateNormal(mean, covariance).log_prob(u).unsqueeze(-1)
    torch.testing.assert_close(terms.log_q["joint"], expected)


@pytest.mark.stochastic
@pytest.mark.parametrize("make", GUIDES)
def test_any_joint_guide_is_a_proposal_for_log_p(make):
    # E[w] = p(y) whatever q is, provided that log q is the density of what is drawn.
    model = LogScale()
    guide = make(model, Y, init_scale=0.9)  # narrower, and the weights have no variance: the widest direction is 0.97
    mean, _, log_z = model.exact(Y)
    with torch.no_grad():
        guide.loc.copy_(mean)
        for parameter in guide.parameters():
            if parameter is not guide.loc:
                parameter.add_(0.05 * torch.randn_like(parameter))
    n = 40_000
    terms = make_terms(*trace_pair(model, guide, (Y,), num_particles=n), num_particles=n)
    ratio = (terms.log_w - log_z).exp()
    error = (ratio.std() / n**0.5).item()
    assert error < 0.05
    assert abs(ratio.mean().item() - 1) < 4 * error


def test_the_fit_of_full_rank_reaches_log_p():
    model = LogScale()
    guide = FullRank(model, Y)
    steps = 600
    fit(model, guide, Y, objective=ELBO(num_particles=16), optimizer=0.05, steps=steps,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))  # fmt: skip
    log_z = model.exact(Y)[2].item()
    graded = evaluate(model, guide, Y, num_samples=2_000)
    assert graded.mean_elbo == pytest.approx(log_z, abs=0.01) and graded.rates == {}
    assert graded.mean_log_p == pytest.approx(log_z, abs=0.003)
    torch.testing.assert_close(guide.loc.data, model.exact(Y)[0], atol=0.03, rtol=0)


@pytest.mark.parametrize("make", GUIDES)
def test_every_tool_takes_a_joint_guide(make):
    model = LogScale()
    before = torch.get_rng_state()
    guide = FullRank(model, Y)
    assert torch.equal(before, torch.get_rng_state()) and not pyro.get_param_store().keys()
    guide = make(model, Y)
    assert {p.dtype for p in guide.parameters()} == {torch.float64}
    check_pair(model, guide, Y)
    check_pair(model, guide, Y, objective=ImportanceWeighted(5))
    ELBO(num_particles=4).loss_and_grads(model, guide, Y)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in guide.parameters())
    with pytest.raises(ValueError, match="joint"):
        AnalyticELBO().loss(model, guide, Y)
    copied_model, copied = copy.deepcopy((model, guide))
    assert copied.model is copied_model and ELBO().loss(copied_model, copied, Y)
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(num_particles=3, vectorize_particles=True,
                                                              max_plate_nesting=1)).step(Y)  # fmt: skip
    draws = Predictive(model, guide=guide, num_samples=4, parallel=True)(Y)
    assert draws["share"].shape == (4, 2) and draws["rate"].shape == (4, 1)
    other = make(model, Y + 1)
    other.load_state_dict(guide.state_dict())
    torch.testing.assert_close(other.distribution().base_dist.mean if make is JointIAF else other.loc,
                               guide.distribution().base_dist.mean if make is JointIAF else guide.loc)  # fmt: skip


def test_the_order_of_a_flow_is_reversed_between_its_steps():
    """One step lets an entry depend on those before it alone; the second, in reverse, on every other."""
    torch.manual_seed(1)
    for steps in (1, 2):
        guide = JointIAF(LogScale().double(), Y, flow_steps=steps)
        with torch.no_grad():
            for parameter in guide.flow.parameters():
                parameter.copy_(0.5 * torch.randn_like(parameter))
        transforms = guide.distribution().transforms
        slopes = torch.autograd.functional.jacobian(
            lambda v, chain=transforms: dist.transforms.ComposeTransform(chain)(v), torch.randn(4, dtype=torch.float64)
        )
        assert (slopes.tril(-1).abs() > 1e-8).sum() == 6 and (slopes.triu(1).abs() > 1e-8).any() == (steps == 2)


@pytest.mark.parametrize("make", GUIDES)
def test_a_scale_never_falls_below_its_floor(make):
    guide = make(LogScale().double(), Y)
    with torch.no_grad():
        guide.raw_scale.fill_(-800.0)
    q = guide.distribution()
    assert torch.isfinite(q.log_prob(q.rsample()))
    spread = torch.stack([q.sample() for _ in range(50)]).std(0)
    assert (spread > 5e-7).all() and (spread < 3e-6).all()  # about 1e-6


@pytest.mark.parametrize("make", GUIDES)
def test_the_first_scale_is_the_one_asked_for(make):
    """To all digits, floor included: seen where it is not much above the floor."""
    q = make(LogScale().double(), Y, init_scale=1e-5).distribution()
    scale = q.scale_tril.diagonal() if make is FullRank else q.transforms[-1].scale
    torch.testing.assert_close(scale, torch.full((4,), 1e-5, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("make", GUIDES)
def test_a_vector_site_keeps_its_shape(make, num_particles):
    """An event of three entries, and a matrix of two by three, beside a number."""

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        table = pyro.sample("table", dist.LogNormal(torch.zeros(2, 3), 1.0).to_event(2))
        mean = mu + weight.sum(-1) + table.sum((-2, -1))
        pyro.sample("y", dist.Normal(mean.unsqueeze(-1), 1.0).to_event(1), obs=y)

    y = torch.zeros(1)
    guide = make(model, y)
    terms = ELBO(num_particles, plates=0).terms(model, guide, y)
    lead = (num_particles,) if num_particles > 1 else ()
    shapes = {name: tuple(value.shape) for name, value in terms.values.items()}
    assert shapes == {"mu": lead, "weight": (*lead, 3), "table": (*lead, 2, 3)}
    u = torch.cat([terms.values["mu"][..., None], terms.values["weight"], terms.values["table"].log().flatten(-2)], -1)
    with torch.no_grad():
        by_hand = guide.distribution().log_prob(u) - terms.values["table"].log().sum((-2, -1))
    log_q = sum(terms.log_q.values()).reshape(by_hand.shape)
    torch.testing.assert_close(log_q.detach(), by_hand, rtol=1e-3, atol=1e-3)


def test_a_density_of_a_foreign_vector_agrees_with_the_one_of_the_draw():
    guide = JointIAF(LogScale(), Y)
    with torch.no_grad():
        for parameter in guide.flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        q = guide.distribution()
        u = q.sample((3,))
        torch.testing.assert_close(q.log_prob(u), guide.distribution().log_prob(u.clone()))
    jacobian = torch.autograd.functional.jacobian(lambda v: _push(guide, v), torch.zeros(4, dtype=torch.float64))
    base = dist.Normal(torch.zeros(4).double(), 1.0).to_event(1).log_prob(torch.zeros(4).double())
    by_hand = base - jacobian.det().abs().log()
    pushed = _push(guide, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(guide.distribution().log_prob(pushed), by_hand)


def _push(guide, v):
    for transform in guide.distribution().transforms:
        v = transform(v)
    return v


def local(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z1", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("make", GUIDES)
def test_other_data_are_refused_when_a_latent_is_local(make):
    x = torch.arange(6.0)
    guide = make(local, x)
    assert guide(x)["z1"].shape == (6,)
    assert math.isfinite(Trace_ELBO().loss(local, guide, x))
    for other in (x + 1, x.flip(0), x[:4]):
        with pytest.raises(ValueError, match=r"'z1'.*others"):
            guide(other)
    loaded = make(local, x + 1)
    loaded.load_state_dict(guide.state_dict())
    loaded(x)
    with pytest.raises(ValueError, match="'z1'"):
        loaded(x + 1)


def test_misuse_is_named():
    def subsampled(x):
        with pyro.plate("data", len(x), subsample_size=2, dim=-1):
            pyro.sample("z1", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"'z1'.*subsampled plate 'data'"):
        FullRank(subsampled, torch.zeros(5))
    with pytest.raises(ValueError, match="init_scale"):
        FullRank(LogScale(), Y, init_scale=0.0)
    with pytest.raises(ValueError, match="at least one step"):
        JointIAF(LogScale(), Y, flow_steps=0)
    with pytest.raises(ValueError, match="hidden"):
        JointIAF(LogScale(), Y, hidden=3)
    with pytest.raises(TypeError, match="distribution"):
        Joint(LogScale(), Y)(Y)
