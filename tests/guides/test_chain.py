"""The structured guide: densities by hand, exact log p by importance weights, and what is no chain refused by name."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import StructuredChain
from pyrarchy.inference import ELBO, check_pair, evaluate, fit
from pyrarchy.zoo import VAE, DeepMarkov, GaussianTree, LinearStateSpace, MarkovHVAE

T, K, B = 4, 2, 3


def series(b=B, t=T, seed=1):
    return torch.randn(b, t, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def chain(seed=0, k=K, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LinearStateSpace(T, k, 0.3, 1.2).double()
        return model, StructuredChain(model, k, 8, **kwargs).double()


def test_training_closes_most_of_the_gap_and_importance_weights_the_rest():
    """On a linear chain, against the Kalman filter's log p(x)."""
    model, guide = chain(k=1)
    for p in model.parameters():
        p.requires_grad_(False)
    x, steps = series(20, 3), 80
    before, exact = evaluate(model, guide, x, num_samples=100).elbo, model.log_marginal(x)
    fit(model, guide, x, optimizer=5e-2, steps=steps, schedule=lambda step: 1 - step / steps)
    found = evaluate(model, guide, x, num_samples=4000)
    assert (exact.numpy() - before).mean() > 0.5 > 0.1 > (exact.numpy() - found.elbo).mean() > 0
    error = torch.from_numpy(1 / found.ess - 1 / 4000).sqrt()
    assert ((torch.from_numpy(found.log_p) - exact).abs() < 4.5 * error).all() and error.max() < 0.05


@pytest.mark.parametrize("k", [1, 5])
def test_log_q_of_each_step_is_the_head_at_the_sample_before(k):
    """Rebuilt from one backward pass over the data and the sampled path."""
    model, guide = chain(x_mean=0.4, x_scale=2.0)
    x = series()
    terms = ELBO(k).terms(model, guide, x)
    for t in range(1, T + 1):
        rest = (x[:, t - 1 :] - 0.4) / 2.0  # data before t must not enter
        after = guide.backward(rest.flip(1)[..., None])[0][:, -1]
        before = terms.values[f"z{t - 1}"] if t > 1 else guide.start
        q = guide.head(0.5 * (torch.tanh(guide.combine(before)) + after))
        expected = q.log_prob(terms.values[f"z{t}"]).reshape(-1, B)
        torch.testing.assert_close(terms.log_q[f"z{t}"], expected, rtol=0, atol=1e-8)


def test_several_numbers_a_step():
    class Pairs(pyro.nn.PyroModule):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = 0.0
                for t in range(x.shape[1]):
                    z = pyro.sample(f"z{t + 1}", dist.Normal(z, torch.ones(K)).to_event(1))
                    pyro.sample(f"x{t + 1}", dist.Normal(z[..., :1], torch.ones(3)).to_event(1), obs=x[:, t])

    model = Pairs("model")
    guide = StructuredChain(model, K, 5, x_dim=3)
    terms = ELBO(2).terms(model, guide, torch.zeros(B, T, 3))
    assert terms.log_w.shape == (2, B)
    with pytest.raises(ValueError, match=r"shape \(3, 4\); .*\(B, T, 3\) for 3 number"):
        guide(torch.zeros(B, T))


def test_every_parameter_gets_a_gradient():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = DeepMarkov(K, 5, (6,))
        guide = StructuredChain(model, K, 7)
    x = series().float()
    check_pair(model, guide, x)
    pyro.clear_param_store()
    ELBO(4).differentiable_loss(model, guide, x).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in (*model.parameters(), *guide.parameters()))


def test_what_is_no_chain_in_time_is_refused_by_site():
    x = torch.zeros(B, 2)
    with pytest.raises(ValueError, match=r"site 'z2' with event shape \(1,\) is no step"):
        StructuredChain(GaussianTree(2), 1)(x)
    with pytest.raises(ValueError, match=r"site 'z3' .* no step of a chain"):
        StructuredChain(MarkovHVAE(7, (3, 2, 2), (4, 4, 4)), 2)(torch.zeros(B, 7))
    with pytest.raises(ValueError, match="ends with site 'z1', but the data have 7 steps"):
        StructuredChain(VAE(7, K, (5,)), K)(torch.zeros(B, 7))
    with pytest.raises(ValueError, match=r"site 'z1' with event shape \(2,\) .* event shape \(3,\)"):
        StructuredChain(DeepMarkov(K), 3)(x)

    def model(x):
        pyro.sample("mu", dist.Normal(torch.zeros(K), 1.0).to_event(1))

    with pytest.raises(ValueError, match="site 'mu'"):
        StructuredChain(model, K)(x)
    with pytest.raises(ValueError, match="x_scale"):
        StructuredChain(model, K, x_scale=0.0)
