"""The same VAE as Pyro's own tutorial writes it: ``pyro.module`` around plain networks, ``SVI``, a Pyro optimiser.

Source: Pyro's VAE example, https://pyro.ai/examples/vae.html, with logits and sizes of this comparison.
"""

import pyro
import pyro.distributions as dist
import torch.nn.functional as F
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import nn

from .by_hand import FLOOR


class PyroVAE(nn.Module):
    """Model and guide around the networks of a :class:`~benchmarks.by_hand.HandVAE`."""

    def __init__(self, networks):
        super().__init__()
        self.networks = networks
        self.decoder = networks.decoder
        self.encoder = nn.ModuleList([networks.encoder, networks.loc, networks.raw_scale])

    def model(self, x):
        """z ~ N(0, I), x | z Bernoulli; x (B, x_dim)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_dim = self.networks.loc.out_features
            z = pyro.sample("z", dist.Normal(x.new_zeros(z_dim), x.new_ones(z_dim)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        """z | x a diagonal Gaussian."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            h = self.networks.encoder(x - self.networks.x_mean)
            scale = F.softplus(self.networks.raw_scale(h)) + FLOOR
            pyro.sample("z", dist.Normal(self.networks.loc(h), scale).to_event(1))


def pyro_objective(num_particles):
    """``Trace_ELBO`` for one particle, else ``RenyiELBO(alpha=0)``, the importance-weighted bound, vectorised."""
    if num_particles == 1:
        return Trace_ELBO()
    return RenyiELBO(alpha=0, num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)


def pyro_step(model, guide, batches, num_particles, lr=1e-3):
    """A function that takes one ``SVI.step`` on the next of ``batches`` and returns the loss per datum."""
    svi = SVI(model, guide, ClippedAdam({"lr": lr}), pyro_objective(num_particles))

    def step():
        x = next(batches)
        return svi.step(x) / len(x)

    return step
