"""Sparse linear models: densities against closed forms, parts, and atoms that are found again."""

import math
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats

from pyrarchy.guides import Amortized, Exact, LaplaceEncoder
from pyrarchy.inference import evaluate
from pyrarchy.zoo import (
    PPCA,
    FixedScale,
    FreeDictionary,
    GaussianLinear,
    LearnedScale,
    SparseLinear,
    UnitNormDictionary,
)

FAMILIES = {
    "laplace": (dist.Laplace, stats.laplace),
    "cauchy": (dist.Cauchy, stats.cauchy),
    "student": (partial(dist.StudentT, 3.0), partial(stats.t, 3.0)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_joint_density(name):
    """log p(z) + log p(x | z), with atoms of length one and codes of scale b."""
    family, exact = FAMILIES[name]
    model = SparseLinear(5, 7, family, UnitNormDictionary(5, 7), FixedScale(0.3), mean=np.arange(5.0)).double()
    with torch.no_grad():
        model.dictionary.raw_code_scale.fill_(2.0)
    x, z = torch.randn(4, 5).double(), torch.randn(4, 7).double()
    trace = poutine.trace(poutine.condition(model, {"z1": z})).get_trace(x)
    trace.compute_log_prob()
    atoms = model.dictionary.weight.detach().numpy()
    atoms = atoms / np.sqrt((atoms**2).sum(0))
    b = math.log1p(math.exp(2.0)) + 1e-6
    prior = exact(scale=b).logpdf(z.numpy()).sum(1)
    noise = stats.norm(np.arange(5.0) + z.numpy() @ atoms.T, 0.3).logpdf(x.numpy()).sum(1)
    np.testing.assert_allclose(trace.nodes["z1"]["log_prob"].detach(), prior, rtol=1e-6)
    np.testing.assert_allclose(trace.nodes["x"]["log_prob"].detach(), noise, rtol=1e-6)


@pytest.mark.stochastic
def test_one_laplace_code_in_closed_form():
    """Importance samples reach the normal-Laplace density along the atom, Gaussian across it."""
    with torch.random.fork_rng():  # the problem, whatever the seed of the draws
        torch.manual_seed(0)
        model = SparseLinear(3, 1, noise=FixedScale(0.8)).double()
        x = torch.randn(6, 3).double()
        guide = Amortized(model, LaplaceEncoder(3, (1,), ((),)).double())
    w = model.atoms.detach().squeeze()
    tau = 0.8 / w.norm()
    t = x @ w / (w @ w)
    rising = torch.erfc((tau**2 - t) / (tau * math.sqrt(2))) * torch.exp(-t)
    falling = torch.erfc((tau**2 + t) / (tau * math.sqrt(2))) * torch.exp(t)
    along = tau**2 / 2 + torch.log((rising + falling) / 4) - w.norm().log()
    across = -0.5 * (x - t[:, None] * w).square().sum(-1) / 0.64 - math.log(2 * math.pi * 0.64)
    with torch.no_grad():
        guide.encoder.heads[0].raw_scale.bias.fill_(2.0)  # wide: weights without heavy tails
    num = 20_000
    found = evaluate(model, guide, x, num_samples=num)
    error = np.sqrt(1 / found.ess - 1 / num)  # of a log mean of weights
    assert error.max() < 0.05
    assert (np.abs(found.log_p - (along + across).numpy()) < 4.5 * error).all()


@pytest.mark.parametrize(("dim", "part"), [(2, FreeDictionary), (7, FreeDictionary), (7, UnitNormDictionary)])
def test_gaussian_control_is_exact(dim, part):
    """Marginal and posterior are those of the dense joint Gaussian, overcomplete or not; every weight is p(x)."""
    model = GaussianLinear(5, dim, part(5, dim), mean=np.arange(5.0)).double()
    x = torch.randn(4, 5).double()
    atoms, b = (v.detach() for v in model.dictionary())
    if part is UnitNormDictionary:
        with torch.no_grad():
            model.dictionary.raw_code_scale.fill_(1.7)
        b = model.dictionary()[1].detach()
    covariance = b**2 * atoms @ atoms.mT + model.scale.detach() ** 2 * torch.eye(5).double()
    dense = dist.MultivariateNormal(torch.arange(5.0).double(), covariance).log_prob(x)
    torch.testing.assert_close(model.log_marginal(x).detach(), dense)
    gain = b**2 * atoms.mT @ covariance.inverse()
    q = model.posterior(x)
    torch.testing.assert_close(q.mean.detach(), (x - torch.arange(5.0)) @ gain.mT)
    torch.testing.assert_close(q.covariance_matrix[0].detach(), b**2 * (torch.eye(dim).double() - gain @ atoms))
    np.testing.assert_allclose(evaluate(model, Exact(model), x, num_samples=3).elbo, dense, rtol=1e-9)


def test_gaussian_control_is_ppca():
    """The same parameters give the same numbers."""
    model, ppca, x = GaussianLinear(6, 3).double(), PPCA(6, 3).double(), torch.randn(4, 6).double()
    ppca.set_parameters(model.mean.detach(), model.atoms.detach(), model.scale.item())
    torch.testing.assert_close(model.log_marginal(x), ppca.log_marginal(x))
    torch.testing.assert_close(model.posterior(x).mean, ppca.posterior(x).mean)


def test_every_parameter_gets_a_gradient():
    for dictionary in (FreeDictionary(5, 7), UnitNormDictionary(5, 7)):
        model = SparseLinear(5, 7, dist.Cauchy, dictionary)
        guide = Amortized(model, LaplaceEncoder(5, (7,), ((4,),)))
        torch.manual_seed(0)
        trace = poutine.trace(poutine.condition(model, {"z1": torch.randn(6, 7)})).get_trace(torch.randn(6, 5))
        (trace.log_prob_sum() + guide.encoder(torch.randn(6, 5))["z1"].rsample().square().sum()).backward()
        assert all(p.grad.abs().max() > 0 for p in [*model.parameters(), *guide.parameters()])


def test_parts_refuse_what_they_cannot_be():
    with pytest.raises(ValueError, match=r"floor and start .* 0.5 and 0.1"):
        LearnedScale(0.1, floor=0.5)
    with pytest.raises(ValueError, match="value must be > 0, not 0"):
        FixedScale(0)
    with pytest.raises(ValueError, match=r"dictionary: its atoms have shape \(5, 6\); \(5, 7\) is needed"):
        SparseLinear(5, 7, dictionary=FreeDictionary(5, 6))
    model = SparseLinear(5, 7)
    with pytest.raises(ValueError, match=r"SparseLinear has no posterior"):
        Exact(model)
    assert LearnedScale(0.7, 0.1)().item() == pytest.approx(0.7)
    assert sorted(n for n, _ in SparseLinear(5, 7, noise=FixedScale(1)).named_parameters()) == [
        "dictionary.weight",
        "mean",
    ]
