r"""Posterior predictive checks: data replicated by the fitted model beside the data, by statistics of one's choice.

.. math:: z \sim q(z | x), \quad x^{rep} \sim p(x | z), \qquad
          p = P(T(x^{rep}) > T(x)) + \tfrac12 P(T(x^{rep}) = T(x))

This is the check that the *model* is wrong, which Bayes' loop cannot make (there the data are the model's own). The data
are used twice, so p is closer to 1/2 than uniform: over data from the model, P(p <= a) <= 2 a. Flags reckon with that, so
they keep their rate and miss some; a statistic that the model fits by construction (the mean of a model with a free
mean) finds nothing.

Source: Rubin (1984), https://doi.org/10.1214/aos/1176346785; Gelman, Meng and Stern (1996), Posterior predictive
assessment of model fitness via realized discrepancies; Meng (1994), https://doi.org/10.1214/aos/1176325622 (the 2 a).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.distributions import constraints

from .draws import Pair, per_draw, plates_of, sites_of
from .isolation import isolated
from .layout import DATA
from .preflight import check_rows_known

NUMBERS_PER_PASS = 2_000_000
PER_DATUM_LEVEL = 0.05


STATISTICS = {
    "mean": lambda x: x.mean(-1),
    "sd": lambda x: x.std(-1),
    "min": lambda x: x.min(-1),
    "max": lambda x: x.max(-1),
}
OF_BITS = {"mean": STATISTICS["mean"]}  # which settles the spread of bits, and their extremes say nothing


@dataclass(frozen=True)
class PredictiveCheck:
    """Replicated statistics beside the data's.

    :ivar dict replicated: statistic -> (D,) values of the replicated data sets.
    :ivar dict observed: statistic -> its value on the data.
    :ivar dict p: statistic -> P(T(replicated) > T(data)), ties half; near 0 the data's value is too high for the model.
    :ivar dict p_datum: statistic -> (N,) the same for each datum by itself, for local models of more than one column.
    :ivar float false_alarms: the chance, at most, that a right model with an exact posterior has any flag.
    """

    replicated: dict
    observed: dict
    p: dict
    p_datum: dict
    false_alarms: float

    @property
    def threshold(self):
        """What a one-sided p of a statistic, or a share's p, is held against (Bonferroni)."""
        return self.false_alarms / (len(self.p) + len(self.p_datum))

    def shares(self):
        """Statistic -> the share of data with a p below .025 or above .975 (at most .1 are expected)."""
        return {name: float((np.minimum(p, 1 - p) < PER_DATUM_LEVEL / 2).mean()) for name, p in self.p_datum.items()}

    @property
    def flagged(self):
        """The statistics in which the data are unlike the model's, ``"... per datum"`` where too many data are."""
        # min(p, 1 - p) <= a has probability at most 2 * 2 a; a share's expectation is at most 2 * .05 likewise
        found = [name for name, p in self.p.items() if 4 * min(p, 1 - p) < self.threshold]
        expected = 2 * PER_DATUM_LEVEL
        for name, share in self.shares().items():
            error = math.sqrt(expected * (1 - expected) / len(self.p_datum[name]))
            if math.erfc((share - expected) / error / math.sqrt(2)) / 2 < self.threshold:
                found.append(f"{name} per datum")
        return found

    def tables(self):
        """What :func:`pyrarchy.plots.replicates` draws: statistic -> (replicated, observed, p)."""
        return {name: (self.replicated[name], self.observed[name], self.p[name]) for name in self.p}

    def table(self):
        """The statistics as text, a line each; a star marks what is flagged."""
        width = max(9, *(len(n) for n in self.p)) + 2
        lines = [f"{'statistic':<{width}}{'data':>10}{'replicated':>22}{'p':>9}  data outside 95 %"]
        flagged, shares = set(self.flagged), self.shares()
        for name, drawn in self.replicated.items():
            mark = "*" if name in flagged else ""
            spread = f"{drawn.mean():.4g} +- {drawn.std():.2g}"
            line = f"{name:<{width}}{self.observed[name]:>10.4g}{spread:>22}{f'{self.p[name]:.2g}{mark}':>9}"
            if name in shares:
                line += f"{f'{100 * shares[name]:.1f} %':>10}{'*' if f'{name} per datum' in flagged else ''}"
            lines.append(line)
        return "\n".join(lines)


def predictive_check(
    model, guide, data, *, statistics=None, site=None, num_samples=2000, plates=1, seed=0, false_alarms=0.01
):
    """Replicate the data from the guide's draws and compare statistics.

    :param data: a tensor or a tuple of tensors, the model's arguments, as the guide was fitted to.
    :param dict statistics: name -> function of an array (..., M), float64, over its last axis, to (...); by default mean,
        sd, min and max, of bits the mean alone. M is all entries of the data set, and those of one datum for ``p_datum``.
    :param str site: the observed site; ``None`` where there is one.
    :param int num_samples: D replicated data sets.
    :param int plates: nested vectorised plates of the model.
    :param float false_alarms: the chance that a right model is flagged at all.
    :returns: :class:`PredictiveCheck`.
    :raises ValueError: for a site that is not observed, too few samples for the rate, a statistic of another shape, or a
        model with a factor, whose data cannot be replicated.

    >>> import torch
    >>> from pyrarchy.guides import Exact
    >>> from pyrarchy.inference import predictive_check
    >>> from pyrarchy.zoo import PPCA
    >>> x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)) ** 3
    >>> model = PPCA(5, 2)
    >>> _ = model.maximize_likelihood(model.statistics(x))
    >>> "max" in predictive_check(model, Exact(model), x).flagged  # Gaussian noise has no such outliers
    True
    """
    args = data if isinstance(data, tuple) else (data,)
    with isolated(model, guide, seed=seed), torch.no_grad():
        pair = Pair(model, guide, args, {}, plates)
        check_rows_known(guide, pair.model_trace.nodes)
        name = _site(pair.model_trace, site)
        node = pair.model_trace.nodes[name]
        inner = node["value"].shape[:1] if any(f.name == DATA for f in plates_of(node).values()) else ()
        seen = node["value"].double().cpu().numpy()
        if statistics is None:
            support = node["fn"].support
            bits = getattr(support, "base_constraint", support) is constraints.boolean
            statistics = OF_BITS if bits else STATISTICS
        per_datum = bool(inner) and seen.ndim > 1 and seen[0].size > 1
        sets, rows = {n: [] for n in statistics}, {n: 0.0 for n in statistics}
        own = {n: _apply(n, f, seen.reshape(1, -1))[0] for n, f in statistics.items()}
        own_rows = {n: _apply(n, f, seen.reshape(len(seen), -1)) for n, f in statistics.items()} if per_datum else {}
        step = max(1, NUMBERS_PER_PASS // seen.size)
        for start in range(0, num_samples, step):
            num = min(step, num_samples - start)
            drawn = _replicate(pair, name, num).reshape(num, *seen.shape)
            for n, function in statistics.items():
                sets[n].append(_apply(n, function, drawn.reshape(num, -1)))
                if per_datum:
                    each = _apply(n, function, drawn.reshape(num, len(seen), -1))
                    rows[n] = rows[n] + (each > own_rows[n]).sum(0) + 0.5 * (each == own_rows[n]).sum(0)
    sets = {n: np.concatenate(parts) for n, parts in sets.items()}
    p = {n: _share((v > own[n]).sum() + 0.5 * (v == own[n]).sum(), num_samples) for n, v in sets.items()}
    p_datum = {n: _share(count, num_samples) for n, count in rows.items()} if per_datum else {}
    found = PredictiveCheck(sets, {n: float(v) for n, v in own.items()}, p, p_datum, false_alarms)
    if 4 * _share(0, num_samples) >= found.threshold:
        raise ValueError(
            f"{num_samples} samples cannot reach the p of {found.threshold / 4:.1e} that false_alarms={false_alarms:g} asks "
            f"for: pass num_samples={math.ceil(2 / found.threshold)} or more"
        )
    return found


def _share(count, num):
    return (count + 0.5) / (num + 1)


def _site(trace, site):
    data = list(sites_of(trace, "data"))
    if factors := sorted(sites_of(trace, "factor")):
        raise ValueError(f"the model has factor site(s) {factors}: its data cannot be replicated by running it forward")
    if site is None and len(data) == 1:
        return data[0]
    if site not in data:
        given = f"no observed site '{site}'" if site is not None else "not one observed site"
        raise ValueError(f"the model has {given}; it observes {data}: pass site=")
    return site


def _replicate(pair, name, num):
    """``num`` replicated values of a data site, an array (num, ...)."""
    model_trace, _ = pair.posterior(num)
    values = {n: s["value"] for n, s in sites_of(model_trace, "latent").items()}
    trace = pair.forward(num, values, sites_of(model_trace, "data"))
    value = per_draw(trace.nodes[name]["value"], num, pair.model_trace.nodes[name]["value"].shape, name)
    return value.double().cpu().numpy()


def _apply(name, function, x):
    found = np.asarray(function(x))
    if found.shape != x.shape[:-1]:
        raise ValueError(
            f"statistic '{name}' gave shape {found.shape} of data of shape {x.shape}: it must reduce the last "
            "axis, and no other"
        )
    return found
