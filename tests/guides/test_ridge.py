"""The ridge guide: the exact mean where the prior is Gaussian, and one that follows the dictionary."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import LaplaceEncoder, Ridge
from pyrarchy.inference import ELBO, evaluate, fit
from pyrarchy.zoo import VAE, GaussianLinear, SparseLinear, UnitNormDictionary


def orthogonal(model):
    """Give the model orthogonal atoms of different lengths, so that its posterior under a Gaussian prior factorises."""
    with torch.no_grad():
        lengths = torch.tensor([2.0, 1.0, 0.5])
        model.dictionary.weight.copy_(torch.linalg.qr(torch.randn(6, 3)).Q * lengths)
    return model.double()


def test_it_is_the_exact_posterior_of_orthogonal_gaussian_codes():
    """A Normal at the ridge estimate, its scale that of the precision's diagonal: every weight is p(x)."""
    model = orthogonal(GaussianLinear(6, 3))
    guide = Ridge(model, 5).double()
    with torch.no_grad():
        for linear in (guide.shift, guide.raw_scale):  # the network out of the way
            linear.weight.zero_()
    x = torch.randn(4, 6).double()
    q, exact = guide.encode(x), model.posterior(x)
    torch.testing.assert_close(q.mean, exact.mean)
    torch.testing.assert_close(q.variance, exact.variance, rtol=2e-3, atol=0)  # the floor under the scale
    found = evaluate(model, guide, x, num_samples=5)
    torch.testing.assert_close(torch.tensor(found.elbo), model.log_marginal(x).detach(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("unit_norm", [False, True])
def test_mean_is_the_posterior_mean_for_any_dictionary(unit_norm):
    """Overcomplete, in units of the codes' own scale, and still so after W has moved."""
    model = GaussianLinear(5, 7, UnitNormDictionary(5, 7) if unit_norm else None).double()
    guide = Ridge(model, 4).double()
    with torch.no_grad():
        guide.shift.weight.zero_()
    for _ in range(2):
        x = torch.randn(4, 5).double()
        torch.testing.assert_close(guide.encode(x).mean, model.posterior(x).mean)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.5 * torch.randn_like(p))


def test_every_parameter_gets_a_gradient():
    model = SparseLinear(5, 7, dist.Cauchy, UnitNormDictionary(5, 7))
    guide = Ridge(model, 4)
    torch.manual_seed(0)
    ELBO(3).differentiable_loss(model, guide, torch.randn(6, 5)).backward()
    assert all(p.grad.abs().max() > 0 for p in [*model.parameters(), *guide.parameters()])
    assert not set(guide.parameters()) & set(model.parameters())


def test_atoms_are_found_again():
    """With a sparse prior the atoms of the data are, up to order and sign; with a Gaussian one they are not."""
    torch.manual_seed(2)
    truth = torch.linalg.qr(torch.randn(8, 3)).Q
    x = 2 * dist.Laplace(0.0, 1.0).sample((3000, 3)) @ truth.mT + 0.3 * torch.randn(3000, 8)

    def alike(model):
        fit(model, Ridge(model, 16), x, steps=600, batch_size=150, optimizer=2e-2)
        found = torch.nn.functional.normalize(model.atoms.detach(), dim=0)
        return (truth.mT @ found).abs().max(1).values

    model = SparseLinear(8, 3)
    assert alike(model).min() > 0.95
    assert model.scale.item() == pytest.approx(0.3, abs=0.05)
    assert alike(GaussianLinear(8, 3)).min() < 0.9


def test_more_atoms_than_pixels_train_and_one_is_left_out():
    """Three atoms in the plane: better than the data's Gaussian, held out, but codes taken for independent leave one out."""
    torch.manual_seed(2)
    angles = torch.tensor([0.0, math.pi / 3, 2 * math.pi / 3])
    truth = 2 * torch.stack([angles.cos(), angles.sin()])
    x = dist.Cauchy(0.0, 1.0).sample((3400, 3)).clamp(-50, 50) @ truth.mT + 0.3 * torch.randn(3400, 2)
    model = SparseLinear(2, 3, dist.Cauchy)
    guide = Ridge(model, 32)
    fit(model, guide, x[:3000], steps=800, batch_size=200, optimizer=2e-2, schedule=lambda step: 1 - step / 820)
    found = evaluate(model, guide, x[3000:], num_samples=500)
    gaussian = torch.distributions.MultivariateNormal(x[:3000].mean(0), x[:3000].mT.cov()).log_prob(x[3000:])
    gain = found.log_p - gaussian.numpy()
    assert gain.mean() > 4 * gain.std() / 400**0.5
    assert found.active_units()["z1"] == (2, 3) and model.atoms.norm(dim=0).min() < 0.1


def test_refusals_name_the_site():
    with pytest.raises(TypeError, match=r"VAE has no dictionary, noise, mean, z_dim: .* site 'z1'"):
        Ridge(VAE(5, 2, (4,)))

    class Two(SparseLinear):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z2", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            super().forward(x)

    with pytest.raises(ValueError, match="site 'z2': the ridge guide"):
        Ridge(Two(5, 3))(torch.zeros(4, 5))


def test_what_the_wrong_family_costs():
    """The two numbers of the docstrings, by quadrature over scales and over the line."""
    z = torch.linspace(-40, 40, 160_001).double()
    laplace, normal = dist.Laplace(z.new_zeros(()), 1.0), dist.Normal(z.new_zeros(()), 1.0)

    def least(family, p):
        scales = torch.linspace(0.5, 1.6, 400).double()
        gaps = [
            ((q := family(0.0, s)).log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))).sum() * 5e-4 for s in scales
        ]
        return min(gap.item() for gap in gaps)

    assert least(dist.Normal, laplace) == pytest.approx(0.5 - math.log(math.pi / 2), abs=1e-5)
    assert least(dist.Laplace, normal) == pytest.approx((math.log(math.pi) - 1) / 2, abs=1e-5)


def test_laplace_encoder_is_the_encoder_s_numbers():
    """Location and scale of the messages are the heads'."""
    encoder = LaplaceEncoder(6, (3,), ((5,),))
    x = torch.randn(4, 6)
    q, head = encoder(x)["z1"].base_dist, encoder.heads[0](encoder.features(x)[0]).base_dist
    assert isinstance(q, dist.Laplace) and torch.equal(q.loc, head.loc) and torch.equal(q.scale, head.scale)
