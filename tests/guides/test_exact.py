"""The exact guide: every particle's weight is p(x), for models with one site, several, or a chain of conditionals."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import Exact
from pyrarchy.inference import ELBO, ImportanceWeighted, Renyi
from pyrarchy.zoo.factor_analysis import FactorAnalysis
from pyrarchy.zoo.gaussian_tree import GaussianTree
from pyrarchy.zoo.ppca import PPCA

B = 5


class Chain(PyroModule):
    """a ~ N(0, 1), b ~ N(a, 1), x ~ N(b, 1): q(a | x) = N(x/3, 2/3), q(b | a, x) = N((a + x)/2, 1/2)."""

    def __init__(self, order=("a", "b")):
        super().__init__("model")
        self.order = order

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def posterior(self, x):
        whole = {
            "a": dist.Normal(x / 3, (2 / 3) ** 0.5),
            "b": lambda above: dist.Normal((above["a"] + x) / 2, 0.5**0.5),
        }
        return {name: whole[name] for name in self.order}


@pytest.mark.parametrize("model", [FactorAnalysis, PPCA, GaussianTree])
@pytest.mark.parametrize("k", [1, B, 7])
def test_every_weight_of_the_zoos_linear_models_is_p_of_x(model, k):
    model = model(4, 2) if model is not GaussianTree else model(4)
    x = 2 * torch.randn(B, 4)
    guide = Exact(model)
    terms = ImportanceWeighted(k).terms(model, guide, x)
    assert (terms.log_w - model.log_marginal(x)).abs().max() < 1e-4
    for bound in (ELBO(k), ImportanceWeighted(k), Renyi(0.3, k)):
        torch.testing.assert_close(bound.value(model, guide, x), model.log_marginal(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("k", [1, 7])
def test_a_site_may_be_a_function_of_those_above(k):
    model, x = Chain(), torch.randn(B) * 3
    terms = ELBO(k).terms(model, Exact(model), x)
    expected = dist.Normal(0.0, 3**0.5).log_prob(x)
    torch.testing.assert_close(terms.log_w, expected.expand(k, B), rtol=0, atol=1e-5)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="'b'"):
        model = Chain(order=("a",))
        Exact(model)(torch.randn(B))

    class Plain(PyroModule):
        pass

    with pytest.raises(ValueError, match="Plain has no posterior"):
        Exact(Plain())
