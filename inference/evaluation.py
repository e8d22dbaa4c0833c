"""Figures of a pair on data, each datum's, with their errors, as numbers, sentences and a table.

Source: Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519 (active units); k-hat: Vehtari et al.
(2024), https://arxiv.org/abs/1507.02646.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from .mean_weight import MeanWeight
from .psis import trust
from .rates import describe_layer

ACTIVE_VARIANCE = 0.01


@dataclass
class Evaluation(MeanWeight):
    """Figures of a pair on N data, in nats (N = 1 when all latents are global: the data set is one datum).

    :ivar log_p: (N,) importance-sampled log p(x), a lower bound in expectation.
    :ivar elbo: (N,) the ELBO.
    :ivar k_hat: (N,) Pareto shape of the weights: below .5 good, to .7 usable, above do not trust.
    :ivar ess: (N,) effective number of the K samples.
    :ivar dict rates: latent site -> mean KL(q || p) at that site given the samples above it, nats per datum.
    :ivar dict variances: local latent site -> (units,) variance over the data of the posterior mean.
    :ivar int num_samples: K, the importance samples per datum.
    :ivar dict unit_rates: local latent site -> (units,) its rate unit by unit (see :mod:`pyrarchy.inference.rates`).
    """

    log_p: np.ndarray
    elbo: np.ndarray
    k_hat: np.ndarray
    ess: np.ndarray
    rates: dict
    variances: dict = field(default_factory=dict)
    num_samples: int = 1
    unit_rates: dict = field(default_factory=dict)

    @property
    def num_weights(self):
        """K, the weights behind each datum's :attr:`log_p`."""
        return self.num_samples

    @property
    def mean_elbo(self):
        """Mean of the ELBO over the data, nats per datum."""
        return float(self.elbo.mean())

    def active_units(self):
        """Local latent site -> (active, units)."""
        return {name: (int((v > ACTIVE_VARIANCE).sum()), v.size) for name, v in self.variances.items()}

    def layers(self):
        """Latent site -> a sentence on what it carries, the top layer first; what has collapsed is called so."""
        active = self.active_units()
        return {
            name: describe_layer(name, self.rates[name], *active.get(name, (None, None)), self.unit_rates.get(name))
            for name in sorted(self.rates, key=lambda n: (len(n), n), reverse=True)
        }

    def k_hat_shares(self):
        """Shares of the data whose k-hat is good (< .5), usable (< .7) and not to be trusted (infinity too).

        Empty where no k-hat could be estimated (fewer than 25 samples).
        """
        k = self.k_hat[~np.isnan(self.k_hat)]
        if not k.size:
            return {}
        words = np.array([trust(value) for value in k])
        return {word: float((words == word).mean()) for word in ("good", "usable", "do not trust")}

    def figures(self):
        """The figures as plain numbers, for a JSON file."""
        return {
            "log_p": self.mean_log_p,
            "log_p_error": self.error_log_p,
            "log_p_error_weights": self.error_weights,
            "log_p_is": f"lower bound in expectation, {self.num_samples} importance samples",
            "elbo": self.mean_elbo,
            "k_hat_median": float(np.nanmedian(self.k_hat)) if np.isfinite(self.k_hat).any() else math.nan,
            "k_hat_shares": self.k_hat_shares(),
            "ess_median": float(np.median(self.ess)),
            "rates": dict(self.rates),
            "active_units": {name: list(pair) for name, pair in self.active_units().items()},
            "num_data": len(self.log_p),
            "unit": "nats per datum" if len(self.log_p) > 1 else "nats",
        }

    def table(self):
        """The layers as text, one line each, then the figures of the whole."""
        active = self.active_units()
        lines = [f"{'layer':<12}{'rate (nats)':>12}{'active units':>15}"] if self.rates else []
        for name in sorted(self.rates, key=lambda n: (len(n), n), reverse=True):
            units = "{} of {}".format(*active[name]) if name in active else "-"
            lines.append(f"{name:<12}{self.rates[name]:>12.2f}{units:>15}")
        error = f" +- {self.error_log_p:.2f} nats per datum" if len(self.log_p) > 1 else " nats"
        lines.append(f"log p(x) >= {self.mean_log_p:.2f}{error} ({self.num_samples} importance samples)")
        if self.num_samples > 1:
            lines.append(f"weights     error {self.error_weights:.2g} nats, of the samples drawn")
        lines.append(f"ELBO        {self.mean_elbo:.2f}")
        shares = ", ".join(f"{100 * share:.0f} % {word}" for word, share in self.k_hat_shares().items())
        if shares:
            lines.append(f"k-hat       median {np.nanmedian(self.k_hat):.2f} ({shares})")
        lines.append(f"effective   median {np.median(self.ess):.0f} of {self.num_samples} samples")
        return "\n".join(lines)
