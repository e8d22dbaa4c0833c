r"""Bounds from K importance weights per datum: IWAE, Renyi and its limit VR-max.

.. math:: \mathcal L_K = \mathbb E\Big[\log \tfrac1K \sum_k w_k\Big], \qquad
          \mathcal L_{\alpha,K} = \tfrac1{1-\alpha}\, \mathbb E\Big[\log \tfrac1K \sum_k w_k^{1-\alpha}\Big]

Source: Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519; Li & Turner (2016),
https://arxiv.org/abs/1602.02311.
"""

import math

import torch

from .weight_bound import WeightBound, log_mean_exp


class ImportanceWeighted(WeightBound):
    """The importance-weighted bound L_K: non-decreasing in K, the ELBO at K = 1, log p(x) in the limit.

    :param int num_particles: K, the samples per datum.
    """

    normalised = True

    def of_weights(self, log_w):
        """log-mean-exp over particles; (B,)."""
        return log_mean_exp(log_w, 0)

    def gradient(self, log_w, guide=False):
        """The normalised weights."""
        return log_w.softmax(0)

    def curvature(self, log_w):
        """w (1 - w)."""
        w = log_w.softmax(0)
        return w * (1 - w)


class Renyi(WeightBound):
    """The variational Renyi bound by K samples: alpha = 1 is the ELBO, alpha = 0 is L_K.

    For alpha >= 0 it is at most log p(x) in expectation: between L_alpha and the ELBO on either side of alpha = 1.
    For alpha < 0 it is not a lower bound and says so.

    :param float alpha: any real number.
    :param int num_particles: K, the samples per datum.
    """

    def __init__(self, alpha, num_particles=1, plates=1, estimator=None):
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite, not {alpha!r}; the limit alpha -> -inf is VRMax")
        super().__init__(num_particles, plates, estimator)
        self.alpha = float(alpha)

    @property
    def is_lower_bound(self):
        """Whether alpha >= 0."""
        return self.alpha >= 0

    def of_weights(self, log_w):
        """Power mean of the weights on the log scale; (B,)."""
        if self.alpha == 1.0 or len(log_w) == 1:  # one particle: the ELBO to the last bit
            return log_w.mean(0)
        power = 1.0 - self.alpha
        if abs(power) >= 0.01:
            return log_mean_exp(power * log_w, 0) / power
        mean = log_w.mean(0)  # near the ELBO the logarithm is of one plus little: keep its digits
        return mean + torch.expm1(power * (log_w - mean)).mean(0).log1p() / power

    def gradient(self, log_w, guide=False):
        """The normalised weights to the power 1 - alpha."""
        return ((1.0 - self.alpha) * log_w).softmax(0)

    def curvature(self, log_w):
        """(1 - alpha) w (1 - w)."""
        w = self.gradient(log_w)
        return (1.0 - self.alpha) * w * (1 - w)

    @classmethod
    def _shown(cls):
        return ("alpha", "num_particles")


class VRMax(WeightBound):
    """The largest of K log-weights, the limit alpha -> -inf of :class:`Renyi`: fast, and not a lower bound."""

    is_lower_bound = False
    kinked = True

    def of_weights(self, log_w):
        """Maximum over particles; (B,)."""
        return log_w.amax(0)
