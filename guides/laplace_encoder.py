r"""An encoder whose message to each layer is a Laplace density: sharp at its centre, as posteriors under sparse priors are.

.. math:: q(z_i | x) = \mathrm{Laplace}(z_i; \mu_i(x), b_i(x))

Where the data say nothing of a code, its posterior is the prior. Under a Laplace prior this guide then has no gap, and
the best Gaussian one 1/2 - ln(pi/2) = .048 nats a code. Where they say much, the posterior is nearly Gaussian, and the
best Laplace one has (ln pi - 1) / 2 = .072.
"""

import pyro.distributions as dist

from .encoder import Encoder


class LaplaceEncoder(Encoder):
    """:class:`Encoder` with Laplace messages; arguments as there, the heads' scales are Laplace scales b.

    >>> import torch
    >>> encoder = LaplaceEncoder(6, z_dims=(3,), hidden=((5,),))
    >>> q = encoder(torch.zeros(7, 6))["z1"]
    >>> type(q.base_dist).__name__, q.batch_shape, q.event_shape
    ('Laplace', torch.Size([7]), torch.Size([3]))
    """

    def forward(self, x):
        """Data (B, x_dim) to a dictionary from site (z1 ... zL) to independent Laplace densities."""
        normal = super().forward(x)
        return {n: dist.Laplace(q.base_dist.loc, q.base_dist.scale).to_event(1) for n, q in normal.items()}
