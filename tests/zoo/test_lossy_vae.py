"""Pixels given z and a window: exact sums over all images, the window by autograd, samples against the density."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyrarchy.inference import sample
from pyrarchy.zoo import VAE, LossyVAE
from pyrarchy.zoo.masked_pixels import MaskedPixels

H, W, Z = 3, 2, 2


def model(field=1, shape=(H, W), loud=3.0):
    pyro.set_rng_seed(4)
    made = LossyVAE(shape, Z, (7, 5), field, channels=6).double()
    with torch.no_grad():  # a window that matters
        for p in made.parameters():
            p.mul_(loud if p.dim() == 4 else 1.0)
    return made


def every_image(dim):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=dim)), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (3, 2), (3, 3)])
@pytest.mark.parametrize("field", [0, 1, 2])
def test_probabilities_of_all_images_sum_to_one(field, shape):
    m = model(field, shape)
    x = every_image(shape[0] * shape[1])
    log_p = m.decode(torch.randn(4, 1, Z).double()).log_prob(x)
    assert log_p.shape == (4, len(x))
    torch.testing.assert_close(log_p.logsumexp(-1), torch.zeros(4).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_pixel_reads_its_window_and_nothing_else(field):
    h, w = 5, 6
    m = model(field, (h, w))
    q = m.decode(torch.randn(Z).double())
    at = torch.rand(h * w).double()
    reads = torch.autograd.functional.jacobian(q.conditional_logits, at).reshape(h, w, h, w) != 0
    for r, c in itertools.product(range(h), range(w)):
        above = {(i, j) for i in range(r - field, r) for j in range(c - field, c + field + 1)}
        window = {p for p in above | {(r, j) for j in range(c - field, c)} if p[0] >= 0 and 0 <= p[1] < w}
        assert {tuple(p) for p in reads[r, c].nonzero().tolist()} == window
    z = torch.autograd.functional.jacobian(lambda v: m.decode(v).conditional_logits(at), torch.randn(Z).double())
    assert (z != 0).all()


def test_without_a_window_it_is_the_vae():
    m, vae = model(0), VAE(H * W, Z, (7, 5)).double()
    vae.load_state_dict(m.state_dict())
    x, z = every_image(H * W)[10:15], torch.randn(5, Z).double()

    def scores(model):
        trace = poutine.trace(poutine.condition(model, {"z1": z})).get_trace(x)
        trace.compute_log_prob()
        return trace.nodes["x"]["log_prob"]

    torch.testing.assert_close(scores(m), scores(vae))
    torch.testing.assert_close(m.decode(z).mean, vae.decoder(z).mean)


@pytest.mark.stochastic
@pytest.mark.parametrize("field", [0, 1])
def test_samples_have_the_densitys_frequencies(field):
    """Chi-squared over the 16 images of 2 x 2 pixels, and the mean's own average."""
    m, n = model(field, (2, 2)), 20_000
    z, x = torch.tensor([0.7, -1.2]).double(), every_image(4)
    q = m.decode(z)
    p = q.log_prob(x).exp()
    independent = dist.Bernoulli(p @ x).to_event(1).log_prob(x).exp()
    assert field == 0 or (p - independent).abs().max() > 0.02  # the window matters
    draws = q.sample((n,))
    assert draws.shape == (n, 4)
    count = torch.bincount((draws @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long(), minlength=16)
    chi2 = ((count - n * p) ** 2 / (n * p)).sum().item()
    assert chi2 < 37.7  # 99.9 % of chi-squared with 15 degrees of freedom
    means = q.expand((n,)).mean
    error = means.std(0) / n**0.5
    assert ((means.mean(0) - p @ x).abs() < 4.5 * error + 1e-9).all()


@pytest.mark.parametrize("lead", [(4,), (3, 4)])
def test_shapes_follow_z(lead):
    q = model().decode(torch.randn(*lead, Z).double())
    assert q.batch_shape == lead and q.event_shape == (H * W,)
    x = every_image(H * W)[:4]
    torch.testing.assert_close(q.log_prob(x), q.expand((5, *lead)).log_prob(x)[2])
    assert q.sample((2,)).shape == (2, *lead, H * W)
    with pytest.raises(ValueError, match="support"):
        MaskedPixels(q.logits, validate_args=True).log_prob(x + 0.5)


def test_the_model_generates_pixel_by_pixel():
    m = model().float()
    draws = sample(m, (torch.zeros(1, H * W),), 400)
    assert set(draws["x"].flatten()) == {0.0, 1.0} and draws["x"].shape == (400, H * W)


def test_every_parameter_gets_a_gradient():
    m = model()
    x = every_image(H * W)[:9]
    poutine.trace(m).get_trace(x).log_prob_sum().backward()
    assert not [n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize(
    ("shape", "field", "what"), [(None, 1, "image_shape"), ((4,), 1, "image_shape"), ((2, 2), -1, "field")]
)
def test_misuse_is_named(shape, field, what):
    with pytest.raises(ValueError, match=what):
        LossyVAE(shape, field=field)
