r"""Low-rank guide: one Gaussian over all latents in unconstrained space, with as many directions of correlation as asked.

.. math:: q_u(u) = N\big(u;\ \mu,\ D (I + V V^\top) D\big), \qquad D = \mathrm{diag}(s),\ V \in \mathbb R^{n \times r}

Between mean field (r = 0) and full rank (r = n - 1 suffices for any covariance), at n (r + 2) parameters and a cost per
sample that is linear in n.

Source: Ong, Nott & Smith (2018), https://arxiv.org/abs/1701.03208; as a component: Miller, Foti & Adams (2017),
https://arxiv.org/abs/1611.06585.
Differs from the papers: scales s apart from the couplings V, so that one learning rate serves sites of any unit.
"""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn

from .example_data import inverse_softplus
from .joint import Joint
from .mean_field import SCALE_FLOOR


class LowRank(Joint):
    """A Gaussian over the stacked latents whose correlations have rank ``rank``.

    :param model, model_args, model_kwargs: as for :class:`~pyrarchy.guides.joint.Joint`.
    :param int rank: columns of V; at least one, and below the number of latents.
    :param float init_scale: first scale of every entry. V starts small and at random: at zero it would have no gradient.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.guides.low_rank import LowRank
    >>> def model(y):
    ...     tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    ...     with pyro.plate("school", 3):
    ...         theta = pyro.sample("theta", dist.Normal(0.0, tau))
    ...         pyro.sample("y", dist.Normal(theta, 1.0), obs=y)
    >>> guide = LowRank(model, torch.zeros(3), rank=2)
    >>> {name: tuple(p.shape) for name, p in guide.named_parameters()}
    {'loc': (4,), 'raw_scale': (4,), 'coupling': (4, 2)}
    """

    def __init__(self, model, *model_args, rank=1, init_scale=0.1, **model_kwargs):
        super().__init__(model, *model_args, **model_kwargs)
        if not init_scale > SCALE_FLOOR:
            raise ValueError(f"init_scale must be above {SCALE_FLOOR}, not {init_scale!r}")
        if not 1 <= rank < max(self.dim, 2):
            raise ValueError(
                f"rank must lie between 1 and {self.dim - 1}, the number of latents less one, which gives every "
                f"covariance, not {rank}; rank 0 is MeanField"
            )
        self.loc = nn.Parameter(self.start.clone())
        self.raw_scale = nn.Parameter(torch.full_like(self.start, inverse_softplus(init_scale - SCALE_FLOOR)))
        self.coupling = nn.Parameter(0.1 * torch.randn(self.dim, rank).to(self.start) / rank**0.5)

    def distribution(self):
        """The Gaussian of the stacked vector."""
        scale = SCALE_FLOOR + F.softplus(self.raw_scale)
        return dist.LowRankMultivariateNormal(self.loc, scale.unsqueeze(-1) * self.coupling, scale**2)
