r"""What a comparison found: figures of every entry and seed, their errors, and paired differences to the first entry.

.. math:: \widehat{\mathrm{KL}}(q \Vert p) = \log p_K(x) - \mathrm{ELBO}(x), \qquad
          d_n = \tfrac1S \sum_s \big(f_{s}(x_n) - f^{\text{first}}_{s}(x_n)\big)

An error over seeds says how much a figure depends on the training's luck; the paired error over data, std(d) / sqrt(N),
how surely two entries differ on data such as these: most of the spread of log p over data is shared and cancels.
"""

import math
from dataclasses import dataclass, field

import numpy as np

METRICS = ("elbo", "bound", "log_p", "kl")


@dataclass
class Outcome:
    """One entry trained from one seed, evaluated on N data, in nats.

    :ivar elbo, bound, log_p: (N,) the ELBO, L_M and L_K, all lower bounds on log p(x) in expectation.
    :ivar k_hat, ess: (N,) Pareto shape and effective number of the K weights.
    :ivar dict active: local latent site -> [active units, units]. ``rates``: site -> KL(q || p), nats per datum.
    :ivar str objective: what was maximised; ``is_lower_bound`` whether that bounds log p(x).
    :ivar int steps: steps taken. ``seconds``: wall time of the training, all its processes together.
    """

    elbo: np.ndarray
    bound: np.ndarray
    log_p: np.ndarray
    k_hat: np.ndarray
    ess: np.ndarray
    active: dict = field(default_factory=dict)
    rates: dict = field(default_factory=dict)
    objective: str = ""
    is_lower_bound: bool = True
    steps: int = 0
    seconds: float = math.nan

    @property
    def kl(self):
        """(N,) log p - ELBO: the guide's KL(q || p(z | x)), from below in expectation."""
        return self.log_p - self.elbo


@dataclass
class Comparison:
    """Outcomes by entry and seed; every method is numpy alone.

    :ivar dict outcomes: entry -> seed -> :class:`Outcome`; the first entry is what the others are held against.
    :ivar int num_samples: K of log p. ``bound_samples``: M of the bound L_M.
    :ivar str budget: what each run was given, in words. ``held_out``: whether the data evaluated were not trained on.
    """

    outcomes: dict
    num_samples: int
    bound_samples: int
    budget: str = ""
    held_out: bool = True

    @property
    def first(self):
        """Name of the first entry."""
        return next(iter(self.outcomes))

    @property
    def num_data(self):
        """Number of data evaluated."""
        return self._table(self.first, "elbo").shape[1]

    def _table(self, name, metric):
        return np.stack([np.atleast_1d(getattr(o, metric)) for o in self.outcomes[name].values()]).astype(float)

    def mean(self, name, metric):
        """A figure of an entry over seeds and data, and its standard error over seeds (NaN for one seed)."""
        return mean_and_error(self._table(name, metric).mean(1))

    def difference(self, name, metric):
        """An entry less the first: (value, paired standard error over the data, standard error over the seeds)."""
        d = self._table(name, metric) - self._table(self.first, metric)
        return d.mean().item(), mean_and_error(d.mean(0))[1], mean_and_error(d.mean(1))[1]

    def ess(self, name):
        """Median effective sample size over the data: its mean and standard error over seeds."""
        return mean_and_error(np.median(self._table(name, "ess"), axis=1))

    def seconds(self, name):
        """Training time: mean and standard error over seeds."""
        return mean_and_error(np.array([o.seconds for o in self.outcomes[name].values()], float))

    def active_units(self, name):
        """Active units of all local layers, mean over seeds, and how many there are; ``None`` without such a layer."""
        pairs = [np.array(list(o.active.values())).reshape(-1, 2).sum(0) for o in self.outcomes[name].values()]
        active, units = np.mean(pairs, axis=0)
        return (float(active), int(units)) if units else None

    def figures(self):
        """Everything as plain numbers, for a JSON file."""
        entries = {}
        for name, by_seed in self.outcomes.items():
            one = next(iter(by_seed.values()))
            row = {"objective": one.objective, "objective_is_lower_bound": one.is_lower_bound, "steps": one.steps}
            for metric in METRICS:
                row[metric], row[f"{metric}_error_over_seeds"] = self.mean(name, metric)
            row["ess"], row["ess_error_over_seeds"] = self.ess(name)
            row["k_hat_median"] = float(np.median(self._table(name, "k_hat")))
            row["seconds"], row["seconds_error_over_seeds"] = self.seconds(name)
            row["active_units"] = self.active_units(name)
            row["rates"] = {site: float(np.mean([o.rates[site] for o in by_seed.values()])) for site in one.rates}
            if name != self.first:
                keys = ("value", "paired_error_over_data", "error_over_seeds")
                row[f"less {self.first}"] = {m: dict(zip(keys, self.difference(name, m), strict=True)) for m in METRICS}
            entries[name] = row
        return {
            "entries": entries,
            "seeds": list(self.outcomes[self.first]),
            "budget": self.budget,
            "evaluated_on": "held-out data" if self.held_out else "training data",
            "num_data": self.num_data,
            "unit": "nats per datum",
            "elbo_is": "lower bound on log p(x) in expectation",
            "bound_is": f"lower bound on log p(x) in expectation, {self.bound_samples} importance samples",
            "log_p_is": f"lower bound on log p(x) in expectation, {self.num_samples} importance samples",
            "kl_is": "log_p - elbo: KL(q || p(z | x)) from below in expectation; not a lower bound on log p(x)",
            "differences_are": "differences of lower bounds; not lower bounds themselves",
        }

    def table(self):
        """The figures as Markdown: one table of the entries, one of their differences to the first."""
        where = "held-out data" if self.held_out else "training data (none was held out)"
        seeds = ", ".join(map(str, self.outcomes[self.first]))
        head = [
            "entry",
            "trained on",
            "ELBO (lower bound)",
            f"L_{self.bound_samples} (lower bound)",
            f"log p, K = {self.num_samples} (lower bound)",
            "KL(q \\|\\| p) = log p - ELBO (not a lower bound on log p)",
            f"ESS of {self.num_samples}",
            "active units",
            "seconds",
        ]
        rows = []
        for name, by_seed in self.outcomes.items():
            one, units = next(iter(by_seed.values())), self.active_units(name)
            rows.append([
                name,
                f"{one.objective} ({'' if one.is_lower_bound else 'not a '}lower bound)",
                *(_shown(*self.mean(name, metric)) for metric in METRICS),
                _shown(*self.ess(name), digits=1),
                f"{units[0]:.1f} of {units[1]}" if units else "-",
                _shown(*self.seconds(name), digits=1),
            ])  # fmt: skip
        lines = [f"{self.num_data} {where}; {self.budget}; seeds {seeds}. In nats per datum, mean ± standard error over "
                 "seeds.", "", *_markdown(head, rows)]  # fmt: skip
        if len(self.outcomes) > 1:
            head = ["entry", "ELBO", f"L_{self.bound_samples}", f"log p, K = {self.num_samples}", "KL(q \\|\\| p)"]
            rows = [
                [name, *(_shown_difference(*self.difference(name, metric)) for metric in METRICS)]
                for name in self.outcomes
                if name != self.first
            ]
            lines += ["", f"Less {self.first}, in nats per datum: value ± paired standard error over data (± over seeds). "
                      "Differences of lower bounds are not lower bounds.", "", *_markdown(head, rows)]  # fmt: skip
        return "\n".join(lines) + "\n"


def mean_and_error(values):
    """Mean of values (n,) and its standard error std / sqrt(n); the error is NaN for one value.

    >>> mean_and_error(np.array([1.0, 2.0, 3.0]))[0], round(mean_and_error(np.array([1.0, 2.0, 3.0]))[1], 4)
    (2.0, 0.5774)
    """
    n = len(values)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def _shown(value, error, digits=2):
    if not math.isfinite(value):
        return "-"
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")


def _shown_difference(value, over_data, over_seeds):
    text = f"{value:+.2f}" + (f" ± {over_data:.2f}" if math.isfinite(over_data) else "")
    return text + (f" (± {over_seeds:.2f})" if math.isfinite(over_seeds) else "")


def _markdown(head, rows):
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
