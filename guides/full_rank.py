r"""Full-rank guide: one Gaussian over all latents in unconstrained space, with every correlation.

.. math:: q_u(u) = N(u;\ \mu,\ L L^\top), \qquad L = \mathrm{diag}(s)\,(I + C),\ C \text{ strictly lower triangular}

Source: Kucukelbir et al. (2017), https://arxiv.org/abs/1603.00788.
Differs from the paper: scales s apart from the couplings C, so that one learning rate serves sites of any unit.
"""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn

from .example_data import inverse_softplus
from .joint import Joint
from .mean_field import SCALE_FLOOR


class FullRank(Joint):
    """A multivariate Gaussian over the stacked latents: dim (dim + 3) / 2 parameters.

    :param model, model_args, model_kwargs: as for :class:`~pyrarchy.guides.joint.Joint`.
    :param float init_scale: first standard deviation of every entry; entries start uncoupled.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.guides.full_rank import FullRank
    >>> def model(y):
    ...     tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    ...     with pyro.plate("school", 3):
    ...         theta = pyro.sample("theta", dist.Normal(0.0, tau))
    ...         pyro.sample("y", dist.Normal(theta, 1.0), obs=y)
    >>> guide = FullRank(model, torch.zeros(3))
    >>> {name: tuple(p.shape) for name, p in guide.named_parameters()}
    {'loc': (4,), 'raw_scale': (4,), 'coupling': (6,)}
    """

    def __init__(self, model, *model_args, init_scale=0.1, **model_kwargs):
        super().__init__(model, *model_args, **model_kwargs)
        if not init_scale > SCALE_FLOOR:
            raise ValueError(f"init_scale must be above {SCALE_FLOOR}, not {init_scale!r}")
        n = self.dim
        self.loc = nn.Parameter(self.start.clone())
        self.raw_scale = nn.Parameter(torch.full_like(self.start, inverse_softplus(init_scale - SCALE_FLOOR)))
        self.coupling = nn.Parameter(self.start.new_zeros(n * (n - 1) // 2))

    def distribution(self):
        """The Gaussian of the stacked vector."""
        return dist.MultivariateNormal(self.loc, scale_tril=scale_tril(self.raw_scale, self.coupling))


def scale_tril(raw_scale, coupling):
    """The Cholesky factor diag(s) (I + C).

    :param raw_scale: (..., n), s before its softplus and floor.
    :param coupling: (..., n (n - 1) / 2), C row by row.
    :returns: (..., n, n) lower triangular.
    """
    n = raw_scale.shape[-1]
    row, column = torch.tril_indices(n, n, -1, device=raw_scale.device)
    unit = torch.eye(n, dtype=raw_scale.dtype, device=raw_scale.device).expand(*raw_scale.shape, n)
    unit = unit.clone()
    unit[..., row, column] = coupling
    return (SCALE_FLOOR + F.softplus(raw_scale)).unsqueeze(-1) * unit
