r"""Bayes' loop: draw latents and data from the model, infer the latents from the data, and compare with what was drawn.

.. math:: z \sim p(z), \quad x \sim p(x | z), \quad z_1, \dots, z_L \sim q(z | x)

For q = p(z | x) the truth z is one of L + 1 exchangeable draws, so its rank in any quantity is uniform and the average
posterior is the prior. Neither needs the exact posterior. A guide that returns the *prior* passes in every quantity of z
alone; the log-likelihood log p(x | z) of the very x it was shown finds it, and is always among the quantities.

What the loop cannot see: a layer that p ignores (its posterior is its prior, and q is right: rates and active units find
that), and any mistake that simulation and inference share (the model itself being wrong: see
:func:`~pyrarchy.inference.predictive_check`).

Source: Talts, Betancourt, Simpson, Vehtari and Gelman (2018), https://arxiv.org/abs/1804.06788; Geweke (2004),
https://doi.org/10.1198/016214504000001132; the log-likelihood as a quantity: Modrak et al. (2023),
https://arxiv.org/abs/2211.02383.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from .isolation import isolated
from .preflight import check_rows_known
from .rank_tests import AVERAGE_STATISTICS, RANK_STATISTICS, average_tests, location_and_scale, rank_tests, ranks_among
from .simulated import Simulator
from .terms import check_sites, is_latent, trace_pair

DRAWS_PER_PASS = 50_000


class Flag(NamedTuple):
    """A quantity and the statistic that it fails, with its value and p."""

    quantity: str
    statistic: str
    value: float
    p: float


@dataclass(frozen=True)
class BayesLoop:
    """What came of S simulated data sets, with L draws of the guide for each and Q quantities.

    :ivar list names: the quantities, in the order of the columns.
    :ivar truth, draws: (S, Q) and (S, L, Q), float64.
    :ivar ranks: (S, Q) integers in 0..L.
    :ivar dict tests: statistic -> (value (Q,), p (Q,)), of :mod:`~pyrarchy.inference.rank_tests`.
    :ivar float false_alarms: the chance, at most, that a right guide has any flag.
    :ivar dict units: site -> how many of the first columns are its units; :attr:`num_latent` of them are latent.
    :ivar data: (S, D) the simulated data, flat.
    """

    names: list
    truth: np.ndarray
    draws: np.ndarray
    ranks: np.ndarray
    tests: dict
    false_alarms: float
    units: dict
    num_latent: int
    data: np.ndarray

    @property
    def threshold(self):
        """A p below it is flagged: the false-alarm rate shared out over all tests (Bonferroni)."""
        return self.false_alarms / (len(self.tests) * len(self.names))

    @property
    def flagged(self):
        """The failed tests as a list of :class:`Flag`, the smallest p first; empty for a right guide."""
        found = [
            Flag(name, statistic, float(values[q]), float(p[q]))
            for statistic, (values, p) in self.tests.items()
            for q, name in enumerate(self.names)
            if p[q] < self.threshold
        ]
        return sorted(found, key=lambda flag: flag.p)

    def flagged_by(self):
        """Quantity -> the statistics that flag it, as a dictionary of lists, the worst quantity first."""
        out = {}
        for flag in self.flagged:
            out.setdefault(flag.quantity, []).append(flag.statistic)
        return out

    def least_p(self):
        """(Q,) the smallest p of each quantity."""
        return np.min([p for _, p in self.tests.values()], 0)

    def table(self, most=30):
        """The quantities as text, a line each, the ``most`` of smallest p; a star marks what is flagged."""
        prior = location_and_scale(self.truth)
        average = location_and_scale(self.draws.reshape(-1, len(self.names)))
        width = max(8, *(len(n) for n in self.names)) + 2
        head = (
            f"{'':<{width}}{'prior':^17}{'avg. posterior':^17}{'p of ranks':^20}{'z of ranks':^20}{'z of average':^20}"
        )
        second = f"{'quantity':<{width}}" + f"{'median':>8}{'scale':>8} " * 2
        second += "".join(f"{n.removeprefix('rank '):>10}" for n in (*RANK_STATISTICS, *AVERAGE_STATISTICS))
        shown = sorted(np.argsort(self.least_p(), kind="stable")[:most])
        lines = [head.rstrip(), second]
        for q in shown:
            line = f"{self.names[q]:<{width}}" + "".join(f"{m[q]:8.3g}{s[q]:8.3g} " for m, s in (prior, average))
            for name in (*RANK_STATISTICS, *AVERAGE_STATISTICS):
                value, p = (column[q] for column in self.tests[name])
                text = f"{p:.2g}" if name in RANK_STATISTICS[:2] else f"{value:+.1f}"
                line += f"{text + ('*' if p < self.threshold else ''):>10}"
            lines.append(line)
        if len(shown) < len(self.names):
            lines.append(f"and {len(self.names) - len(shown)} quantities of larger p")
        num, num_draws, _ = self.draws.shape
        lines.append(
            f"{len(self.flagged_by())} of {len(self.names)} quantities flagged: p < {self.threshold:.1e}, false alarms "
            f"{self.false_alarms:g} in all; {num} data sets, {num_draws} draws each"
        )
        return "\n".join(lines)


def bayes_loop(
    model,
    guide,
    args,
    *,
    num=1000,
    draws=99,
    fit=None,
    simulator=None,
    quantities=None,
    rebuild=None,
    plates=1,
    seed=0,
    false_alarms=1e-3,
):
    """Run Bayes' loop on a pair.

    With local latents (all in plate ``data``) and an amortised or exact guide each row is a data set of its own, and one
    pass answers for many. Otherwise, and with ``fit``, each data set is as large as the example, and the guide runs once a
    data set.

    :param guide: the guide; ``None`` when ``fit`` makes one. It is used as it stands: a guide of global latents that was
        trained on one data set (``FullRank``) answers for that one alone, and is to be refitted to each by ``fit``.
    :param args: example arguments of the model, a tuple of tensors or one: their data are replaced, the rest is kept.
    :param int num: S data sets. :param int draws: L draws of the guide for each; L + 1 with many divisors bins best.
    :param fit: function of the simulated arguments that returns a guide fitted to them.
    :param simulator: the model that the data come from and whose densities are compared, where that is not ``model``
        (a second, plainer writing of it finds bugs of the first). Same latent sites.
    :param dict quantities: more quantities: name -> function of (values, \\*args), where values holds each latent of
        shape (draws, B, event), to a tensor (draws, B) or (draws, B, units); for whole data sets without the B.
    :param rebuild: function of (observed values by site, args) to args, where the data are not an argument as they stand.
    :param int plates: nested vectorised plates of the model.
    :param float false_alarms: the chance that a right guide is flagged at all, over all quantities and statistics.
    :returns: :class:`BayesLoop`.
    :raises ValueError: for a model that cannot be simulated (a factor, a subsampled plate), a guide that knows its rows by
        position, or sites that do not fit; each names the site.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z1", dist.Normal(torch.zeros(len(x)), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z1", dist.Normal(x / 2, 0.5))  # the variance where the scale belongs
    >>> loop = bayes_loop(model, guide, torch.zeros(5))
    >>> loop.names, "rank scale" in loop.flagged_by()["z1"]
    (['z1', 'log_lik', 'log_joint'], True)
    """
    args = args if isinstance(args, tuple) else (args,)
    if num < 20 or draws < 9:
        raise ValueError(f"num = {num}, draws = {draws} given: at least 20 data sets and 9 draws are needed for a test")
    if (guide is None) == (fit is None):
        raise ValueError("give a guide, or a function fit that returns one for each data set, and not both")
    simulator = model if simulator is None else simulator
    with isolated(simulator, guide, seed=seed), isolated(model, guide), torch.no_grad():
        source = Simulator(
            simulator, args, plates=plates, quantities=quantities, rebuild=rebuild, whole=fit is not None
        )
        infer = _Inference(model, guide, fit, source, draws)
        step = max(1, DRAWS_PER_PASS // (draws + 1)) if source.by_rows else 1
        whole = source.rows(num) if source.by_rows else None
        parts, data = [], []
        for start in range(0, num, step):
            values, new, flat = source.draw(tuple(a[start : start + step] for a in whole) if source.by_rows else args)
            parts.append(infer(values, new))
            data.append(flat)
    measured = np.concatenate(parts, 1)  # (L + 1, S, Q), the truth first
    truth, drawn = measured[0], np.ascontiguousarray(measured[1:].swapaxes(0, 1))
    bad = [name for q, name in enumerate(source.columns) if not np.isfinite(measured[..., q]).all()]
    if bad:
        raise ValueError(
            f"quantities {bad} are not finite for some data set: they have no rank. Look at the guide there."
        )
    rng = np.random.default_rng(seed)
    ranks = ranks_among(truth, drawn.astype(np.float64), rng, np.finfo(infer.dtype).eps)
    tests = {**rank_tests(ranks, draws, rng), **average_tests(truth, drawn)}
    num_latent = sum(source.units[name] for name in source.latents)
    flat = torch.cat(data).numpy()
    return BayesLoop(source.columns, truth, drawn, ranks, tests, false_alarms, source.units, num_latent, flat)


class _Inference:
    """From one simulated data set (or chunk of rows) to quantities of the truth and of the guide's draws."""

    def __init__(self, model, guide, fit, source, draws):
        self.model, self.guide, self.fit, self.source, self.draws = model, guide, fit, source, draws
        self.checked = False
        floats = [s["value"].dtype for s in source.observed.values() if s["value"].is_floating_point()]
        self.dtype = np.dtype(str(floats[0] if floats else torch.get_default_dtype()).removeprefix("torch."))

    def __call__(self, truth, args):
        guide = self.guide
        if self.fit is not None:
            with torch.enable_grad():
                guide = self.fit(*args)
            if not callable(guide):
                raise TypeError(f"fit returned {type(guide).__name__}; it must return the fitted guide")
        traces = trace_pair(self.model, guide, args, num_particles=self.draws, plates=self.source.plates)
        if not self.checked:
            self._check(guide, *traces)
        drawn = {name: traces[0].nodes[name]["value"] for name in self.source.latents}
        return self.source.measure(self.source.stack(truth, drawn, self.draws), args, self.draws + 1)

    def _check(self, guide, model_trace, guide_trace):
        check_sites(model_trace, guide_trace)
        if self.fit is None:
            check_rows_known(guide, model_trace.nodes)
        found = {name for name, site in model_trace.nodes.items() if is_latent(site)}
        if found != set(self.source.latents):
            raise ValueError(
                f"the simulator's latent sites are {sorted(self.source.latents)} and those inferred {sorted(found)}: they "
                "must be the same"
            )
        self.checked = True
