"""The enumeration against a loop over all states, and no bound above it."""

import itertools
import math

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine

from pyrarchy.guides import BottomUpBits
from pyrarchy.inference import ELBO, ImportanceWeighted, check_pair, evaluate
from pyrarchy.zoo import SigmoidBelief
from pyrarchy.zoo.sigmoid_belief import all_states


def network(x_dim=4, z_dims=(3, 2), seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SigmoidBelief(x_dim, z_dims).double()
        for p in model.parameters():
            p.data.copy_(torch.randn_like(p) * 1.5)
    return model


def bits(*rows):
    return torch.tensor(rows, dtype=torch.float64)


X = bits((0, 0, 0, 0), (1, 0, 1, 1), (1, 1, 1, 1), (0, 1, 0, 0), (1, 0, 0, 1))


@pytest.mark.parametrize("z_dims", [(3,), (3, 2), (2, 3, 1)])
def test_enumeration_is_the_sum_of_the_traced_joint(z_dims):
    """Each state is scored by the Pyro model itself."""
    model, total = network(4, z_dims), []
    for state in itertools.product((0.0, 1.0), repeat=sum(z_dims)):
        z = torch.tensor(state, dtype=torch.float64).expand(len(X), -1).split(z_dims, -1)
        given = {f"z{i}": part for i, part in enumerate(z, 1)}
        trace = poutine.trace(poutine.condition(model, given)).get_trace(X)
        trace.compute_log_prob()
        total.append(sum(trace.nodes[n]["log_prob"].expand(len(X)) for n in (*given, "x")))
    torch.testing.assert_close(model.log_marginal(X), torch.stack(total).logsumexp(0), rtol=0, atol=1e-10)


def test_probabilities_sum_to_one_in_parts_too(monkeypatch):
    model = network()
    whole = model.log_marginal(all_states(4, X))
    assert whole.logsumexp(0).item() == pytest.approx(0.0, abs=1e-10)
    assert model.log_prior().logsumexp(0).item() == pytest.approx(0.0, abs=1e-10)
    monkeypatch.setattr("pyrarchy.zoo.sigmoid_belief.CHUNK", 24)  # 3 rows at a time for z1, 6 for the top
    torch.testing.assert_close(model.log_marginal(all_states(4, X)), whole, rtol=0, atol=1e-12)


@pytest.mark.stochastic
def test_the_rows_size_is_enumerated_at_once():
    """25-15-7: against importance samples from the prior, which need no guide."""
    model = network(25, (15, 7)).double()
    for p in model.parameters():
        p.data.mul_(0.2)
    x = (torch.rand(3, 25, dtype=torch.float64) < 0.5).double()
    found, num = model.log_marginal(x), 40_000
    top = torch.bernoulli(torch.sigmoid(model.top).expand(num, -1))
    logits = model.decoder.logits(torch.bernoulli(torch.sigmoid(model.priors[0].logits(top))))
    log_p = x @ logits.mT - F.softplus(logits).sum(-1)
    weights = (log_p - found[:, None]).exp()
    error = weights.std(-1) / num**0.5
    assert ((weights.mean(-1) - 1).abs() < 4.5 * error).all() and error.max() < 0.05


@pytest.mark.stochastic
def test_no_bound_is_above_the_enumerated_log_p_and_many_samples_reach_it():
    model, guide = network(), BottomUpBits(4, (3, 2), ((6,), (5,))).double()
    exact = model.log_marginal(X)
    for k, repeats in ((1, 4000), (5, 2000)):
        with torch.no_grad():
            log_w = ELBO(k * repeats).terms(model, guide, X).log_w.reshape(repeats, k, len(X))
        bound = log_w.logsumexp(1) - math.log(k)
        error = bound.std(0) / repeats**0.5
        assert (bound.mean(0) < exact + 4.5 * error).all()
        assert (exact - bound.mean(0) > 4.5 * error).any()  # and the gap is real
    found = evaluate(model, guide, X, num_samples=20_000)
    error = torch.from_numpy(found.ess) ** -0.5
    assert ((torch.from_numpy(found.log_p) - exact).abs() < 4.5 * error).all() and error.max() < 0.1


@pytest.mark.stochastic
def test_vimco_follows_the_exact_gradient_of_the_bound():
    """The mean over draws of the surrogate's gradient is the enumerated gradient of L_2, for the guide's first bias."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, guide = network(2, (2,)), BottomUpBits(2, (2,), ((),)).double()
    x = bits((1, 0))
    bias, states = guide.layers[0][1].logits.bias, all_states(2, x)
    logits = guide.layers[0](x - guide.x_mean).base_dist.logits
    log_q = states @ logits[0] - F.softplus(logits).sum()
    log_p = (states @ model.top - F.softplus(model.top).sum()) + model.decoder(states).log_prob(x)
    log_w = log_p - log_q
    pairs = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
    exact = torch.autograd.grad(((log_q[:, None] + log_q[None]).exp() * pairs).sum(), bias)[0]
    objective, draws = ImportanceWeighted(2, estimator="vimco"), []
    rows, repeats = x.repeat(500, 1), 40
    for i in range(repeats):
        pyro.set_rng_seed(i)
        loss = objective.differentiable_loss(model, guide, rows)
        draws.append(-torch.autograd.grad(loss, bias)[0] / len(rows))
    draws = torch.stack(draws)
    error = draws.std(0) / repeats**0.5
    assert ((draws.mean(0) - exact).abs() < 4.5 * error).all() and (exact.abs() > 9 * error).any()


def test_every_parameter_gets_a_gradient():
    model, guide = network(), BottomUpBits(4, (3, 2), ((6,), ())).double()
    check_pair(model, guide, X, objective=ImportanceWeighted(3, estimator="vimco"))
    ImportanceWeighted(3, estimator="vimco").differentiable_loss(model, guide, X).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in (*model.parameters(), *guide.parameters()))
    with pytest.raises(ValueError, match=r"site\(s\) \['z1', 'z2'\] have no reparameterised sampler"):
        ELBO().differentiable_loss(model, guide, X)


def test_what_cannot_be_enumerated_is_refused_by_layer():
    model = SigmoidBelief(3, (2, 21))
    with pytest.raises(ValueError, match="layer z2 has 21 bits"):
        model.log_marginal(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least one bit"):
        SigmoidBelief(3, ())
