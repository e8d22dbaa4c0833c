r"""A sigmoid belief network: layers of bits, each independent given the layer above, with log p(x) by enumeration.

.. math::

    z_L \sim \mathrm{Bernoulli}(\sigma(b_L)), \quad z_i \mid z_{i+1} \sim \mathrm{Bernoulli}(\sigma(W_i z_{i+1} + b_i)),
    \quad x \mid z_1 \sim \mathrm{Bernoulli}(\sigma(W_0 z_1 + b_0))

Given x the bits of a layer that share a child depend on each other (*explaining away*), so no factorised guide is exact.

Source: Neal (1992), Connectionist learning of belief networks, https://doi.org/10.1016/0004-3702(92)90065-6.
"""

from itertools import pairwise

import pyro
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import nn

from .networks import BernoulliHead

MOST_BITS = 20  # of a layer that is enumerated: a million states
CHUNK = 1 << 22  # numbers held at a time


class SigmoidBelief(PyroModule):
    """L layers of bits z1 (nearest the data) to zL over independent bits x; every map is linear.

    :param int x_dim: number of observed bits.
    :param z_dims: bits of each layer, bottom first.
    :param x_mean: training mean (x_dim,), to start the output bias at its logit.

    >>> model = SigmoidBelief(4, (3, 2))
    >>> model.log_marginal(torch.zeros(5, 4)).shape
    torch.Size([5])
    """

    def __init__(self, x_dim, z_dims=(15, 7), x_mean=None):
        super().__init__("model")
        if x_dim < 1 or not z_dims or min(z_dims) < 1:
            raise ValueError(f"x_dim, z_dims: {x_dim}, {z_dims} given; at least one bit in each layer is needed.")
        self.x_dim, self.z_dims = x_dim, tuple(z_dims)
        self.top = nn.Parameter(torch.zeros(z_dims[-1]))
        self.decoder = BernoulliHead(z_dims[0], x_dim, x_mean)
        # priors[i] maps z_{i+2} to the distribution of z_{i+1}, counting sites from 1
        self.priors = nn.ModuleList(BernoulliHead(above, below) for below, above in pairwise(z_dims))

    def forward(self, x):
        """:param x: (B, x_dim) of zeros and ones."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample(f"z{len(self.z_dims)}", pyro.distributions.Bernoulli(logits=self.top).to_event(1))
            for i in range(len(self.z_dims) - 1, 0, -1):
                z = pyro.sample(f"z{i}", self.priors[i - 1](z))
            pyro.sample("x", self.decoder(z), obs=x)

    def log_prior(self):
        """log p(z1) of all 2^d states of z1, (2^d,), in the order of :func:`all_states`; the layers above summed out.

        :raises ValueError: for a layer of more than 20 bits, by its name.
        """
        for i, bits in enumerate(self.z_dims, 1):
            if bits > MOST_BITS:
                raise ValueError(
                    f"layer z{i} has {bits} bits: at most {MOST_BITS} are enumerated. Sample log p instead."
                )
        states = all_states(self.z_dims[-1], self.top)
        log_p = log_bernoulli(states, self.top[None])[:, 0]
        for head in reversed(self.priors):
            logits, states = head.logits(states), all_states(head.logits.out_features, self.top)
            log_p = log_mixture(states, logits, log_p)
        return log_p

    def log_marginal(self, x):
        """log p(x) in nats, (B,), exactly: every state of every layer, a matrix product for each pair of layers.

        With 15 and 7 bits these are 2^22 terms for p(z1) and 2^15 for each x. Differentiable.

        :raises ValueError: for a layer of more than 20 bits, by its name.
        """
        states = all_states(self.z_dims[0], x)
        return log_mixture(x, self.decoder.logits(states), self.log_prior().to(x.dtype))


def all_states(bits, like):
    """Every state of so many bits, (2^bits, bits) of zeros and ones; the first bit is the slowest.

    >>> all_states(2, torch.zeros(()))
    tensor([[0., 0.],
            [0., 1.],
            [1., 0.],
            [1., 1.]])
    """
    places = torch.arange(bits - 1, -1, -1, device=like.device)
    return (torch.arange(2**bits, device=like.device)[:, None] >> places & 1).to(like.dtype)


def log_bernoulli(x, logits):
    """log p of rows x (N, D) of bits under every row of logits (S, D): a table (N, S), by one matrix product."""
    return x @ logits.mT - F.softplus(logits).sum(-1)


def log_mixture(x, logits, log_weights):
    """log sum_s w_s p(x | s) for rows x (N, D), logits (S, D) and log w (S,): (N,). In parts, to bound the memory."""
    rows = max(1, CHUNK // len(logits))
    return torch.cat([(log_bernoulli(part, logits) + log_weights).logsumexp(-1) for part in x.split(rows)])
