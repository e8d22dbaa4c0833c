r"""The VAE and IWAE steps written by hand in plain PyTorch: the floor that a library's overhead is measured from.

.. math:: \log w_k = \log p(x | z_k) + \log p(z_k) - \log q(z_k | x), \qquad z_k = \mu(x) + \sigma(x) \epsilon_k

The same layers, initial weights, noise, loss, gradient-norm check and fused Adam as ours; constants that cancel between
log p and log q are left out, as one does by hand. ``tests/test_benchmarks.py`` checks loss and gradients against ours.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

FLOOR = 1e-4


class HandVAE(nn.Module):
    """Encoder and decoder of 784-200-200-50 (or other sizes) with tanh, Gaussian latent, Bernoulli pixels.

    :param x_mean: (x_dim,) subtracted from the encoder's input; :meth:`start` puts it into the output bias, too.
    """

    def __init__(self, x_dim, z_dim, hidden, x_mean):
        super().__init__()
        first, second = hidden
        self.register_buffer("x_mean", x_mean)
        self.encoder = nn.Sequential(nn.Linear(x_dim, second), nn.Tanh(), nn.Linear(second, first), nn.Tanh())
        self.loc, self.raw_scale = nn.Linear(first, z_dim), nn.Linear(first, z_dim)
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, first), nn.Tanh(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, x_dim)
        )

    def loss(self, x, num_particles):
        """Minus the importance-weighted bound (the ELBO for one particle) per datum, in nats, for ``x`` (B, x_dim)."""
        h = self.encoder(x - self.x_mean)
        loc, scale = self.loc(h), F.softplus(self.raw_scale(h)) + FLOOR
        eps = torch.randn(loc.shape if num_particles == 1 else (num_particles, *loc.shape))
        z = loc + scale * eps
        logits = self.decoder(z)
        log_lik = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_w = log_lik + 0.5 * (eps.square() - z.square()).sum(-1) + scale.log().sum(-1)
        if num_particles == 1:
            return -log_w.mean()
        return -(log_w.logsumexp(0) - math.log(num_particles)).mean()

    @torch.no_grad()
    def start(self):
        """Start where ours does: Glorot's weights, biases zero but for the output's, which is the logit of the mean."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                part.bias.zero_()
        self.decoder[-1].bias.copy_(torch.logit(self.x_mean.clamp(1e-3, 1 - 1e-3)))
        return self

    def copy_weights(self, model, guide):
        """Take the weights of our pair, whose layers come in the same order."""
        ours = [*guide.encoder.parameters(), *model.decoder.parameters()]
        mine = [*self.encoder.parameters(), *self.loc.parameters(), *self.raw_scale.parameters()]
        with torch.no_grad():
            for target, source in zip([*mine, *self.decoder.parameters()], ours, strict=True):
                target.copy_(source)
        return self


def hand_step(module, batches, num_particles, lr=1e-3, clip_norm=100.0):
    """A function that takes one training step on the next of ``batches`` and returns the loss per datum."""
    parameters = list(module.parameters())
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = module.loss(next(batches), num_particles)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters], foreach=True)
        if not math.isfinite(norm.item()):
            raise ArithmeticError("the gradient is not finite")
        if norm > clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm, foreach=True)
        optimizer.step()
        return loss.item()

    return step
