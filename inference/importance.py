r"""Bounds from K importance weights per datum: IWAE, Renyi and its limit VR-max.

.. math:: \mathcal L_K = \mathbb E\Big[\log \tfrac1K \sum_k w_k\Big], \qquad
          \mathcal L_{\alpha,K} = \tfrac1{1-\alpha}\, \mathbb E\Big[\log \tfrac1K \sum_k w_k^{1-\alpha}\Big]

Source: Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519; Li & Turner (2016),
https://arxiv.org/abs/1602.02311.
"""

import math

from .bound import Bound


class WeightBound(Bound):
    """A bound that is a function of the importance weights alone, one datum at a time; refuses temperatures."""

    def check(self, terms):
        super().check(terms)
        if terms.temperature:
            raise ValueError(
                f"{type(self).__name__} under a temperature (site(s) {sorted(terms.temperature)}) would bound another "
                "quantity than log p(x): its weights would be tempered inside the log. Warm up with ELBO, or drop it."
            )


class ImportanceWeighted(WeightBound):
    """The importance-weighted bound L_K: non-decreasing in K, the ELBO at K = 1, log p(x) in the limit.

    :param int num_particles: K, the samples per datum.
    """

    def reduce(self, terms):
        """log-mean-exp over particles; (B,)."""
        return terms.log_w.logsumexp(0) - math.log(self.num_particles)


class Renyi(WeightBound):
    """The variational Renyi bound by K samples: alpha = 1 is the ELBO, alpha = 0 is L_K.

    For alpha >= 0 it is at most log p(x) in expectation: between L_alpha and the ELBO on either side of alpha = 1.
    For alpha < 0 it is not a lower bound and says so.

    :param float alpha: any real number.
    :param int num_particles: K, the samples per datum.
    """

    def __init__(self, alpha, num_particles=1, plates=1):
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite, not {alpha!r}; the limit alpha -> -inf is VRMax")
        super().__init__(num_particles, plates)
        self.alpha = float(alpha)

    @property
    def is_lower_bound(self):
        """Whether alpha >= 0."""
        return self.alpha >= 0

    def reduce(self, terms):
        """Power mean of the weights on the log scale; (B,)."""
        if self.alpha == 1.0 or self.num_particles == 1:  # one particle: the ELBO to the last bit
            return terms.log_w.mean(0)
        power = 1.0 - self.alpha
        return ((power * terms.log_w).logsumexp(0) - math.log(self.num_particles)) / power

    @classmethod
    def _shown(cls):
        return ("alpha", "num_particles")


class VRMax(WeightBound):
    """The largest of K log-weights, the limit alpha -> -inf of :class:`Renyi`: fast, and not a lower bound."""

    is_lower_bound = False

    def reduce(self, terms):
        """Maximum over particles; (B,)."""
        return terms.log_w.amax(0)
