r"""The evidence lower bound, with sampled or analytic KL, and with free bits.

.. math:: \mathcal L(x) = \mathbb E_{q(z|x)}\left[\log p(x|z) + \sum_i \log p(z_i|\cdot) - \log q(z_i|\cdot)\right]

Source: Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; free bits: Kingma et al. (2016),
https://arxiv.org/abs/1606.04934.
"""

import torch
from pyro.distributions.util import scale_and_mask
from torch.distributions import kl_divergence

from .bound import Bound
from .weight_bound import WeightFunction


class ELBO(WeightFunction):
    """The ELBO with a sampled KL: right for every pair. Obeys temperatures (see :class:`~pyrarchy.inference.Temper`)."""

    def of_weights(self, log_w):
        """Mean over particles; (B,)."""
        return log_w.mean(0)

    def gradient(self, log_w, guide=False):
        """1 / K for each."""
        return log_w.new_full(log_w.shape, 1 / len(log_w))

    def curvature(self, log_w):
        """Zero: the ELBO is linear in the log-weights."""
        return log_w.new_zeros(log_w.shape)

    def reduce(self, terms):
        """Mean over particles of log_lik + log p - log q; (B,)."""
        return self.of_weights(terms.tempered_log_w() if terms.is_tempered else terms.log_w)


class KLBound(Bound):
    """Base of objectives with one KL per latent site; refuses pairs in which a site's terms are not a KL."""

    def check(self, terms):
        super().check(terms)
        sites = terms.paired_sites()
        if not terms.top_down:
            raise ValueError(
                f"the guide samples {list(terms.q)} but the model {sites}: the terms of a site given different samples "
                "are not the KL of the bound. Use ELBO (sampled KL), which is right for any order."
            )
        for name in sites:
            masks = [True if m is None else m for m in (terms.sites[name]["mask"], terms.guide_sites[name]["mask"])]
            if masks[0] is not masks[1] and not (torch.as_tensor(masks[0]) == torch.as_tensor(masks[1])).all():
                raise ValueError(
                    f"site '{name}' is masked differently in model and guide, so its terms are no KL. Use ELBO."
                )


class AnalyticELBO(KLBound):
    r"""The ELBO with each site's KL in closed form, given the samples above it (less variance, same expectation).

    .. math:: \mathbb E_q\Big[\log p(x|z) - \sum_i KL\big(q(z_i|z_{>i},x)\,\|\,p(z_i|z_{>i})\big)\Big]

    Right only where the guide samples the latents in the model's order, because both sides of each KL must be given
    the same samples. A bottom-up guide is refused (Pyro's ``TraceMeanField_ELBO`` only warns and is wrong).
    """

    def reduce(self, terms):
        """Mean over particles of log_lik - sum of KLs; (B,)."""
        value = sum(terms.tempered(n, v) for n, v in terms.log_obs.items())
        for name in terms.log_p:
            value = value - terms.tempered(name, analytic_kl(terms, name))
        return value.mean(0)


def analytic_kl(terms, name):
    """KL(q || p) of one site given the samples above it, (K, B) nats; an error names the site without a closed form."""
    q, p = terms.q[name], terms.p[name]
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        raise ValueError(
            f"site '{name}': no closed-form KL between {type(q).__name__} and {type(p).__name__}. "
            "Use ELBO (sampled KL)."
        ) from None
    site = terms.sites[name]
    return terms.layout.table(scale_and_mask(kl, 1.0, site["mask"]), site)


class FreeBits(KLBound):
    r"""The ELBO with each layer's KL, averaged over the batch, held at a floor of ``free`` nats.

    .. math:: \log p(x|z) - \sum_i \max\Big(\lambda, \tfrac1{BK} \sum_{bk} \log\frac{q(z_i|\cdot)}{p(z_i|\cdot)}\Big)

    The floor removes the gradient of a layer whose rate is below it, so that the layer is not switched off early in
    training. It is an objective and not reported as a bound: its value depends on the batch, because the floor is on
    the batch mean, and it lies below the ELBO wherever a floor is active.

    :param float free: the floor in nats per layer (lambda).
    """

    is_lower_bound = False

    def __init__(self, free, num_particles=1, plates=1, estimator=None):
        if not free >= 0:
            raise ValueError(f"free must be a number of nats >= 0, not {free!r}")
        super().__init__(num_particles, plates, estimator)
        self.free = float(free)

    def reduce(self, terms):
        """log_lik minus the floored batch means, (B,); rows share the KL."""
        value = sum(terms.tempered(n, v) for n, v in terms.log_obs.items()).mean(0)
        for name in terms.paired_sites():
            rate = (terms.log_q[name] - terms.log_p[name]).mean()
            value = value - terms.tempered(name, torch.clamp(rate, min=self.free))
        return value

    @classmethod
    def _shown(cls):
        return ("free", "num_particles")
