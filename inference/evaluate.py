r"""Grade a fit on data: held-out log p(x) by importance sampling, the trust in it, and what each layer holds.

.. math:: \log p(x) \ge \mathbb E \log \tfrac1K \sum_k w_k, \qquad w_k = p(x, z_k) / q(z_k | x)

The estimate is a lower bound in expectation, tight as K grows; k-hat and the effective sample size say, per datum, how
far to trust it. Its mean over the data has two errors: that of the data drawn (``error_log_p``), and within it that of the
weights drawn (``error_weights``). A unit is active when its posterior mean varies over the data by more than .01.

Source: Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519; k-hat: Vehtari et al. (2024),
https://arxiv.org/abs/1507.02646.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pyro
import torch
from pyro.poutine.util import is_validation_enabled

from .announce import plain_submodules, unannounced
from .isolation import isolated
from .log_weights import effective_number, error_of_log_mean, error_of_mean, error_over_data, log_mean
from .preflight import check_rows_known
from .psis import pareto_k, trust
from .rates import UnitRates, describe_layer
from .terms import make_terms, trace_pair

ACTIVE_VARIANCE = 0.01
MOST_WEIGHTS = 1 << 22  # held at a time, in double precision: 32 MiB


@dataclass
class Evaluation:
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
    def mean_log_p(self):
        """Mean of log p(x) over the data, nats per datum."""
        return float(self.log_p.mean())

    @property
    def error_log_p(self):
        """Standard error of :attr:`mean_log_p` over the data; NaN for one datum."""
        return error_over_data(self.log_p)

    @property
    def errors_weights(self):
        """Monte Carlo standard error of each datum's :attr:`log_p`, (N,) nats, by the delta method; NaN for K = 1.

        The log of a mean is biased by minus half its square. Where k-hat exceeds .7 it is too small.
        """
        return error_of_log_mean(self.ess, self.num_samples)

    @property
    def error_weights(self):
        """Monte Carlo standard error of :attr:`mean_log_p` at the data given: what another seed would change."""
        return error_of_mean(self.errors_weights)

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
            "unit": "nats per datum",
        }

    def table(self):
        """The layers as text, one line each, then the figures of the whole."""
        active = self.active_units()
        lines = [f"{'layer':<12}{'rate (nats)':>12}{'active units':>15}"]
        for name in sorted(self.rates, key=lambda n: (len(n), n), reverse=True):
            units = "{} of {}".format(*active[name]) if name in active else "-"
            lines.append(f"{name:<12}{self.rates[name]:>12.2f}{units:>15}")
        error = f" +- {self.error_log_p:.2f}" if len(self.log_p) > 1 else ""
        lines.append(f"log p(x) >= {self.mean_log_p:.2f}{error} nats per datum ({self.num_samples} importance samples)")
        if self.num_samples > 1:
            lines.append(f"weights     error {self.error_weights:.2g} nats, of the samples drawn")
        lines.append(f"ELBO        {self.mean_elbo:.2f}")
        shares = ", ".join(f"{100 * share:.0f} % {word}" for word, share in self.k_hat_shares().items())
        if shares:
            lines.append(f"k-hat       median {np.nanmedian(self.k_hat):.2f} ({shares})")
        lines.append(f"effective   median {np.median(self.ess):.0f} of {self.num_samples} samples")
        return "\n".join(lines)


def evaluate(model, guide, data, *, num_samples=256, rows_per_pass=1000, plates=1, seed=0, progress=False):
    """Importance-sample log p(x) of every datum with the guide as proposal, and measure every layer.

    :param data: a tensor or a tuple of aligned tensors, the model's arguments.
    :param int num_samples: K, importance samples per datum.
    :param int rows_per_pass: particles x data per pass: bounds the memory, whatever K and N, and about 1,000 is also the
        fastest. Beside a pass, the weights of some data are held: 2^22 numbers at most (above K = 2^22, those of one).
    :param int plates: nested plates of the model.
    :param int seed: seed of the samples; the outside's generators are left as they were.
    :param bool progress: whether to show a progress bar.
    :returns: :class:`Evaluation`.
    :raises ValueError: for a pair without a bound per datum (see :class:`~pyrarchy.inference.Terms`).
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    args = () if data is None else data if isinstance(data, tuple) else (data,)
    with isolated(model, guide, seed=seed), torch.no_grad(), unannounced(plain_submodules(model, guide)):
        traces = trace_pair(model, guide, args, plates=plates)
        first = make_terms(*traces, plates=plates)
        check_rows_known(guide, traces[0].nodes)
        if points := first.point_masses():
            raise ValueError(
                f"the guide fixes site(s) {points} at a point: its log q is no density, so neither the ELBO nor importance "
                "samples bound log p(x). Evaluate a guide with a density there."
            )
        if first.layout.data_dim is None:
            chunks, rows = [args], 1
        else:
            check_rows_first(first, args)
            if first.scale != 1.0:
                raise ValueError(
                    "evaluate needs the data themselves, not a subsampled plate: pass the rows to evaluate"
                )
            n = first.layout.batch
            rows = max(1, min(n, round(math.sqrt(rows_per_pass * 2.5)), MOST_WEIGHTS // num_samples))
            chunks = [tuple(a[i : i + rows] for a in args) for i in range(0, n, rows)]
        columns = [
            _column(model, guide, chunk, num_samples, max(1, rows_per_pass // rows), plates)
            for chunk in _bar(chunks, progress)
        ]
    sizes = np.array([len(c["log_p"]) for c in columns])
    merged = {key: np.concatenate([c[key] for c in columns]) for key in ("log_p", "elbo", "k_hat", "ess")}
    rates = {
        name: float(np.average([c["rates"][name] for c in columns], weights=sizes)) for name in columns[0]["rates"]
    }
    variances = {}
    for name in columns[0]["means"]:
        means = np.concatenate([c["means"][name] for c in columns])
        # the mean of K samples varies even where the posterior mean does not: take that part off
        noise = np.concatenate([c["noise"][name] for c in columns]).mean(0)
        if len(means) > 1 and num_samples > 1:  # one sample cannot tell its own noise from the data's variation
            variances[name] = np.maximum(means.var(0, ddof=1) - noise, 0.0)
    units = {n: np.average([c["units"][n] for c in columns], axis=0, weights=sizes) for n in columns[0]["units"]}
    return Evaluation(**merged, rates=rates, variances=variances, num_samples=num_samples, unit_rates=units)


def check_rows_first(terms, args):
    """See that every argument has the data as its first axis, so that rows can be taken from it."""
    n = terms.layout.batch
    odd = [
        f"argument {i} of shape {tuple(a.shape)}"
        for i, a in enumerate(args)
        if torch.is_tensor(a) and a.shape[:1] != (n,)
    ]
    left = [f.name for s in terms.sites.values() for f in s["cond_indep_stack"] if f.dim < terms.layout.data_dim]
    if odd or left:
        what = ", ".join(odd) or f"plate(s) {sorted(set(left))} left of plate 'data'"
        raise ValueError(
            f"the data must be the first axis of every argument, {n} rows, to be evaluated in parts: {what}. Put plate "
            "'data' leftmost, and hand context that is not per datum to the model's constructor."
        )


def conditional_mean(distribution, value):
    """The mean of a distribution where it knows one, shaped as the value; else the value: less noise, same expectation."""
    try:
        mean = distribution.mean
    except NotImplementedError:
        return value
    if not value.is_floating_point():
        return value
    mean = mean.expand(value.shape)
    one = mean[:1] if mean.dim() and mean.stride(0) == 0 else mean
    return mean if torch.isfinite(one).all() else value


def _column(model, guide, args, num_samples, at_once, plates):
    """All K samples of one chunk of the data, ``at_once`` particles a pass."""
    log_w, rates, sums, squares, done, units = [], {}, {}, {}, 0, UnitRates()
    while done < num_samples:
        k = min(at_once, num_samples - done)
        with pyro.validation_enabled(is_validation_enabled() and not done):  # the first pass of these data tells
            traces = trace_pair(model, guide, args, num_particles=k, plates=plates)
            terms = make_terms(*traces, num_particles=k, plates=plates)
        log_w.append(terms.log_w.double().cpu().numpy())
        if set(terms.log_p) == set(terms.log_q):
            for name in terms.log_p:
                kl = (terms.log_q[name] - terms.log_p[name]).double().sum(0).mean().item()
                rates[name] = rates.get(name, 0.0) + kl / num_samples
            units.add(terms)
        if terms.layout.data_dim is not None:
            for name, z in terms.values.items():
                z = conditional_mean(terms.q[name], z) if name in terms.q else z
                draws, times = z if k > 1 else z.unsqueeze(0), 1
                if draws.stride(0) == 0:  # a mean that all samples share
                    draws, times = draws[:1], k
                draws = draws.double().reshape(len(draws), terms.layout.batch, -1)
                sums[name] = sums.get(name, 0.0) + times * draws.sum(0).cpu().numpy()
                squares[name] = squares.get(name, 0.0) + times * draws.square().sum(0).cpu().numpy()
        done += k
    log_w = np.concatenate(log_w)
    means = {name: total / num_samples for name, total in sums.items()}
    noise = {
        name: np.maximum(squares[name] / num_samples - means[name] ** 2, 0.0) / max(num_samples - 1, 1)
        for name in means
    }
    return {
        "log_p": log_mean(log_w),
        "elbo": log_w.mean(0),
        "k_hat": pareto_k(log_w),
        "ess": effective_number(log_w),
        "rates": rates,
        "units": units.means(),
        "means": means,
        "noise": noise,
    }


def _bar(chunks, progress):
    if not progress:
        return chunks
    from tqdm.auto import tqdm

    return tqdm(chunks, desc="evaluate", unit="chunk", dynamic_ncols=True)
