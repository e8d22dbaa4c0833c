r"""Exact inference in a linear-Gaussian chain with scalar observations: Kalman filter, RTS smoother, and messages.

.. math::

    z_1 \sim N(m_1, L_1 L_1^\top), \quad z_t \mid z_{t-1} \sim N(A z_{t-1}, L L^\top), \quad
    x_t \mid z_t \sim N(d + c^\top z_t, r^2)

Covariances do not depend on the data, so they are computed once, in float64 and in Joseph's form, whose terms are all
positive: a prior a million times as wide as the noise loses no digits.

Source: Kalman (1960), https://doi.org/10.1115/1.3662552; Rauch, Tung and Striebel (1965),
https://doi.org/10.2514/3.3166; Durbin and Koopman (2012), Time Series Analysis by State Space Methods, Oxford.
"""

from typing import NamedTuple

import torch

LOG_2PI = 1.8378770664093453


class System(NamedTuple):
    """A chain's parameters: ``initial_loc`` (K,), ``initial_tril`` (K, K), ``transition`` A (K, K), ``noise_tril`` L
    (K, K), ``loading`` c (K,), ``offset`` d () and ``scale`` r ()."""

    initial_loc: torch.Tensor
    initial_tril: torch.Tensor
    transition: torch.Tensor
    noise_tril: torch.Tensor
    loading: torch.Tensor
    offset: torch.Tensor
    scale: torch.Tensor

    def double(self):
        """The same in float64."""
        return System(*(part.double() for part in self))


class Filtered(NamedTuple):
    """Moments of p(z_t | x_1..t): ``mean`` (B, T, K), ``covariance`` (T, K, K); those of p(z_t | x_1..t-1) likewise
    ``predicted_mean``, ``predicted_covariance``; ``log_p`` (B, T) the log p(x_t | x_1..t-1), in nats."""

    mean: torch.Tensor
    covariance: torch.Tensor
    predicted_mean: torch.Tensor
    predicted_covariance: torch.Tensor
    log_p: torch.Tensor


def kalman_filter(system, x):
    """Filter ``x`` (B, T) forward; returns :class:`Filtered` in float64."""
    system, x = system.double(), x.double()
    a, c, noise = system.transition, system.loading, system.noise_tril @ system.noise_tril.mT
    mean = system.initial_loc.expand(len(x), -1)
    covariance = system.initial_tril @ system.initial_tril.mT
    eye, kept = torch.eye(len(c), dtype=c.dtype, device=c.device), []
    for t in range(x.shape[1]):
        if t:
            mean, covariance = mean @ a.mT, a @ covariance @ a.mT + noise
        ahead = mean, covariance
        variance = c @ covariance @ c + system.scale**2
        gain, error = covariance @ c / variance, x[:, t] - system.offset - mean @ c
        left = eye - torch.outer(gain, c)
        mean = mean + error[:, None] * gain
        covariance = left @ covariance @ left.mT + system.scale**2 * torch.outer(gain, gain)
        log_p = -0.5 * (LOG_2PI + variance.log() + error.square() / variance)
        kept.append((mean, covariance, *ahead, log_p))
    means, covariances, ahead, spread, log_p = zip(*kept, strict=True)
    return Filtered(
        torch.stack(means, 1),
        torch.stack(covariances),
        torch.stack(ahead, 1),
        torch.stack(spread),
        torch.stack(log_p, 1),
    )


def rts_smoother(system, filtered):
    """Moments of p(z_t | x_1..T): means (B, T, K) and covariances (T, K, K), in float64."""
    a = system.double().transition
    means, covariances = [filtered.mean[:, -1]], [filtered.covariance[-1]]
    for t in range(len(filtered.covariance) - 2, -1, -1):
        ahead = filtered.predicted_covariance[t + 1]
        gain = torch.linalg.solve(ahead, a @ filtered.covariance[t]).mT
        means.append(filtered.mean[:, t] + (means[-1] - filtered.predicted_mean[:, t + 1]) @ gain.mT)
        covariances.append(filtered.covariance[t] + gain @ (covariances[-1] - ahead) @ gain.mT)
    return torch.stack(means[::-1], 1), torch.stack(covariances[::-1])


def backward_messages(system, x):
    r"""What the data from t on say of z_t, as Gaussian factors :math:`\exp(-z^\top \Lambda_t z / 2 + z^\top \eta_t)`.

    :returns: precisions Lambda (T, K, K) and potentials eta (B, T, K), both in float64; the last is that of x_T alone.
    """
    system, x = system.double(), x.double()
    a, c, tril = system.transition, system.loading, system.noise_tril
    own, residual = torch.outer(c, c) / system.scale**2, (x - system.offset) / system.scale**2
    precision, potential = own, residual[:, -1, None] * c
    precisions, potentials = [precision], [potential]
    eye = torch.eye(len(c), dtype=c.dtype, device=c.device)
    for t in range(x.shape[1] - 2, -1, -1):
        # z' = A z + L e, and e is integrated out; I + L' Lambda L is never singular, even where Lambda is
        inner = torch.linalg.solve(eye + tril.mT @ precision @ tril, tril.mT)
        shrink = a.mT @ (eye - precision @ tril @ inner)
        precision, potential = own + shrink @ precision @ a, residual[:, t, None] * c + potential @ shrink.mT
        precisions.append(precision)
        potentials.append(potential)
    return torch.stack(precisions[::-1]), torch.stack(potentials[::-1], 1)
