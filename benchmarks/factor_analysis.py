"""Maximum-likelihood factor analysis: ours on sufficient statistics against scikit-learn's, to one stopping rule.

Both stop when the log-likelihood of the whole data set gains less than ``TOL`` nats, scikit-learn's default. Both
log-likelihoods are then computed by one function, so that a faster fit cannot be a worse one unnoticed.
"""

from dataclasses import dataclass

import numpy as np

from pyrarchy.zoo.factor_analysis_em import fit_factor_analysis
from pyrarchy.zoo.sufficient_statistics import sufficient_statistics

from .interleave import Variant

TOL = 1e-2
SKLEARN, OURS, ONE_START = "scikit-learn", "Pyrarchy EM, 8 starts (default)", "Pyrarchy EM, 1 start"


@dataclass(frozen=True)
class Setting:
    """Rows, columns and factors of a simulated data set."""

    title: str
    num_data: int
    x_dim: int
    z_dim: int


SETTINGS = {
    "fa_64": Setting("Factor analysis, 10,000 x 64, 8 factors", 10_000, 64, 8),
    "fa_784": Setting("Factor analysis, 20,000 x 784, 20 factors", 20_000, 784, 20),
}


def simulate(setting, seed=0):
    """Data (N, D) in float64 from a factor model whose columns differ in scale and in noise."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(setting.x_dim, setting.z_dim)) / np.sqrt(setting.z_dim)
    noise = rng.uniform(0.3, 1.5, setting.x_dim)
    x = rng.normal(size=(setting.num_data, setting.z_dim)) @ loadings.T
    return (x + noise * rng.normal(size=x.shape)) * rng.uniform(0.5, 2.0, setting.x_dim)


def log_likelihood(covariance, loadings, noise_variance):
    """Mean log p(x) in nats of data with this covariance (divisor N) about their mean; loadings (D, K), noise (D,)."""
    model = loadings @ loadings.T + np.diag(noise_variance)
    _, log_det = np.linalg.slogdet(model)
    return -0.5 * (len(model) * np.log(2 * np.pi) + log_det + np.trace(np.linalg.solve(model, covariance)))


class FactorAnalysisRun:
    """The variants of one comparison, and what they reached: ``fitted`` maps a variant's name to (loadings, noise)."""

    def __init__(self, setting):
        self.setting, self.x, self.fitted = setting, simulate(setting), {}

    def scikit_learn(self):
        """One fit of ``sklearn.decomposition.FactorAnalysis`` with default settings."""
        from sklearn.decomposition import FactorAnalysis

        found = FactorAnalysis(self.setting.z_dim, tol=TOL).fit(self.x)
        self.fitted[SKLEARN] = found.components_.T, found.noise_variance_

    def ours(self, name, starts):
        """One fit of ours, sufficient statistics included."""
        statistics = sufficient_statistics(self.x)
        found = fit_factor_analysis(statistics, self.setting.z_dim, starts=starts, tol=TOL / self.setting.num_data)
        self.fitted[name] = found.loadings, found.noise_variance

    def variants(self):
        """The variants, scikit-learn (the reference) first."""
        return [
            Variant(SKLEARN, self.scikit_learn),
            Variant(ONE_START, lambda: self.ours(ONE_START, 1)),
            Variant(OURS, lambda: self.ours(OURS, 8)),
        ]

    def log_likelihoods(self):
        """Variant to mean log p(x) in nats per datum, for the variants that have run."""
        covariance = sufficient_statistics(self.x).covariance
        return {name: float(log_likelihood(covariance, *fit)) for name, fit in self.fitted.items()}
