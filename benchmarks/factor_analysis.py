"""Maximum-likelihood factor analysis: ours, by its default call, against scikit-learn's, one bare product, and plain EM.

Ours is ``fit_em(FactorAnalysis(D, K), x)``: from a float32 array to a fitted model, up to 8 starts. scikit-learn's is
``FactorAnalysis(K).fit(x)``, its default too. All log-likelihoods are computed by one function on the covariance in
float64, so that a faster fit cannot be a worse one unnoticed. The two climbs are given the statistics, start from one
point on one covariance and end within ``GAP`` nats per datum of the maximum, found beforehand.
"""

from dataclasses import dataclass
from functools import cached_property
from time import process_time

import numpy as np

from pyrarchy.inference import fit_em
from pyrarchy.zoo import FactorAnalysis
from pyrarchy.zoo.em_climb import AcceleratedClimb, Climb
from pyrarchy.zoo.factor_analysis_em import fit_factor_analysis, starting_points
from pyrarchy.zoo.sufficient_statistics import sufficient_statistics

from .interleave import Variant, interleave

GAP = 1e-8
SKLEARN, OURS, SYRK = "scikit-learn", "Pyrarchy fit_em", "one bare syrk"
PLAIN, ACCELERATED = "plain EM to 1e-8", "Pyrarchy EM to 1e-8"


@dataclass(frozen=True)
class Setting:
    """Rows, columns and factors of a simulated data set; at most so many rounds, because scikit-learn takes its time."""

    title: str
    num_data: int
    x_dim: int
    z_dim: int
    rounds: int = 25


SETTINGS = {
    "fa_64": Setting("Factor analysis, 10,000 x 64, 8 factors", 10_000, 64, 8),
    "fa_784": Setting("Factor analysis, 60,000 x 784, 50 factors", 60_000, 784, 50, rounds=3),
    "fa_100": Setting("Factor analysis, 1,000,000 x 100, 10 factors", 1_000_000, 100, 10, rounds=2),
}


def simulate(setting, seed=0):
    """Data (N, D) in float32 from a factor model whose columns differ in scale and in noise."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(setting.x_dim, setting.z_dim)) / np.sqrt(setting.z_dim)
    noise, units = rng.uniform(0.3, 1.5, setting.x_dim), rng.uniform(0.5, 2.0, setting.x_dim)
    x = rng.standard_normal((setting.num_data, setting.x_dim), dtype=np.float32)
    x *= noise.astype(np.float32)
    x += rng.standard_normal((setting.num_data, setting.z_dim), dtype=np.float32) @ loadings.T.astype(np.float32)
    x *= units.astype(np.float32)
    return x


def log_likelihood(covariance, loadings, noise_variance):
    """Mean log p(x) in nats of data with this covariance (divisor N) about their mean; loadings (D, K), noise (D,)."""
    model = loadings @ loadings.T + np.diag(noise_variance)
    _, log_det = np.linalg.slogdet(model)
    return -0.5 * (len(model) * np.log(2 * np.pi) + log_det + np.trace(np.linalg.solve(model, covariance)))


class FactorAnalysisRun:
    """The variants of one comparison, and what they reached: ``fitted`` maps a variant's name to (loadings, noise)."""

    def __init__(self, setting):
        self.setting, self.x, self.fitted = setting, simulate(setting), {}

    @cached_property
    def covariance(self):
        """The judge's: float64 whatever the data are."""
        x = self.x.astype(np.float64)
        x -= x.mean(0)
        return x.T @ x / len(x)

    @cached_property
    def problem(self):
        """What both climbs are given: the correlations, a start, and the log-likelihood to reach."""
        deviation = np.sqrt(np.diag(self.covariance))
        correlation = self.covariance / np.outer(deviation, deviation)
        _, *start = next(starting_points(correlation, self.setting.z_dim, 0, np.random.default_rng(0)))
        statistics = sufficient_statistics(self.x)._replace(covariance=correlation)
        best = fit_factor_analysis(statistics, self.setting.z_dim, tol=1e-13).log_likelihood
        return correlation, start, best - GAP

    def scikit_learn(self):
        """One fit of ``sklearn.decomposition.FactorAnalysis`` with default settings."""
        from sklearn.decomposition import FactorAnalysis as PeerFactorAnalysis

        found = PeerFactorAnalysis(self.setting.z_dim).fit(self.x)
        self.fitted[SKLEARN] = found.components_.T, found.noise_variance_

    def ours(self):
        """One fit of ours by the call a user makes."""
        model = FactorAnalysis(self.setting.x_dim, self.setting.z_dim)
        fit_em(model, self.x)
        self.fitted[OURS] = model.loadings.detach().double().numpy(), model.scale.detach().double().numpy() ** 2

    def climb(self, name, kind):
        """EM from the start to within ``GAP`` of the maximum."""
        correlation, start, goal = self.problem
        climb = kind(correlation, 1e-4, name, *start)
        while climb.trace[-1] < goal:
            climb.advance()
        deviation = np.sqrt(np.diag(self.covariance))
        loadings, noise, _ = climb.point
        self.fitted[name] = loadings * deviation[:, None], noise * deviation**2

    def variants(self):
        """From the data to a fitted model, scikit-learn (the reference) first."""
        return [
            Variant(SKLEARN, self.scikit_learn),
            Variant(OURS, self.ours),
            Variant(SYRK, lambda: self.x.T @ self.x),
        ]

    def climbs(self):
        """The two climbs, the plain one (the reference) first. What they are given is computed here, untimed."""
        _ = self.problem
        return [
            Variant(PLAIN, lambda: self.climb(PLAIN, Climb)),
            Variant(ACCELERATED, lambda: self.climb(ACCELERATED, AcceleratedClimb)),
        ]

    def log_likelihoods(self):
        """Variant to mean log p(x) in nats per datum, for the variants that have fitted."""
        return {name: float(log_likelihood(self.covariance, *fit)) for name, fit in self.fitted.items()}


def measure(name, rounds):
    """One of ``SETTINGS``: whole fits, one a slice, then the climbs."""
    run = FactorAnalysisRun(SETTINGS[name])
    whole = min(rounds, run.setting.rounds)
    timings = interleave(run.variants(), whole, slice_seconds=0.0, warm_up=0, clock=process_time)
    climbs = interleave(run.climbs(), min(rounds, 10), warm_up=1, clock=process_time)
    return {
        "title": run.setting.title,
        "timings": [t.as_dict() for t in timings],
        "climbs": [t.as_dict() for t in climbs],
        "log_likelihoods": run.log_likelihoods(),
    }
