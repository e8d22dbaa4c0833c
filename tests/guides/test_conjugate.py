"""The guide holds the global factors as parameters and takes the local ones from the data at hand."""

from dataclasses import replace

import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrarchy.guides import Conjugate
from pyrarchy.inference import fit_cavi, to_inference_data
from pyrarchy.zoo import PPCA, BayesianPPCA, GaussianMixture, NormalGamma

X = torch.randn(17, 4, generator=torch.Generator().manual_seed(0)).double()


def test_factors_survive_the_way_through_the_parameters():
    model = BayesianPPCA(4, 2)
    q = fit_cavi(model, X).q
    guide = Conjugate(model, model.start(X))
    assert guide.has_local and not guide.q.loadings.equal(q.loadings)
    guide.set_factors(q)
    for name, value in vars(guide.q).items():
        if name.startswith("codes"):
            assert value is None
        else:
            torch.testing.assert_close(value, getattr(q, name), rtol=1e-12, atol=1e-12)
    again = guide.factors_for(X)
    torch.testing.assert_close(again.codes, q.codes, rtol=0, atol=1e-12)
    other = Conjugate(model, model.start(X[:7]))
    other.load_state_dict(guide.state_dict())
    torch.testing.assert_close(other.factors_for(X).codes, q.codes, rtol=0, atol=1e-12)


def test_numbers_of_the_factors_are_unconstrained_parameters():
    model = GaussianMixture(4, 3)
    guide = Conjugate(model, model.start(X))
    sizes = {name: tuple(p.shape) for name, p in guide.named_parameters()}
    assert sizes == {
        "factors.concentration_unconstrained": (3,),
        "factors.loc_unconstrained": (3, 4),
        "factors.strength_unconstrained": (3, 1),
        "factors.shape_unconstrained": (3, 1),
        "factors.rate_unconstrained": (3, 4),
    }


@pytest.mark.stochastic
def test_draws_for_arviz_come_from_the_factors():
    model = GaussianMixture(4, 3, concentration=2.0)
    q = fit_cavi(model, X).q
    draws = to_inference_data(model, Conjugate(model, q), (X,), num_samples=2000)["posterior"]
    assert dict(draws["mean"].sizes) == {"chain": 1, "draw": 2000, "component": 3, "mean_dim_0": 4}
    assert dict(draws["z1"].sizes) == {"chain": 1, "draw": 2000, "data": 17}
    error = draws["mean"][0].std("draw").values / 2000**0.5
    assert (abs(draws["mean"][0].mean("draw").values - q.loc.numpy()) < 4.5 * error).all()
    shares = torch.tensor([(draws["z1"][0] == k).mean("draw").values.tolist() for k in range(3)]).T
    error = (q.assignments * (1 - q.assignments) / 2000).sqrt()
    assert ((shares - q.assignments).abs() < 4.5 * error + 1e-3).all()


def test_the_stock_objective_reaches_every_parameter():
    """Pyro's Trace_ELBO computes no gradient at all where no parameter is in the trace."""
    model = BayesianPPCA(4, 2)
    guide = Conjugate(model, model.start(X))
    Trace_ELBO().loss_and_grads(model, guide, X)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in guide.parameters())


def test_misuse_is_named():
    with pytest.raises(ValueError, match="PPCA has no factor"):
        Conjugate(PPCA(4, 2), BayesianPPCA(4, 2).start(X))
    model = NormalGamma()
    guide = Conjugate(model, model.start(X[:, 0]))
    with pytest.raises(ValueError, match=r"loc: shape \(2,\) given"):
        guide.set_factors(replace(model.start(X[:, 0]), loc=torch.zeros(2)))
