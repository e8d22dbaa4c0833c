"""A linear VLAE has a dense Gaussian marginal, which its table gives with the exact posterior for every draw."""

import pytest
import torch
from torch import nn

from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import ELBO, evaluate
from pyrarchy.zoo import VLAE
from pyrarchy.zoo.likelihoods import Bits, GaussianPixels, LaplacePixels

D, B, Z, HIDDEN = 7, 5, (2, 3, 1), (4, 5, 6)


def linear():
    torch.manual_seed(1)
    model = VLAE(D, Z, HIDDEN, torch.rand(D), GaussianPixels, nn.Identity).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def test_the_linear_model_has_its_dense_marginal(linear_gaussian):
    model, x = linear(), torch.randn(B, D, dtype=torch.float64)
    scale = model.decode([torch.zeros(z, dtype=torch.float64) for z in Z]).base_dist.scale[0].item()
    marginal, guide, loadings = linear_gaussian(lambda z: model.decode(z).mean, Z, scale)
    terms = ELBO(num_particles=3).terms(model, guide, x)
    torch.testing.assert_close(terms.log_w, marginal.log_prob(x).expand(3, B), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        torch.from_numpy(evaluate(model, guide, x, num_samples=4).log_p),
        marginal.log_prob(x).detach(),
        rtol=0,
        atol=1e-9,
    )
    # the loadings written out: a rung's code passes its gate and every layer below
    down = [m[0].weight for m in model.merged]
    path = [p[0].weight for p in model.paths]
    at = [model.gates[i][:, None] * model.rungs[i][0].weight for i in range(2)]
    out = model.output[0].weight
    top = path[1] @ model.top[2].weight @ model.top[0].weight
    expected = [
        out @ down[0] @ at[0],
        out @ down[0] @ path[0] @ down[1] @ at[1],
        out @ down[0] @ path[0] @ down[1] @ top,
    ]
    torch.testing.assert_close(loadings, torch.cat(expected, 1).detach(), rtol=0, atol=1e-10)


def test_gates_start_at_a_tenth_and_the_output_at_the_mean():
    mean = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0, 0.3, 0.6])
    model = VLAE(D, Z, HIDDEN, mean)
    assert all((gate == 0.1).all() for gate in model.gates)
    torch.testing.assert_close(model.output[0].bias.sigmoid(), mean.clamp(1e-3, 1 - 1e-3))
    with pytest.raises(ValueError, match=r"one entry a rung, not 3 and 2"):
        VLAE(D, Z, (4, 5))
    with pytest.raises(ValueError, match=r"x_mean must have shape \(7,\), not \(3,\)"):
        VLAE(D, Z, HIDDEN, mean[:3])


def test_the_latents_are_independent_and_all_reach_x():
    model = VLAE(D, Z, HIDDEN)
    x = torch.randint(2, (B, D)).float()
    terms = ELBO(num_particles=2).terms(model, Amortized(model, Encoder(D, Z, HIDDEN)), x)
    assert list(terms.log_p) == ["z3", "z2", "z1"]
    for i, p in terms.p.items():
        assert (p.mean == 0).all() and (p.variance == 1).all(), i
    assert all(v.grad_fn is not None for v in terms.log_obs.values())


def test_the_likelihoods_are_the_losses_they_stand_for():
    """Squared error, absolute error, cross-entropy: up to a constant of the location, and normalised."""
    x, a, b = torch.rand(3, D), torch.rand(3, D), torch.rand(3, D)
    squared, absolute = GaussianPixels(0.4), LaplacePixels(0.4)
    torch.testing.assert_close(
        squared(a).log_prob(x) - squared(b).log_prob(x), (((x - b) ** 2 - (x - a) ** 2) / (2 * 0.4**2)).sum(-1)
    )
    torch.testing.assert_close(
        absolute(a).log_prob(x) - absolute(b).log_prob(x), (((x - b).abs() - (x - a).abs()) / 0.4).sum(-1)
    )
    grid = torch.linspace(-20, 20, 200_001).unsqueeze(-1)
    for pixels in (squared, absolute):
        assert torch.trapezoid(pixels(torch.zeros(1)).log_prob(grid).exp(), grid[:, 0]).item() == pytest.approx(
            1, abs=1e-4
        )
        torch.testing.assert_close(pixels(pixels.location(a)).mean, a)
    torch.testing.assert_close(Bits()(Bits().location(a.clamp(0.01, 0.99))).mean, a.clamp(0.01, 0.99))
    with pytest.raises(ValueError, match="must exceed its floor"):
        GaussianPixels(0.1, floor=0.2)
