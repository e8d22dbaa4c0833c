"""The Kalman answers against the joint Gaussian written out, and the published fit of the Nile."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import MultivariateNormal

import pyrarchy
from pyrarchy.guides import Exact, MeanField
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair
from pyrarchy.zoo import LinearStateSpace, LocalLevel
from pyrarchy.zoo.kalman import backward_messages

T, K, B = 5, 2, 3


def chain(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LinearStateSpace(T, K, x_mean=0.7, x_scale=1.3).double()


def joint(model, steps=T):
    """Mean and covariance of (z_1 .. z_T, x_1 .. x_T) by writing every variable as a sum of independent noises."""
    s = model.system().double()
    k = len(s.loading)
    rows = torch.zeros(steps, k, k * steps + steps, dtype=torch.float64)
    mean = torch.zeros(steps, k, dtype=torch.float64)
    for t in range(steps):
        if t:
            rows[t] = s.transition @ rows[t - 1]
            mean[t] = s.transition @ mean[t - 1]
        else:
            mean[t] = s.initial_loc
        rows[t, :, k * t : k * (t + 1)] += s.noise_tril if t else s.initial_tril
    x_rows = (rows * s.loading[:, None]).sum(1)
    x_rows[:, k * steps :] += s.scale * torch.eye(steps, dtype=torch.float64)
    rows = torch.cat([rows.reshape(k * steps, -1), x_rows])
    return torch.cat([mean.reshape(-1), s.offset + mean @ s.loading]).detach(), (rows @ rows.mT).detach()


def conditional(mean, covariance, x):
    """Posterior mean (B, KT) and covariance of the latents given x, from the joint."""
    n = len(mean) - x.shape[1]
    gain = covariance[:n, n:] @ covariance[n:, n:].inverse()
    return mean[:n] + (x - mean[n:]) @ gain.mT, covariance[:n, :n] - gain @ covariance[n:, :n]


def data(seed=1):
    return torch.randn(B, T, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5


def test_log_marginal_is_that_of_the_joint_gaussian():
    model, x = chain(), data()
    mean, covariance = joint(model)
    n = T * K
    expected = MultivariateNormal(mean[n:], covariance[n:, n:]).log_prob(x)
    torch.testing.assert_close(model.log_marginal(x), expected, rtol=0, atol=1e-10)


def test_smoother_and_filter_are_the_conditionals_of_the_joint():
    model, x = chain(), data()
    mean, covariance = joint(model)
    z_mean, z_covariance = conditional(mean, covariance, x)
    found, spread = model.smooth(x)
    torch.testing.assert_close(found, z_mean.reshape(B, T, K), rtol=0, atol=1e-10)
    blocks = torch.stack([z_covariance[K * t : K * t + K, K * t : K * t + K] for t in range(T)])
    torch.testing.assert_close(spread, blocks, rtol=0, atol=1e-10)
    for t in (1, 3):
        short = chain()
        z_mean, z_covariance = conditional(*joint(short, t), x[:, :t])
        filtered = model.filter(x)
        torch.testing.assert_close(filtered.mean[:, t - 1], z_mean[:, -K:], rtol=0, atol=1e-10)
        torch.testing.assert_close(filtered.covariance[t - 1], z_covariance[-K:, -K:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [1, 4])
def test_the_exact_guide_has_equal_weights(k):
    model, x = chain(), data()
    terms = ImportanceWeighted(k).terms(model, Exact(model), x)
    torch.testing.assert_close(terms.log_w, model.log_marginal(x).expand(k, B), rtol=0, atol=1e-9)


@pytest.mark.stochastic
def test_draws_of_the_exact_guide_have_the_smoothers_moments():
    model, x, num = chain(), data(), 20_000
    values = ELBO(num).terms(model, Exact(model), x).values
    mean, covariance = model.smooth(x)
    z = torch.stack([values[f"z{t}"] for t in range(1, T + 1)], -2)  # (num, B, T, K)
    error = (covariance.diagonal(dim1=-2, dim2=-1) / num).sqrt()
    assert ((z.mean(0) - mean).abs() < 4.5 * error).all()
    ratio = z.var(0) / covariance.diagonal(dim1=-2, dim2=-1)
    assert ((ratio - 1).abs() < 4.5 * (2 / num) ** 0.5).all()


def test_messages_are_the_likelihood_of_what_is_to_come():
    """log p(x_t..T | z_t) differs from its quadratic form by a constant in z_t, at every t."""
    model, x = chain(), data()
    s = model.system().double()
    precisions, potentials = backward_messages(s, x)
    z = torch.randn(7, K, dtype=torch.float64)
    for t in range(T):
        rest, eye = T - t, torch.eye(K, dtype=torch.float64)
        start = type(s)(s.initial_loc, 1e-6 * eye, *s[2:])  # all but certain of z_t
        values = []
        for point in z:
            tail = LinearStateSpace(rest, K).double()
            tail.system = lambda start=start, point=point: start._replace(initial_loc=point)
            values.append(tail.log_marginal(x[:, t:]))
        exact = torch.stack(values)
        form = -0.5 * torch.einsum("ni,ij,nj->n", z, precisions[t], z)[:, None] + z @ potentials[:, t].mT
        gap = (exact - form) - (exact - form)[0]
        assert gap.abs().max() < 1e-7


def test_the_model_scores_a_path_as_the_joint_does():
    model, x = chain(), data()
    z = torch.randn(B, T, K, dtype=torch.float64)
    given = {f"z{t + 1}": z[:, t] for t in range(T)}
    trace = poutine.trace(poutine.condition(model, given)).get_trace(x)
    mean, covariance = joint(model)
    expected = MultivariateNormal(mean, covariance).log_prob(torch.cat([z.reshape(B, -1), x], -1)).sum()
    assert trace.log_prob_sum().item() == pytest.approx(expected.item(), abs=1e-8)


def nile():
    x = torch.from_numpy(pyrarchy.load_data("nile").train).double()
    return LocalLevel(x.shape[1], x.std().item()).double(), x


def maximise(model, x):
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = -model.log_marginal(x).mean()
        value.backward()
        return value

    optimiser.step(loss)
    return -loss().item()


def test_maximum_likelihood_of_the_nile_is_the_published_one():
    """Durbin and Koopman (2012), section 2.10: 15099 and 1469.1, in the diffuse limit of the first level's prior."""
    model, x = nile()
    with torch.no_grad():  # the limit: at s_1^2 = 10^10 what is left of the prior moves the digits below no more
        model.initial_scale.fill_(1e5)
    found = maximise(model, x)
    noise, level = model.noise_scale.item() ** 2, model.level_scale.item() ** 2
    assert noise == pytest.approx(15098.5, abs=1.0) and level == pytest.approx(1469.1, abs=0.5)
    # the diffuse log-likelihood leaves out the density of x_1, which is that of the wide prior alone
    assert found - model.filter(x).log_p[0, 0].item() == pytest.approx(-632.5456, abs=2e-3)


def precision_of_levels(model, steps):
    """Posterior precision of the levels, from the random walk's differences."""
    level, noise, first = (v.detach() for v in (model.level_scale, model.noise_scale, model.initial_scale))
    step = torch.eye(steps, dtype=torch.float64) - torch.diag(torch.ones(steps - 1, dtype=torch.float64), -1)
    weights = torch.full((steps,), level.item() ** -2, dtype=torch.float64)
    weights[0] = first**-2
    return step.mT @ torch.diag(weights) @ step + torch.eye(steps, dtype=torch.float64) / noise**2


@pytest.mark.stochastic
def test_gap_of_the_best_mean_field_guide_on_the_nile():
    """KL(q || p) at its optimum is (sum log diag - log det) / 2 of the posterior's precision: the guide shows it."""
    model, x = nile()
    maximise(model, x)
    precision = precision_of_levels(model, x.shape[1])
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    assert gap == pytest.approx(21.788, abs=1e-3)
    guide = MeanField(model, x)
    mean, covariance = model.smooth(x)
    torch.testing.assert_close(precision.inverse().diagonal(), covariance.detach()[:, 0, 0], rtol=1e-8, atol=0)
    with torch.no_grad():
        for t in range(x.shape[1]):
            scale = precision[t, t] ** -0.5
            guide.locs[f"z{t + 1}"].copy_(mean[:, t])
            guide.raw_scales[f"z{t + 1}"].fill_(scale + torch.log(-torch.expm1(-scale)))
        k = 2000
        terms = ELBO(k).terms(model, guide, x)
        found = (model.log_marginal(x) - terms.log_w.mean(0)).item()
        error = terms.log_w.std(0).item() / k**0.5
        assert abs(found - gap) < 4.5 * error and error < 0.2
        exact = ImportanceWeighted(2).terms(model, Exact(model), x).log_w
    torch.testing.assert_close(exact, model.log_marginal(x).detach().expand(2, 1), rtol=0, atol=1e-8)


def test_every_parameter_gets_a_gradient_and_particles_broadcast():
    for model, x in ((chain(), data()), (LocalLevel(4).double(), torch.randn(B, 4, dtype=torch.float64))):
        found = check_pair(model, Exact(model), x)
        assert found.local and len(found.latents) == x.shape[1]
        pyro.clear_param_store()
        ELBO(2).differentiable_loss(model, Exact(model), x).backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_single_precision_keeps_the_digits_under_a_wide_prior():
    model, x = nile()
    wide = model.log_marginal(x).item()
    assert model.float().log_marginal(x.float()).item() == pytest.approx(wide, abs=0.02)
    with torch.no_grad():
        log_w = ImportanceWeighted(3).terms(model, Exact(model), x.float()).log_w
    assert (log_w - wide).abs().max() < 0.1


def test_bad_sizes_are_refused():
    for wrong in ({"x_dim": 0}, {"x_dim": 3, "z_dim": 0}, {"x_dim": 3, "x_scale": -1.0}):
        with pytest.raises(ValueError, match="x_dim, z_dim, x_scale"):
            LinearStateSpace(**wrong)
    with pytest.raises(ValueError, match="initial_scale"):
        LocalLevel(3, initial_scale=0.0)
    assert math.isfinite(LinearStateSpace(1, 1).log_marginal(torch.zeros(2, 1)).sum().item())
