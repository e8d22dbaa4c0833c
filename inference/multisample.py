r"""Bounds that cut M K importance weights in several ways: MIWAE, CIWAE, PIWAE, the jackknife and the thermodynamic one.

.. math:: \mathrm{MIWAE}(M,K) = \tfrac1M \sum_m \mathcal L_K^{(m)}, \qquad
          \mathrm{CIWAE}(\beta,K) = \beta\, \mathrm{ELBO} + (1-\beta) \mathcal L_K

Source: Rainforth et al. (2018), https://arxiv.org/abs/1802.04537 (MIWAE, CIWAE, PIWAE); Nowozin (2018),
https://openreview.net/forum?id=HyZoi-WRb (jackknife); Masrani, Le & Wood (2019), https://arxiv.org/abs/1907.00031 (TVO).
"""

import math

import torch

from .weight_bound import WeightBound, log_mean_exp


class MIWAE(WeightBound):
    """The mean of M independent importance-weighted bounds of K samples each: MIWAE(M, 1) is the ELBO, MIWAE(1, K) L_K.

    :param int m: M bounds; a lower variance of the gradient.
    :param int k: K samples each; a tighter bound.
    """

    def __init__(self, m, k, plates=1, estimator=None):
        for name, value in (("m", m), ("k", k)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        super().__init__(m * k, plates, estimator)
        self.m, self.k = m, k

    @property
    def normalised(self):
        """Whether each group has two samples or more."""
        return self.k > 1

    def of_weights(self, log_w):
        """Mean over groups of log-mean-exp; (B,). The corners are the ELBO and L_K to the last bit."""
        if self.m == 1:
            return log_mean_exp(log_w, 0)
        if self.k == 1:
            return log_w.mean(0)
        return log_mean_exp(log_w.reshape(self.m, self.k, -1), 1).mean(0)

    def _group_weights(self, log_w):
        return log_w.reshape(self.m, self.k, -1).softmax(1)

    def gradient(self, log_w, guide=False):
        """Weights normalised within each group, over M."""
        return self._group_weights(log_w).reshape(log_w.shape) / self.m

    def curvature(self, log_w):
        """w (1 - w) / M within each group."""
        w = self._group_weights(log_w)
        return (w * (1 - w)).reshape(log_w.shape) / self.m

    @classmethod
    def _shown(cls):
        return ("m", "k")


class PIWAE(MIWAE):
    """theta on L_MK, phi on MIWAE(M, K): the guide keeps its signal while the model enjoys the tighter bound.

    The value reported is L_MK, the bound that theta follows.
    """

    split = True

    def of_weights(self, log_w):
        """L_MK; (B,)."""
        return log_mean_exp(log_w, 0)

    def of_weights_for_guide(self, log_w):
        """MIWAE(M, K); (B,)."""
        return super().of_weights(log_w)

    def gradient(self, log_w, guide=False):
        """Normalised over all M K for theta, within groups for phi."""
        return super().gradient(log_w) if guide else log_w.softmax(0)


class CIWAE(WeightBound):
    """A convex combination of the ELBO and L_K: CIWAE(1) is the ELBO, CIWAE(0) is L_K.

    :param float beta: weight of the ELBO, in [0, 1].
    :param int num_particles: K, the samples per datum.
    """

    def __init__(self, beta, num_particles, plates=1, estimator=None):
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], not {beta!r}")
        super().__init__(num_particles, plates, estimator)
        self.beta = float(beta)

    def of_weights(self, log_w):
        """beta mean + (1 - beta) log-mean-exp; (B,). The corners are the other bounds to the last bit."""
        if self.beta == 1.0:
            return log_w.mean(0)
        if self.beta == 0.0:
            return log_mean_exp(log_w, 0)
        return self.beta * log_w.mean(0) + (1 - self.beta) * log_mean_exp(log_w, 0)

    def gradient(self, log_w, guide=False):
        """beta / K + (1 - beta) w."""
        return self.beta / len(log_w) + (1 - self.beta) * log_w.softmax(0)

    def curvature(self, log_w):
        """(1 - beta) w (1 - w)."""
        w = log_w.softmax(0)
        return (1 - self.beta) * w * (1 - w)

    @classmethod
    def _shown(cls):
        return ("beta", "num_particles")


class Jackknife(WeightBound):
    """First-order jackknife correction of L_K: bias of order 1/K^2, and not a lower bound.

    :param int num_particles: K >= 2.
    """

    is_lower_bound = False

    def __init__(self, num_particles, plates=1, estimator=None):
        if num_particles < 2:
            raise ValueError(
                f"the jackknife leaves one sample out: num_particles must be at least 2, not {num_particles}"
            )
        super().__init__(num_particles, plates, estimator)

    def of_weights(self, log_w):
        """K L_K - (K - 1) mean_k L_{K-1} without k; (B,)."""
        k, shift = len(log_w), log_w.detach().amax(0)  # K times a number of hundreds of nats would lose its digits
        log_w = log_w - shift
        return shift + k * log_mean_exp(log_w, 0) - (k - 1) * leave_one_out(log_w).mean(0)


class Thermodynamic(WeightBound):
    """The thermodynamic variational objective: a left Riemann sum of E_{pi_beta} log w over beta in [0, 1].

    With self-normalised weights the sums are Riemann sums of the derivative of log mean_k w_k^beta, which is convex: the
    left sum lies below L_K, so it is a lower bound for every K (one interval is the ELBO); the right sum lies above L_K,
    and above log p(x) only as K grows.

    :param int intervals: number of intervals, log-spaced in beta after the first.
    :param int num_particles: K, the samples per datum.
    :param bool upper: take the right sum.
    """

    def __init__(self, intervals, num_particles, plates=1, estimator=None, upper=False):
        if not isinstance(intervals, int) or intervals < 1:
            raise ValueError(f"intervals must be a positive integer, not {intervals!r}")
        super().__init__(num_particles, plates, estimator)
        self.intervals, self.upper = intervals, upper
        inner = [10 ** (-1.5 * (1 - i / (intervals - 1))) for i in range(intervals - 1)]
        self.betas = [0.0, *inner, 1.0]

    @property
    def is_lower_bound(self):
        """Whether it is the left sum."""
        return not self.upper

    def of_weights(self, log_w):
        """Riemann sum of the tempered means of log w; (B,)."""
        total = 0.0
        for low, high in zip(self.betas[:-1], self.betas[1:], strict=True):
            beta = high if self.upper else low
            total = total + (high - low) * ((beta * log_w).softmax(0) * log_w).sum(0)
        return total

    @classmethod
    def _shown(cls):
        return ("intervals", "num_particles", "upper")


def leave_one_out(log_w):
    """L_{K-1} without each sample in turn: (K, B) from (K, B), without the cancellation of a difference of sums."""
    k = len(log_w)
    without = torch.eye(k, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    return log_w.unsqueeze(0).masked_fill(without, -math.inf).logsumexp(1) - math.log(k - 1)
