"""Auxiliary likelihoods: in the gradient, never in a value, a weight or a density."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import Amortized, BottomUp, Encoder
from pyrarchy.inference import (
    CIWAE,
    ELBO,
    MIWAE,
    PIWAE,
    AnalyticELBO,
    AuxiliaryWeight,
    FreeBits,
    ImportanceWeighted,
    Renyi,
    Temper,
    evaluate,
    fit,
    make_terms,
    run_nuts,
    to_inference_data,
    trace_pair,
)

D, B = 5, 4
X = torch.randint(2, (B, D), generator=torch.Generator().manual_seed(0)).double()


class Stages(PyroModule):
    """One or two latents and two images; the coarse one can be left out, weighted, or taken for data."""

    def __init__(self, z_dims=(3,), coarse=True, infer=None, weight=1.0, times=1):
        super().__init__("model")
        self.z_dims, self.coarse, self.weight, self.times = z_dims, coarse, weight, times
        self.infer = {"auxiliary": True} if infer is None else infer
        self.rough, self.fine = nn.Linear(z_dims[0], D).double(), nn.Linear(D, D).double()
        self.prior = nn.Linear(z_dims[-1], z_dims[0]).double()

    def forward(self, x):
        with pyro.plate("data", self.times * len(x), subsample=torch.arange(len(x)), dim=-1):
            one = x.new_ones(())
            z = pyro.sample(f"z{len(self.z_dims)}", dist.Normal(x.new_zeros(self.z_dims[-1]), one).to_event(1))
            if len(self.z_dims) > 1:
                z = pyro.sample("z1", dist.Normal(self.prior(z), one).to_event(1))
            rough = self.rough(z)
            if self.coarse:
                with poutine.scale(scale=self.weight):
                    pyro.sample("x_stage1", dist.Bernoulli(logits=rough).to_event(1), obs=x, infer=self.infer)
            pyro.sample("x", dist.Bernoulli(logits=self.fine(rough.sigmoid())).to_event(1), obs=x)


def pair(**options):
    torch.manual_seed(4)
    model = Stages(**options)
    for p in model.parameters():
        p.requires_grad_(True)
    guide = Amortized(model, Encoder(D, model.z_dims, (6,) * len(model.z_dims))).double()
    return model, guide


def parameters(model, guide):
    return {
        **{f"model.{n}": p for n, p in model.named_parameters()},
        **{f"guide.{n}": p for n, p in guide.named_parameters()},
    }


def gradients(loss, model, guide):
    named = parameters(model, guide)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def loss_and_gradients(bound, **options):
    model, guide = pair(**options)
    pyro.set_rng_seed(7)
    with pyro.validation_enabled(True):
        loss = bound.differentiable_loss(model, guide, X)
    return loss.item(), gradients(loss, model, guide)


def by_hand(k, weight=1.0, times=1, **options):
    """Gradient of minus the coarse log-likelihood, summed over the data, mean over the K draws of the same seed."""
    model, guide = pair(times=times, **options)
    pyro.set_rng_seed(7)
    trace, _ = trace_pair(model, guide, (X,), num_particles=k)
    total = trace.nodes["x_stage1"]["fn"].log_prob(X).sum() / k
    return gradients(-times * weight * total, model, guide)


BOUNDS = {
    "elbo": ELBO(),
    "elbo of 3": ELBO(num_particles=3),
    "analytic": AnalyticELBO(num_particles=2),
    "free bits": FreeBits(0.01),
    "stl": ELBO(num_particles=2, estimator="stl"),
    "iwae": ImportanceWeighted(3),
    "dreg": ImportanceWeighted(3, estimator="dreg"),
    "renyi dreg": Renyi(0.5, 3, estimator="dreg"),
    "miwae": MIWAE(2, 3),
    "piwae": PIWAE(2, 3),
    "ciwae dreg": CIWAE(0.3, 4, estimator="dreg"),
}


@pytest.mark.parametrize("z_dims", [(3,), (3, 2)])  # one Gaussian site has a shortcut of its own
@pytest.mark.parametrize("name", BOUNDS)
def test_value_is_without_and_gradient_with_the_auxiliary_term(name, z_dims):
    bound = BOUNDS[name]
    value, found = loss_and_gradients(bound, z_dims=z_dims)
    plain_value, plain = loss_and_gradients(bound, z_dims=z_dims, coarse=False)
    pull = by_hand(bound.num_particles, z_dims=z_dims)
    assert value == plain_value
    assert any(g.abs().max() > 1e-2 for n, g in pull.items() if n.startswith("guide."))
    for n in found:
        torch.testing.assert_close(found[n], plain[n] + pull[n], rtol=1e-6, atol=1e-9, msg=lambda m, n=n: f"{n}: {m}")


def test_it_obeys_the_plates_scale_and_a_weight_of_its_own():
    """A subsampled plate scales it like the rest; ``poutine.scale`` around it is its weight, and no temperature."""
    bound = ImportanceWeighted(3)
    value, found = loss_and_gradients(bound, weight=0.25, times=3)
    plain_value, plain = loss_and_gradients(bound, coarse=False, times=3)
    assert value == plain_value
    pull = by_hand(3, weight=0.25, times=3)
    for n in found:
        torch.testing.assert_close(found[n], plain[n] + pull[n], rtol=1e-6, atol=1e-9)


def test_its_weight_is_a_handler():
    """Around the whole call; at zero the gradient is the bound's own, and another weight is that of ``poutine.scale``."""
    for weight, options in ((0.0, {"coarse": False}), (0.25, {"weight": 0.25})):
        with AuxiliaryWeight(weight):
            value, found = loss_and_gradients(ImportanceWeighted(3))
        expected_value, expected = loss_and_gradients(ImportanceWeighted(3), **options)
        assert value == expected_value
        for n in found:
            torch.testing.assert_close(found[n], expected[n], rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="at least 0, not -1"):
        AuxiliaryWeight(-1)


def test_a_warm_up_leaves_it_alone():
    with Temper(stop=0.5):
        _, found = loss_and_gradients(ELBO())
        _, plain = loss_and_gradients(ELBO(), coarse=False)
    pull = by_hand(1)
    for n in found:
        torch.testing.assert_close(found[n], plain[n] + pull[n], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("estimator", ["rws-dreg", "wake", "sleep", "score", "vimco"])
def test_estimators_that_do_not_follow_the_path_refuse_it(estimator):
    model, guide = pair()
    with pytest.raises(ValueError, match=rf"estimator '{estimator}' .* auxiliary site\(s\) \['x_stage1'\]"):
        ImportanceWeighted(3, estimator=estimator).differentiable_loss(model, guide, X)


def test_log_p_is_the_last_images():
    """Importance samples, draws for ArviZ and their densities know the last image alone."""
    (model, guide), (other, same) = pair(), pair(coarse=False)
    found, expected = (evaluate(*p, X, num_samples=30) for p in ((model, guide), (other, same)))
    assert (found.log_p == expected.log_p).all() and (found.elbo == expected.elbo).all()
    kept = ("posterior_predictive", "log_likelihood", "sample_stats")
    one, two = (to_inference_data(*p, (X,), num_samples=20, groups=kept) for p in ((model, guide), (other, same)))
    assert list(one["log_likelihood"].data_vars) == list(one["posterior_predictive"].data_vars) == ["x"]
    for name in ("lp", "log_weight_local"):
        assert (one["sample_stats"][name].values == two["sample_stats"][name].values).all()
    with pytest.raises(ValueError, match=r"\['x_stage1'\] are auxiliary likelihoods"):
        run_nuts(model, X, num_samples=2, warmup=2)


def test_a_model_without_a_last_image_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("x_stage1", dist.Normal(z, 1.0), obs=x, infer={"auxiliary": True})

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match=r"all observed sites \['x_stage1'\] .* Leave the last one unmarked"):
        make_terms(*trace_pair(model, guide, (torch.zeros(3),)))


def test_a_plain_guide_and_pyros_svi_take_it():
    torch.manual_seed(4)
    model, guide = Stages((3, 2)), BottomUp(D, (3, 2), (6, 6)).double()
    pyro.clear_param_store()
    svi, before = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), ELBO()), model.rough.weight.clone()
    assert torch.isfinite(torch.tensor(svi.step(X))) and not torch.equal(before, model.rough.weight)
    pyro.clear_param_store()


def test_pyros_own_elbo_counts_it_and_that_is_said():
    """Trace_ELBO's value is the bound plus the auxiliary term: no bound on log p(x), and the record says so."""
    model, guide = pair(z_dims=(3, 2))
    pyro.set_rng_seed(7)
    value = Trace_ELBO().loss(model, guide, X)
    pyro.set_rng_seed(7)
    terms = ELBO().terms(model, guide, X)
    assert value == pytest.approx(-(terms.log_w + terms.log_aux["x_stage1"]).sum().item(), rel=1e-6)
    record = fit(model, guide, X, objective=Trace_ELBO(), steps=2)
    assert not record.is_lower_bound
    assert "adds the auxiliary likelihood(s) ['x_stage1']" in record.remarks[0]
    assert fit(model, guide, X, objective=ELBO(), steps=2).is_lower_bound
    assert fit(
        *pair(z_dims=(3, 2), infer={}), X, objective=Trace_ELBO(), steps=2
    ).is_lower_bound  # then it is plain data
