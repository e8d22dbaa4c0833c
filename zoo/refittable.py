r"""Priors that can be refitted to draws in closed form or by EM, for the argument ``top`` of a hierarchy.

.. math:: p(z) = N(m, \Sigma) \qquad\text{or}\qquad p(z) = \sum_k w_k \prod_d N(z_d; m_{kd}, s_{kd}^2)

Refitting to draws of the average posterior is the step of a self-consistent prior. A floor on the scale is part of either:
a prior that follows codes may follow them to a point, where no density is left. Their numbers are buffers: ``fit`` leaves
them alone, and only ``refit`` moves them.

Source: Dempster, Laird & Rubin (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; as priors of a VAE: Tomczak &
Welling (2018), https://arxiv.org/abs/1705.07120.
"""

import math

import pyro.distributions as dist
import torch
from torch import nn


class GaussianPrior(nn.Module):
    """N(loc, scale_tril scale_tril'), N(0, I) at first.

    :param int dim: dimension of the layer.
    :param float floor: least standard deviation along any direction; 0 for none.

    >>> prior = GaussianPrior(3)
    >>> prior.refit(torch.tensor([1.0, 2.0, 3.0]) + torch.zeros(5, 3))  # five equal draws: the floor is left
    >>> prior.loc.tolist(), [round(s, 3) for s in prior.scale_tril.diagonal().tolist()]
    ([1.0, 2.0, 3.0], [0.001, 0.001, 0.001])
    """

    def __init__(self, dim, floor=1e-3):
        super().__init__()
        if not floor >= 0:
            raise ValueError(f"floor must be a standard deviation >= 0, not {floor!r}")
        self.dim, self.floor = dim, floor
        self.register_buffer("loc", torch.zeros(dim))
        self.register_buffer("scale_tril", torch.eye(dim))

    def forward(self, like):
        """The distribution, of event shape (dim,), on the device and of the dtype of ``like``."""
        return dist.MultivariateNormal(self.loc.to(like), scale_tril=self.scale_tril.to(like))

    @torch.no_grad()
    def refit(self, draws):
        """Maximum likelihood for draws (M, dim): their mean and covariance, its eigenvalues at the floor or above."""
        draws = draws.double()
        self.loc.copy_(draws.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov(draws.T, correction=0).reshape(self.dim, self.dim))
        covariance = (vectors * values.clamp(min=max(self.floor, 1e-12) ** 2)) @ vectors.T
        self.scale_tril.copy_(torch.linalg.cholesky(covariance))


class MixturePrior(nn.Module):
    """A mixture of diagonal Gaussians; all components are N(0, I) at first.

    :param int dim: dimension of the layer.
    :param int components: K.
    :param float floor: least scale of a component's coordinate.
    :param int iterations: EM steps of a refit.
    """

    def __init__(self, dim, components=10, floor=1e-2, iterations=50):
        super().__init__()
        if components < 1 or not floor > 0:
            raise ValueError(f"need one component or more and a floor > 0, not {components} and {floor!r}")
        self.dim, self.floor, self.iterations = dim, floor, iterations
        self.register_buffer("log_weights", torch.full((components,), -math.log(components)))
        self.register_buffer("loc", torch.zeros(components, dim))
        self.register_buffer("scale", torch.ones(components, dim))

    def forward(self, like):
        """The distribution, of event shape (dim,), on the device and of the dtype of ``like``."""
        parts = dist.Normal(self.loc.to(like), self.scale.to(like)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.log_weights.to(like)), parts)

    @torch.no_grad()
    def refit(self, draws):
        """EM for draws (M, dim) from K of them as centres; the log-likelihood never falls, but is a local maximum's."""
        draws = draws.double()
        k = len(self.log_weights)
        if len(draws) < k:
            raise ValueError(f"{len(draws)} draws cannot start {k} components: give more draws")
        loc = draws[torch.randperm(len(draws))[:k]]
        scale = draws.std(0, correction=0).clamp(min=self.floor).expand(k, -1)
        log_weights = draws.new_full((k,), -math.log(k))
        for _ in range(self.iterations):
            scores = dist.Normal(loc, scale).log_prob(draws.unsqueeze(1)).sum(-1) + log_weights
            share = scores.softmax(1)
            size = share.sum(0).clamp(min=1e-9)
            loc = share.T @ draws / size.unsqueeze(1)
            square = share.T @ draws**2 / size.unsqueeze(1) - loc**2
            scale = square.clamp(min=self.floor**2).sqrt()
            log_weights = (size / size.sum()).log()
        for mine, found in ((self.loc, loc), (self.scale, scale), (self.log_weights, log_weights)):
            mine.copy_(found)
