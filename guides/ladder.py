r"""Ladder guide: bottom-up evidence and the model's own top-down prior, combined by their precisions.

.. math:: \sigma^{-2} = \sigma_p^{-2} + \hat\sigma^{-2}, \qquad
          \mu = \sigma^2 (\mu_p \sigma_p^{-2} + \hat\mu \hat\sigma^{-2})

The prior at each site arrives from the model, already conditioned on the samples above: the top-down pass is shared
and runs once, so "Ladder VAE" is ``MarkovHVAE`` with this guide. On linear-Gaussian trees it is the exact posterior.

Source: Sonderby et al. (2016), https://arxiv.org/abs/1602.02282.
Differs from the paper: scales have a floor and no batch normalisation is implied.
"""

import pyro.distributions as dist
import torch

from .amortized import Amortized


def precision_weighted(prior, evidence):
    """The normalised product of two diagonal Gaussian densities.

    :param prior, evidence: Normals, possibly wrapped by ``to_event``; batch shapes broadcast.
    :returns: Normal with the prior's event dimensions.

    >>> import pyro.distributions as dist
    >>> q = precision_weighted(dist.Normal(0.0, 1.0), dist.Normal(3.0, 2.0**0.5))
    >>> round(q.loc.item(), 4), round(q.variance.item(), 4)
    (1.0, 0.6667)
    """
    mu_p, scale_p = normal_parameters(prior)
    mu_e, scale_e = normal_parameters(evidence)
    # sigma_p^2 sigma_e^2 / (sigma_p^2 + sigma_e^2) without forming the precisions, which overflow for small scales
    total = (scale_p**2 + scale_e**2).sqrt()
    share = (scale_p / total) ** 2
    return dist.Normal(mu_p + share * (mu_e - mu_p), scale_p * scale_e / total).to_event(prior.event_dim)


def normal_parameters(distribution):
    """Mean and scale of a Normal under any ``to_event`` and ``expand``; TypeError for anything else."""
    base = distribution
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if not isinstance(base, torch.distributions.Normal):
        raise TypeError(f"a diagonal Normal is needed, not {type(base).__name__}")
    return base.loc, base.scale


class Ladder(Amortized):
    """Evidence alone at the top site, its precision-weighted product with the prior below.

    :param model: a model whose latent sites are diagonal Gaussians given those above.
    :param encoder: module mapping the data to a dictionary site -> diagonal Normal of batch shape (B,).
    """

    def posterior(self, name, prior):
        """The product of evidence and prior; refuses, by name, a site that is not Gaussian."""
        evidence = self.message(name)
        if self.is_top():
            return evidence
        try:
            return precision_weighted(prior, evidence)
        except TypeError as error:
            raise ValueError(f"site '{name}': the ladder multiplies Gaussian densities, but {error}.") from None
