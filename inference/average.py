r"""The average posterior against the prior: moments and marginals of where the guide puts the data, per unit.

.. math:: q(z) = \frac1N \sum_n q(z | x_n) \quad\text{against}\quad p(z)

For the true model, its own posterior and data from it the two are one. For a fitted model they are not: the likelihood's
stationary points fix some moments only (a Gaussian prior's second moment: see
:func:`~pyrarchy.inference.stein_matrix`), and every other moment says where the prior was not believed. All layers of a
hierarchy have an average posterior that can be drawn from, whether or not it is a mixture of densities at hand.

Source: Hoffman & Johnson (2016), ELBO surgery; the project's own use of moments.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .apply import encode, sample
from .isolation import isolated
from .terms import is_latent, trace_pair

CHUNK = 2**21  # numbers at once: 16 MiB


@dataclass(frozen=True)
class Moments:
    """Moments of D units and their standard errors over the data; arrays (D,) or (D, D).

    :ivar mean, covariance, correlation, kurtosis: the kurtosis is the excess over a Gaussian's.
    :ivar mean_error, covariance_error, correlation_error, kurtosis_error: data count as independent, draws of one do not.
    """

    mean: np.ndarray
    covariance: np.ndarray
    correlation: np.ndarray
    kurtosis: np.ndarray
    mean_error: np.ndarray
    covariance_error: np.ndarray
    correlation_error: np.ndarray
    kurtosis_error: np.ndarray


def moments(draws):
    """Moments of draws (S, N, D), S of each of N independent data; errors by the delta method.

    :returns: :class:`Moments`.

    >>> import numpy as np
    >>> found = moments(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 5, 1))
    >>> found.covariance.tolist(), found.kurtosis.round(2).tolist()
    ([[2.0]], [-1.3])
    """
    z = np.asarray(draws, np.float64)
    if z.ndim != 3 or z.shape[1] < 2:
        raise ValueError(f"draws must be (S, N, D) with N of two or more, not {z.shape}")
    n = z.shape[1]
    mean = z.mean((0, 1))
    u = z - mean
    covariance = np.einsum("sni,snj->ij", u, u, optimize=True) / (len(z) * n)
    scale = np.sqrt(np.maximum(covariance.diagonal(), np.finfo(float).tiny))
    u = u / scale
    correlation = covariance / np.outer(scale, scale)
    spread, spread_of_ratio = np.zeros((2, *covariance.shape))
    step = max(1, CHUNK // correlation.size)  # a datum's products are D x D
    for start in range(0, n, step):
        part = u[:, start : start + step]
        pair = np.einsum("sni,snj->nij", part, part, optimize=True) / len(z)
        own = pair.diagonal(axis1=1, axis2=2)
        spread += ((pair - correlation) ** 2).sum(0)
        spread_of_ratio += ((pair - 0.5 * correlation * (own[:, :, None] + own[:, None])) ** 2).sum(0)
    spread, spread_of_ratio = (np.sqrt(v / (n * (n - 1))) for v in (spread, spread_of_ratio))
    skew, fourth = (u**3).mean((0, 1)), (u**4).mean((0, 1))
    kurtosis = (u**4 - 4 * skew * u - 2 * fourth * (u**2 - 1) - fourth).mean(0)  # each datum's influence

    def error(influence):
        return influence.std(0, ddof=1) / math.sqrt(n)

    return Moments(
        mean,
        covariance,
        correlation,
        fourth - 3,
        error(z.mean(0)),
        spread * np.outer(scale, scale),
        spread_of_ratio,
        error(kurtosis),
    )


@dataclass(frozen=True)
class AveragePosterior:
    """A layer's average posterior beside its prior.

    :ivar str site: the layer.
    :ivar Moments posterior, prior: ``prior`` is None where it has no finite variance (a Cauchy's).
    :ivar draws, prior_draws: (S, N, D) and (M, D).
    """

    site: str
    posterior: Moments
    prior: Moments | None
    draws: np.ndarray
    prior_draws: np.ndarray

    def differences(self):
        """Posterior less prior, of mean, variance and kurtosis: name -> (difference (D,), its error (D,))."""
        if self.prior is None:
            raise ValueError(f"site '{self.site}': its prior has no finite variance, so no moments to differ from")
        out = {}
        for name in ("mean", "covariance", "kurtosis"):
            (a, b), (c, d) = (
                [np.diagonal(v) if v.ndim == 2 else v for v in (getattr(m, name), getattr(m, f"{name}_error"))]
                for m in (self.posterior, self.prior)
            )
            out["variance" if name == "covariance" else name] = a - c, np.hypot(b, d)
        return out

    def correlated(self):
        """(i, j, correlation, error) of the pair of units whose correlation is the most errors from zero; D >= 2."""
        r, e = self.posterior.correlation, self.posterior.correlation_error
        ratio = np.abs(np.triu(r / np.maximum(e, np.finfo(float).tiny), 1))
        i, j = np.unravel_index(ratio.argmax(), ratio.shape)
        return int(i), int(j), float(r[i, j]), float(e[i, j])

    def table(self, most=8):
        """The units as text, those of the largest kurtosis first, at most ``most`` of them."""
        size, n, units = self.draws.shape
        lines = [
            f"layer {self.site}: {n} data, {size} draws each; errors over the data",
            f"{'unit':<6}{'mean':>18}{'variance':>18}{'excess kurtosis':>20}",
        ]

        def row(label, m, i):
            cells = ((m.mean, m.mean_error), *((np.diagonal(v) for v in (m.covariance, m.covariance_error)),))
            cells = [f"{v[i]:>9.3f} +- {e[i]:.3f}" for v, e in (*cells, (m.kurtosis, m.kurtosis_error))]
            return f"{label:<6}" + "".join(f"{c:>18}" for c in cells)

        order = np.argsort(-np.abs(self.posterior.kurtosis))[:most]
        lines += [row(str(i), self.posterior, i) for i in order]
        lines.append(row("prior", self.prior, 0) if self.prior else "prior  has no finite variance")
        if units > 1:
            lines.append("most surely correlated: units {} and {}, {:+.3f} +- {:.3f}".format(*self.correlated()))
        return "\n".join(lines)


def average_posterior(model, guide, data, site=None, *, num_samples=20, prior_samples=20_000, seed=0):
    """Draw a layer's average posterior and its prior, and take their moments.

    :param data: tensor (N, ...) or tuple of aligned tensors, the model's arguments.
    :param str site: a latent of the data's plate, of any layer; may be left out where the model has one latent.
    :param int num_samples: S draws for each datum; errors are over data, so that few suffice.
    :param int prior_samples: M draws of the prior, from the model itself (layers above are drawn, too).
    :returns: :class:`AveragePosterior`.
    :raises ValueError: naming the site, when the model lacks it or has it outside the data's plate.
    """
    args = data if isinstance(data, tuple) else (data,)
    site, finite = _latent(model, guide, args, site)
    draws = encode(model, guide, data, draws=num_samples, seed=seed)[site].reshape(num_samples, len(args[0]), -1)
    prior = sample(model, args, prior_samples, seed=seed)[site].reshape(1, prior_samples, -1)
    return AveragePosterior(site, moments(draws), moments(prior) if finite else None, draws, prior[0])


def _latent(model, guide, args, site):
    """The site's name, and whether its prior's variance is finite (as far as its distribution knows)."""
    with isolated(model, guide, seed=0), torch.no_grad():
        trace, _ = trace_pair(model, guide, args)
    latents = [n for n, s in trace.nodes.items() if is_latent(s)]
    if site is None and len(latents) == 1:
        (site,) = latents
    if site not in latents:
        raise ValueError(f"site {site!r} is no latent of the model: give site=, one of {latents}")
    if not any(f.name == "data" for f in trace.nodes[site]["cond_indep_stack"]):
        raise ValueError(f"site '{site}' is not in plate 'data': one value for all data has no average over them")
    try:
        return site, bool(torch.isfinite(trace.nodes[site]["fn"].variance).all())
    except NotImplementedError:
        return site, True
