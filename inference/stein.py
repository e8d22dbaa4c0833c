r"""Stein's identity of linear decoders: a check of a guide against the truth that needs no exact posterior.

.. math:: M = \frac1N \sum_n E_{q(z|x_n)}\left[z \, \nabla_z \ln r(z)^\top\right], \qquad
          M = -I \text{ for } q = p(z | x) \text{ at every stationary point of the likelihood}

It holds where x depends on z through W z alone, W free and z with the same prior r for all data, smooth but for kinks and
positive on all of R^K. (Moving W to W A is moving r; the derivative of the likelihood in A is then M + I.) A Gaussian
prior's average posterior so has second moment I exactly, and a Laplace(b) prior's E|z_k| = b, while other moments differ.

What a violation says: with a mean-field guide trained *jointly* with W the diagonal still holds, because W and q rescale
together, and only the off-diagonal shows the guide's bias; with W held at the maximum likelihood both show it. Under a
constraint on W only the combinations that it leaves free hold (unit-norm columns and one code scale: the trace).

Source: the project's own use of Stein (1981), https://doi.org/10.1214/aos/1176345632, integration by parts.
"""

import math
from typing import NamedTuple

import torch
from torch.distributions import constraints

from .isolation import isolated
from .preflight import check_rows_known
from .terms import is_latent, make_terms, trace_pair


class SteinMatrix(NamedTuple):
    """The matrix (K, K) of a site with its Monte Carlo standard errors (K, K), both float64.

    Row i, column j is the mean of z_i d ln r / d z_j. The errors are those of the guide's draws for the data given.
    """

    value: torch.Tensor
    error: torch.Tensor


def stein_matrix(model, guide, x, site="z1", num_samples=100, *, seed=0, rows_per_pass=2000):
    """Estimate M of a site, to be held against -I.

    :param x: tensor (N, ...) or tuple of aligned tensors, the model's arguments: all data that W was fitted to.
    :param str site: a latent of plate ``data`` with event shape (K,) or ().
    :param int num_samples: S >= 2 draws of the guide per datum.
    :param int rows_per_pass: S x data in a pass, which bounds the memory.
    :returns: :class:`SteinMatrix`.
    :raises ValueError: for a site that is not there, not per datum, or whose prior has no density on all of R^K or is not
        the same for all data.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z1", dist.Laplace(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z1", dist.Normal(3.0, 0.01).expand([len(x)]))
    >>> value, error = stein_matrix(model, guide, torch.zeros(50))
    >>> value.shape, round(value.item(), 1)  # -E|z|
    (torch.Size([1, 1]), -3.0)
    """
    args = x if isinstance(x, tuple) else (x,)
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2 for an error, not {num_samples}")
    n = len(args[0])
    rows = max(1, rows_per_pass // num_samples)
    total = variance = 0.0
    with isolated(model, guide, seed=seed):
        for start in range(0, n, rows):
            part = tuple(a[start : start + rows] for a in args)
            z, score = _draws(model, guide, part, site, num_samples)
            mean = torch.einsum("sbi,sbj->bij", z, score) / num_samples
            square = torch.einsum("sbi,sbj->bij", z**2, score**2) / num_samples
            total = total + mean.sum(0)
            variance = variance + (square - mean**2).clamp(min=0.0).sum(0)
    return SteinMatrix(total / n, variance.sqrt() / (n * math.sqrt(num_samples - 1)))


def _draws(model, guide, args, site, num):
    """Draws of a site and the gradient of its log prior there, both (S, B, K) in float64."""
    with torch.no_grad():
        traces = trace_pair(model, guide, args, num_particles=num)
        check_rows_known(guide, traces[0].nodes)
        layout = make_terms(*traces, num_particles=num).layout
    node = traces[0].nodes.get(site)
    if node is None or not is_latent(node):
        found = sorted(name for name, n in traces[0].nodes.items() if is_latent(n))
        raise ValueError(f"the model has no latent site '{site}'; it has {found}")
    prior, event = node["fn"], tuple(node["fn"].event_shape)
    if layout.data_dim is None or not any(f.name == "data" for f in node["cond_indep_stack"]) or len(event) > 1:
        raise ValueError(
            f"site '{site}' has event shape {event} in plates {[f.name for f in node['cond_indep_stack']]}: Stein's "
            "identity is checked for a vector or a number per datum of plate 'data'"
        )
    support = prior.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is not constraints.real and support is not constraints.real_vector:
        raise ValueError(
            f"site '{site}': its prior has support {prior.support}; integration by parts needs a density on all of R^K"
        )
    with torch.enable_grad():
        z = node["value"].detach().requires_grad_()
        (score,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
        turned = z.detach().flip(0, 1).requires_grad_()  # other draws of other data, under the same prior
        (other,) = torch.autograd.grad(prior.log_prob(turned).sum(), turned)
    if not torch.allclose(score, other.flip(0, 1), rtol=1e-4, atol=1e-6):
        raise ValueError(
            f"site '{site}': its prior is not the same for all data (it depends on latents above it, or on the data), and "
            "the identity holds for one common prior. Give the top site, or a model without such a prior."
        )
    shape = (num, layout.batch, math.prod(event))
    return z.detach().double().reshape(shape), score.double().reshape(shape)
