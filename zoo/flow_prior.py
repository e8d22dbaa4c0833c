r"""A prior made of a normalising flow: a standard normal pushed through the inverse of masked autoregressive steps.

.. math:: \log p(z) = \log N(\epsilon; 0, I) + \sum_t \sum_d a_{td}, \qquad
          \epsilon = f_T \circ \dots \circ f_1(z), \quad f_t(v) = m_t(v) + e^{a_t(v)} \odot v

with m_t, a_t of entry d functions of the entries before it; the order is reversed between steps. The direction from z to
the normal is the cheap one (one pass a step), because a prior scores the *guide's* samples; to sample from it costs a
sequential pass an entry and step.

Source: Papamakarios, Pavlakou & Murray (2017), https://arxiv.org/abs/1705.07057; as a VAE's prior: Chen et al. (2017),
https://arxiv.org/abs/1611.02731.
Differs from the papers: no batch normalisation between steps, and the affine part is m + e^a v rather than (v - m) e^-a.
"""

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
import torch.nn.functional as F
from pyro.distributions.transforms.utils import clamp_preserve_gradients
from pyro.nn import AutoRegressiveNN
from torch import nn

from .networks import standard_normal


class AffineStep(T.AffineAutoregressive):
    """Pyro's step, with an inverse that keeps the dtype (Pyro's starts from zeros of the default one)."""

    def _inverse(self, y):
        x = torch.zeros_like(y)
        for i in self.arn.get_permutation():
            mean, log_scale = self.arn(x)
            log_scale = clamp_preserve_gradients(log_scale, self.log_scale_min_clip, self.log_scale_max_clip)
            entry = F.one_hot(i, y.shape[-1]).bool()
            x = torch.where(entry, (y - mean) * (-log_scale).exp(), x)
        self._cached_log_scale = log_scale
        return x


class FlowPrior(nn.Module):
    """The top layer's prior, for the argument ``top`` of a hierarchy. A fresh one is near N(0, I).

    :param int dim: dimension of the layer, two or more.
    :param int steps: autoregressive steps.
    :param hidden: widths of each step's masked network; at least ``dim`` each.

    >>> import torch
    >>> prior = FlowPrior(3, steps=2, hidden=(8,))(torch.zeros(5, 6))
    >>> prior.batch_shape, prior.event_shape, prior.log_prob(torch.zeros(5, 3)).shape
    (torch.Size([]), torch.Size([3]), torch.Size([5]))
    """

    def __init__(self, dim, steps=2, hidden=(64,)):
        super().__init__()
        if dim < 2:
            raise ValueError(
                f"a flow prior needs dim >= 2, not {dim}: an affine step leaves one Gaussian entry a Gaussian"
            )
        if steps < 1:
            raise ValueError(f"a flow prior needs at least one step, not {steps}; without any it would be N(0, I)")
        if not hidden or min(hidden) < dim:
            raise ValueError(f"hidden must hold widths of at least dim = {dim}, not {tuple(hidden)}: masks need it")
        self.dim = dim
        order = torch.arange(dim)
        self.steps = nn.ModuleList()
        for step in range(steps):
            permutation = order if step % 2 == 0 else order.flip(0)
            made = AutoRegressiveNN(dim, list(hidden), permutation=permutation, nonlinearity=nn.ELU())
            with torch.no_grad():
                for parameter in made.layers[-1].parameters():
                    parameter.mul_(0.01)
            self.steps.append(AffineStep(made))

    def forward(self, like):
        """The flow's distribution, of event shape (dim,), on the device and of the dtype of ``like``."""
        return dist.TransformedDistribution(
            standard_normal(like, self.dim), [step.inv for step in reversed(self.steps)]
        )
