r"""Linear regression with an intercept for each group, which a predictor of the groups explains in part.

.. math:: \gamma_0, \gamma_1, \beta \sim N(0, 2), \quad \sigma_\alpha, \sigma_y \sim \mathrm{HalfNormal}(1), \quad
          \alpha_j = \gamma_0 + \gamma_1 u_j + \sigma_\alpha \epsilon_j, \ \epsilon_j \sim N(0, 1), \quad
          y_i \sim N(\alpha_{j(i)} + \beta x_i, \sigma_y)

Source: Gelman & Hill (2007), Data analysis using regression and multilevel/hierarchical models, chapter 12,
https://doi.org/10.1017/CBO9780511790942.
Differs from the book: proper priors on coefficients and scales where it has flat ones, and intercepts that are not centred.
"""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from pyro.poutine.util import is_validation_enabled


class VaryingIntercept(PyroModule):
    """Sites ``gamma`` (2), ``beta``, ``sigma_alpha``, ``sigma_y`` (global); ``epsilon``, ``alpha`` (deterministic) in
    plate ``county``; ``y`` in plate ``house``.

    :param int num_groups: J, the number of groups.
    :param int subsample_size: rows per pass in training mode, drawn anew in every pass and scaled up to all; ``None`` for
        all. In evaluation all are taken. Bounds per datum need all; Pyro's ``Trace_ELBO`` takes a subsample.
    :param float coefficient_scale: scale of the priors on gamma and beta. ``scale_scale``: of those on both sigmas.

    >>> import torch
    >>> from pyro import poutine
    >>> from pyrarchy.zoo import VaryingIntercept
    >>> y, x, u = torch.zeros(5), torch.ones(5), torch.tensor([0.3, 0.3, 1.2, -0.5, -0.5])
    >>> trace = poutine.trace(VaryingIntercept(3)).get_trace(y, x, torch.tensor([0, 0, 1, 2, 2]), u)
    >>> trace.nodes["alpha"]["value"].shape
    torch.Size([3])
    """

    GROUP, ROW = "county", "house"

    def __init__(self, num_groups, *, subsample_size=None, coefficient_scale=2.0, scale_scale=1.0):
        super().__init__("model")
        self.num_groups, self.subsample_size = num_groups, subsample_size
        self.coefficient_scale, self.scale_scale = coefficient_scale, scale_scale

    def forward(self, y, x, group, u):
        """All rows, also where a pass takes a subsample of them.

        :param y: (N,) outcomes. :param x: (N,) predictor of a row. :param group: (N,) integers below J.
        :param u: (N,) predictor of the row's group, equal in all rows of it.
        :raises ValueError: for arguments that are not aligned, a group outside 0 ... J - 1, or one without a row.
        """
        u = self.group_predictor(y, x, group, u)
        zero = y.new_zeros(())
        gamma = pyro.sample("gamma", dist.Normal(y.new_zeros(2), self.coefficient_scale).to_event(1))
        beta = pyro.sample("beta", dist.Normal(zero, self.coefficient_scale))
        sigma_alpha = pyro.sample("sigma_alpha", dist.HalfNormal(zero + self.scale_scale))
        sigma_y = pyro.sample("sigma_y", dist.HalfNormal(zero + self.scale_scale))
        with pyro.plate(self.GROUP, self.num_groups, dim=-1):
            epsilon = pyro.sample("epsilon", dist.Normal(zero, 1.0))
            alpha = pyro.deterministic("alpha", gamma[..., 0] + gamma[..., 1] * u + sigma_alpha * epsilon)
        size = self.subsample_size if self.training else None
        with pyro.plate(self.ROW, y.shape[0], subsample_size=size, dim=-1) as rows:
            mean = alpha[..., group[rows]] + beta * x[rows]
            pyro.sample("y", dist.Normal(mean, sigma_y), obs=y[rows])

    def group_predictor(self, y, x, group, u):
        """The predictor of each group, (J,), from that of its rows."""
        shapes = {name: tuple(part.shape) for name, part in (("y", y), ("x", x), ("group", group), ("u", u))}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"site 'y': the arguments have shapes {shapes}; give one entry per row in each")
        if is_validation_enabled():  # it reads values, which a recorded step cannot
            counts = group.bincount(minlength=self.num_groups)
            if len(counts) != self.num_groups or bool((counts == 0).any()):
                raise ValueError(
                    f"site 'epsilon': the model was made for {self.num_groups} groups, and the rows are of "
                    f"{int((counts > 0).sum())}, numbered up to {int(group.max())}: make it for these data"
                )
        return u.new_zeros(self.num_groups).index_put((group,), u)
