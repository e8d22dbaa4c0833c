r"""Ridge guide of a linear decoder: the code's ridge estimate under the model's own dictionary, corrected by a network.

.. math:: m(x) = (W^\top W / \sigma^2 + I / b^2)^{-1} W^\top (x - \mu) / \sigma^2, \qquad
          q(z | x) = \prod_k N\!\left(z_k; g_k m_k + f_k(m),
          s_k(m)^2 \, (w_k^\top w_k / \sigma^2 + 1 / b^2)^{-1}\right)

m is the posterior mean under a Gaussian prior of scale b. It follows W, sigma and b at each step: a separate encoder must
learn the inverse of W, chases it while it turns, and the less the noise the slower the two get anywhere. Nothing is
copied: the gradient reaches W through both roles, and estimators that part them freeze it in each.

Source: the project's own; sharing the decoder with the recognition model as in the ladder of Sonderby et al. (2016),
https://arxiv.org/abs/1602.02282.
"""

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn

from ..zoo.networks import mlp
from .base import Guide

FLOOR = 1e-4


class Ridge(Guide):
    """Amortised posterior of the single site ``z1`` of a linear decoder x = mean + W z1 + noise.

    :param model: a :class:`~pyrarchy.zoo.SparseLinear`, or any model with ``dictionary()`` (W (D, K), scale of the codes),
        ``noise()`` (scale ()), ``mean`` (D,) and ``z_dim``.
    :param int hidden: width of the correcting network's layer.
    :param family: location-scale family of q. ``dist.Normal`` suits codes of which the data say much, ``dist.Laplace``
        those of which they say little under a Laplace prior; the wrong one costs .072 and .048 nats a code.
    :raises TypeError: for a model without these parts.
    """

    def __init__(self, model, hidden=64, family=dist.Normal):
        super().__init__(model)
        lacking = [part for part in ("dictionary", "noise", "mean", "z_dim") if not hasattr(model, part)]
        if lacking:
            raise TypeError(
                f"{type(model).__name__} has no {', '.join(lacking)}: the ridge guide is defined for the site 'z1' of a "
                "linear decoder. Use Amortized with an Encoder."
            )
        z_dim, self.family = model.z_dim, family
        self.network = mlp((z_dim, hidden), nn.LeakyReLU)
        self.shift, self.raw_scale = nn.Linear(hidden, z_dim), nn.Linear(hidden, z_dim)
        for linear in (self.shift, self.raw_scale):  # near the ridge estimate at first
            nn.init.normal_(linear.weight, std=1e-3)
            nn.init.zeros_(linear.bias)
        nn.init.constant_(self.raw_scale.bias, math.log(math.expm1(1.0)))
        self.gain = nn.Parameter(torch.ones(z_dim))

    def encode(self, x):
        """q(z1 | x) for ``x`` (B, D)."""
        atoms, code_scale = self.model.dictionary()
        noise = self.model.noise()
        whitened = atoms * (code_scale / noise)  # of codes in units of their own scale
        precision = torch.eye(atoms.shape[1]).to(atoms) + whitened.mT @ whitened
        residual = ((x - self.model.mean) / noise) @ whitened
        ridge = torch.cholesky_solve(residual.mT, torch.linalg.cholesky(precision)).mT
        h = self.network(ridge)
        scale = FLOOR + F.softplus(self.raw_scale(h)) * precision.diagonal().rsqrt()
        return self.family(code_scale * (self.gain * ridge + self.shift(h)), code_scale * scale).to_event(1)

    def posterior(self, name, prior):
        """The density above; refuses, by name, any other site."""
        if name != "z1":
            raise ValueError(f"site '{name}': the ridge guide is defined for the site 'z1' of a linear decoder alone.")
        return self.evidence
