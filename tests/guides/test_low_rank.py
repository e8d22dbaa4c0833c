"""Low rank is exact at rank n - 1, and at lower rank keeps the gap that an optimisation of the closed form finds."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import FullRank, LowRank
from pyrarchy.inference import ELBO, check_pair, fit

N = 5


class Target(PyroModule):
    """u in R^5 with a Gaussian posterior of known covariance, in one site of two under different transforms."""

    def __init__(self):
        super().__init__("model")
        generator = torch.Generator().manual_seed(3)
        a = torch.randn(N, N, generator=generator, dtype=torch.float64)
        self.covariance = a @ a.T / N + 0.1 * torch.eye(N, dtype=torch.float64)
        self.mean = torch.randn(N, generator=generator, dtype=torch.float64)

    def forward(self):
        """A prior N(0, I) that a factor replaces by the target; log Z = 0."""
        base = dist.Normal(torch.zeros(N, dtype=torch.float64), 1.0).to_event(1)
        u = pyro.sample("u", base)
        target = dist.MultivariateNormal(self.mean, self.covariance)
        pyro.factor("tilt", target.log_prob(u) - base.log_prob(u))


def set_exactly(guide, model):
    """Covariance as lambda_min I plus the rest, which has rank n - 1."""
    values, vectors = torch.linalg.eigh(model.covariance)
    with torch.no_grad():
        guide.loc.copy_(model.mean)
        guide.raw_scale.fill_(((values[0].sqrt() - 1e-6).expm1()).log())
        guide.coupling.copy_((vectors * (values / values[0] - 1).clamp(min=0).sqrt())[:, 1:])


@pytest.mark.parametrize("k", [1, 7])
def test_rank_below_the_dimension_by_one_is_the_full_target(k):
    model = Target()
    guide = LowRank(model, rank=N - 1)
    set_exactly(guide, model)
    torch.testing.assert_close(guide.distribution().covariance_matrix, model.covariance)
    terms = ELBO(k).terms(model, guide)
    torch.testing.assert_close(terms.log_w, torch.zeros(k, 1, dtype=torch.float64), rtol=0, atol=1e-9)


def best(covariance, rank):
    """The least KL(N(0, D (I + V V') D) || N(0, covariance)) over D and V, by LBFGS: (KL, log D, V)."""
    precision, log_det = torch.linalg.inv(covariance), torch.logdet(covariance)
    found = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        raw = torch.zeros(N, dtype=torch.float64, requires_grad=True)
        v = torch.randn(N, rank, generator=generator, dtype=torch.float64).mul_(0.3).requires_grad_()
        optimiser = torch.optim.LBFGS([raw, v], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def kl(raw=raw, v=v, optimiser=optimiser):
            optimiser.zero_grad()
            factor = raw.exp().unsqueeze(-1) * v
            q = raw.exp().square().diag() + factor @ factor.T
            value = 0.5 * ((precision * q).sum() - N + log_det - torch.logdet(q))
            value.backward()
            return value

        optimiser.step(kl)
        found.append((kl().item(), raw.detach(), v.detach()))
    return min(found, key=lambda entry: entry[0])


def test_the_bound_keeps_the_best_gap_of_its_rank():
    model, gaps = Target(), []
    for rank in (1, 2, 3):
        gap, log_scale, v = best(model.covariance, rank)
        guide = LowRank(model, rank=rank)
        with torch.no_grad():
            guide.loc.copy_(model.mean)
            guide.raw_scale.copy_((log_scale.exp() - 1e-6).expm1().log())
            guide.coupling.copy_(v)
            log_w = ELBO(20_000).terms(model, guide).log_w
        error = log_w.std().item() / 20_000**0.5
        assert abs(log_w.mean().item() + gap) < 4.5 * error < 0.05
        gaps.append(gap)
    assert gaps[0] > 0.2 > gaps[1] > 0.02 > gaps[2]


def test_the_fit_goes_there():
    model, steps = Target(), 150
    guide = LowRank(model, rank=N - 1)
    fit(model, guide, None, objective=ELBO(8, estimator="stl"), optimizer=0.1, steps=steps,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))  # fmt: skip
    q = dist.MultivariateNormal(guide.loc.detach(), guide.distribution().covariance_matrix.detach())
    kl = torch.distributions.kl_divergence(q, dist.MultivariateNormal(model.mean, model.covariance))
    assert kl.item() < 0.05


def test_contract_and_refusals():
    model = Target()
    guide = LowRank(model, rank=2)
    assert {p.dtype for p in guide.parameters()} == {torch.float64}
    check_pair(model, guide)
    ELBO(4).loss_and_grads(model, guide)
    assert all(p.grad is not None and p.grad.any() for p in guide.parameters())
    with pytest.raises(ValueError, match="between 1 and 4"):
        LowRank(model, rank=N)
    with pytest.raises(ValueError, match="between 1 and 4"):
        LowRank(model, rank=0)
    with pytest.raises(ValueError, match="init_scale"):
        LowRank(model, init_scale=0.0)

    def discrete():
        pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="site 'k'"):
        LowRank(discrete)


def test_full_rank_factor_is_as_written():
    guide = FullRank(Target())
    with torch.no_grad():
        guide.coupling.copy_(torch.arange(1.0, 11.0))
    tril = guide.distribution().scale_tril
    unit = tril / tril.diagonal().unsqueeze(-1)
    assert unit[1, 0] == 1 and unit[2, 0] == 2 and unit[2, 1] == 3 and unit[4, 3].item() == pytest.approx(10)
