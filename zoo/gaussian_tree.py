r"""One cause, many noisy effects: the smallest hierarchy in which inference must run top-down, with exact answers.

.. math::

    z_2 \sim N(0, 1), \quad z_1 \mid z_2 \sim N(a z_2 1, t^2 I_d), \quad x \mid z_1 \sim N(z_1, s^2 I)

    p(z_2 \mid x) = N\!\left(\frac{a \sum_j x_j}{v + d a^2}, \frac{v}{v + d a^2}\right), \quad v = t^2 + s^2, \qquad
    p(z_1 \mid z_2, x) = N\!\left(\frac{s^2 a z_2 1 + t^2 x}{v}, \frac{t^2 s^2}{v} I\right)

The second line is the precision-weighted product of the prior and a message from x, so a ladder guide is exact here,
and a diagonal guide q(z1 | x) q(z2 | z1) is not as soon as d > 1.

Source: Sonderby, Raiko, Maaloe, Sonderby and Winther (2016), Ladder variational autoencoders,
https://arxiv.org/abs/1602.02282 (the guide); the tree is the project's own test of it.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule


class GaussianTree(PyroModule):
    """``x_dim`` = d leaves; sites ``z2`` (1), ``z1`` (d), ``x`` (d) in plate ``data``.

    ``a``, ``z1_scale`` = t and ``x_scale`` = s are constants (buffers), so that training moves a guide only and its gap
    can be held against the exact one. Raises ValueError for scales that are not positive.

    >>> tree = GaussianTree(2)
    >>> tree.log_marginal(torch.zeros(3, 2)).shape, tree.posterior(torch.zeros(3, 2))["z2"].batch_shape
    (torch.Size([3]), torch.Size([3]))
    """

    def __init__(self, x_dim, a=1.0, z1_scale=0.1**0.5, x_scale=1.0):
        super().__init__("model")
        if x_dim < 1 or not z1_scale > 0 or not x_scale > 0:
            raise ValueError(
                f"x_dim, z1_scale, x_scale: {x_dim}, {z1_scale}, {x_scale} given; at least one leaf and positive "
                "scales are needed."
            )
        self.x_dim = x_dim
        self.register_buffer("a", torch.tensor(float(a)))
        self.register_buffer("z1_scale", torch.tensor(float(z1_scale)))
        self.register_buffer("x_scale", torch.tensor(float(x_scale)))

    def forward(self, x):
        """Sample z2, z1 and x; ``x`` (B, d) is observed."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            z1_mean = self.a * z2 * x.new_ones(self.x_dim)
            z1 = pyro.sample("z1", dist.Normal(z1_mean, self.z1_scale).to_event(1))
            return pyro.sample("x", dist.Normal(z1, self.x_scale).to_event(1), obs=x)

    def posterior(self, x):
        """Exact p(z2 | x) p(z1 | z2, x) for ``x`` (B, d), top down.

        A dictionary: ``z2`` a distribution with batch (B,) and event (1,); ``z1`` a function of the samples above (a
        dictionary with ``z2`` of shape (..., B, 1)) that returns one with batch (..., B) and event (d,).
        """
        t2, s2 = self.z1_scale**2, self.x_scale**2
        v = t2 + s2
        total = v + self.x_dim * self.a**2
        z2 = dist.Normal(self.a * x.sum(-1, keepdim=True) / total, (v / total).sqrt()).to_event(1)

        def z1(above):
            return dist.Normal((s2 * self.a * above["z2"] + t2 * x) / v, (t2 * s2 / v).sqrt()).to_event(1)

        return {"z2": z2, "z1": z1}

    def log_marginal(self, x):
        """log p(x) in nats, (B,), for ``x`` (B, d): x ~ N(0, a^2 11' + (t^2 + s^2) I) by Sherman and Morrison."""
        v = self.z1_scale**2 + self.x_scale**2
        total = v + self.x_dim * self.a**2
        distance = (x.square().sum(-1) - self.a**2 * x.sum(-1).square() / total) / v
        log_det = (self.x_dim - 1) * v.log() + total.log()
        return -0.5 * (self.x_dim * math.log(2.0 * math.pi) + log_det + distance)
