"""What the timings are held against: a ratio of one run each, its limit, and the verdict, computed from the two.

A ratio is the median over rounds of one variant's time over another's in the same round.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .interleave import ratio

# Names as in the modules that measure, which import torch; tests/test_bench_goals.py compares them.
OURS, HAND, PYRO, NUMPYRO = "Pyrarchy fit", "PyTorch by hand", "Pyro SVI", "NumPyro SVI, jitted"
EVALUATE, SKLEARN, EM, SYRK = "Pyrarchy evaluate", "scikit-learn", "Pyrarchy fit_em", "one bare syrk"
PLAIN, ACCELERATED = "plain EM to 1e-8", "Pyrarchy EM to 1e-8"
WORSE = 1.15  # what bench-check allows


@dataclass(frozen=True)
class Goal:
    """One figure of a comparison and its limit.

    :ivar str comparison: name of the comparison, as ``benchmarks.run`` knows it.
    :ivar measure: function of the comparison's result to a number, or ``None`` where it could not be measured.
    :ivar bool at_most: whether the figure must not exceed the limit, or not fall below it.
    :ivar str unit: of what is no ratio.
    """

    key: str
    title: str
    comparison: str
    measure: Callable
    limit: float
    at_most: bool = True
    unit: str = ""

    def met(self, measured):
        """Whether a figure holds."""
        return measured <= self.limit if self.at_most else measured >= self.limit

    def worse(self, measured, before):
        """Whether a figure is worse than another by more than :data:`WORSE`."""
        return measured > before * WORSE if self.at_most else measured < before / WORSE

    def judge(self, result):
        """Key, figure, limit and verdict as a dictionary for JSON."""
        measured = None if result is None else self.measure(result)
        verdict = "not measured" if measured is None else "met" if self.met(measured) else "not met"
        return {
            "key": self.key,
            "title": self.title,
            "measured": measured,
            "limit": self.limit,
            "at_most": self.at_most,
            "unit": self.unit,
            "verdict": verdict,
        }


def over(one, other):
    """Function of a result: time of one variant over that of another; ``None`` where one of them did not run."""
    return partial(_over, one, other)


def _over(one, other, result):
    for timings in (result["timings"], result.get("climbs", [])):
        if {one, other} <= {t["name"] for t in timings}:
            return ratio(timings, one, other)
    return None


def _median_of_parts(result):
    return statistics.median(ratio(part["timings"], ACCELERATED, PLAIN) for part in result["parts"])


def _help_seconds(result):
    return None if result["loads_torch"] else result["timings"][0]["millis"] / 1e3


def _most_memory(result):
    found = result["megabytes"].values()
    return None if None in found else max(found)


_EPOCH = (("numpyro", "NumPyro's jitted update", NUMPYRO, 0.85), ("pyro", "Pyro's SVI", PYRO, 0.40))
GOALS = (
    Goal("vae_20_hand", "VAE, batch 20: ours / by hand", "vae_20", over(OURS, HAND), 0.90),
    Goal("vae_128_hand", "VAE, batch 128: ours / by hand", "vae_128", over(OURS, HAND), 1.00),
    Goal("vae_20_pyro", "VAE, batch 20: Pyro's SVI / ours", "vae_20", over(PYRO, OURS), 3.2, at_most=False),
    Goal("vae_128_pyro", "VAE, batch 128: Pyro's SVI / ours", "vae_128", over(PYRO, OURS), 1.7, at_most=False),
    Goal("vae_20_numpyro", "VAE, batch 20: ours / NumPyro's jitted update", "vae_20", over(OURS, NUMPYRO), 1.20),
    Goal("vae_128_numpyro", "VAE, batch 128: ours / NumPyro's jitted update", "vae_128", over(OURS, NUMPYRO), 1.20),
    *(
        Goal(f"{name}_{key}", f"Epoch at batch {batch}, start to exit: ours / {what}", name, over(OURS, peer), limit)
        for name, batch in (("epoch_20", 20), ("epoch", 128))
        for key, what, peer, limit in (
            ("numpyro", "NumPyro's jitted update", NUMPYRO, 0.85),
            ("pyro", "Pyro's SVI", PYRO, 0.40),
        )
    ),
    Goal("iwae50_hand", "IWAE, K = 50, batch 20: ours / by hand", "iwae50_20", over(OURS, HAND), 1.08),
    Goal("iwae5_hand", "IWAE, K = 5, batch 20: ours / by hand", "iwae5_20", over(OURS, HAND), 0.95),
    Goal("ladder5_hand", "5-layer ladder, batch 20: ours / by hand", "ladder5_20", over(OURS, HAND), 0.90),
    Goal("layer_pyro", "One layer more: ours / Pyro's SVI", "layer", over(OURS, PYRO), 0.18),
    Goal(
        "fa_784_sklearn", "Factor analysis, 60,000 x 784: scikit-learn / ours", "fa_784", over(SKLEARN, EM), 10, False
    ),
    Goal("fa_784_syrk", "Factor analysis, 60,000 x 784: ours / one bare syrk", "fa_784", over(EM, SYRK), 1.6),
    Goal("fa_100_sklearn", "Factor analysis, 1M x 100: scikit-learn / ours", "fa_100", over(SKLEARN, EM), 100, False),
    Goal(
        "em_real", "Accelerated / plain EM to 1e-8, real data, the median problem", "em_real", _median_of_parts, 1 / 20
    ),
    Goal("em_64", "Accelerated / plain EM to 1e-8, 10,000 x 64", "fa_64", over(ACCELERATED, PLAIN), 1 / 20),
    Goal("em_784", "Accelerated / plain EM to 1e-8, 60,000 x 784", "fa_784", over(ACCELERATED, PLAIN), 1 / 20),
    Goal("em_100", "Accelerated / plain EM to 1e-8, 1M x 100", "fa_100", over(ACCELERATED, PLAIN), 1 / 20),
    Goal("log_p_hand", "log p(x), K = 5,000: ours / by hand", "l_5000", over(EVALUATE, HAND), 1.15),
    Goal("log_p_memory", "log p(x), K = 500 and 5,000: extra memory", "l_5000", _most_memory, 64, unit="MB"),
    Goal("help", "`pyrarchy --help`, without torch", "help", _help_seconds, 0.15, unit="s"),
)


def judge(results):
    """Every goal's verdict, from a list of results."""
    found = {result["name"]: result for result in results}
    return [goal.judge(found.get(goal.comparison)) for goal in GOALS]


def number(verdict, value):
    """A figure with the sign of its unit, as text."""
    text = f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{text} {verdict['unit']}".rstrip()
