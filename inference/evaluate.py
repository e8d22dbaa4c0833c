r"""Grade a fit on data: held-out log p(x) by importance sampling, the trust in it, and what each layer holds.

.. math:: \log p(x) \ge \mathbb E \log \tfrac1K \sum_k w_k, \qquad w_k = p(x, z_k) / q(z_k | x)

The estimate is a lower bound in expectation, tight as K grows; k-hat and the effective sample size say, per datum, how
far to trust it. Its mean over the data has two errors: that of the data drawn (``error_log_p``), and within it that of the
weights drawn (``error_weights``). A unit is active when its posterior mean varies over the data by more than .01.

Source: Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519; k-hat: Vehtari et al. (2024),
https://arxiv.org/abs/1507.02646.
"""

import math

import numpy as np
import torch

from .announce import plain_submodules, unannounced
from .arguments import blaming_data, whole
from .evaluation import Evaluation
from .isolation import isolated
from .parallel import shared_map
from .preflight import check_rows_known
from .terms import make_terms, trace_pair
from .weigh import Weigher

MOST_WEIGHTS = 1 << 22  # held at a time, in double precision: 32 MiB


def evaluate(
    model,
    guide,
    data,
    *,
    num_samples=256,
    rows_per_pass=1000,
    plates=1,
    seed=0,
    progress=False,
    tape=True,
    shared=False,
):
    """Importance-sample log p(x) of every datum with the guide as proposal, and measure every layer.

    :param data: a tensor or a tuple of aligned tensors, the model's arguments.
    :param int num_samples: K, importance samples per datum.
    :param int rows_per_pass: particles x data per pass: bounds the memory, whatever K and N, and about 1,000 is also the
        fastest. Beside a pass, the weights of some data are held: 2^22 numbers at most (above K = 2^22, those of one).
    :param int plates: nested plates of the model.
    :param int seed: seed of the samples; the outside's generators are left as they were.
    :param bool progress: whether to show a progress bar.
    :param bool tape: whether passes may be recorded and replayed (the same numbers, sooner).
    :param bool shared: whether the processes of a group share the work, all of them calling this and getting the whole
        (:mod:`~pyrarchy.inference.parallel`). Each part of the data then has a seed of its own: other draws than otherwise,
        but the same whatever the number of processes.
    :returns: :class:`Evaluation`.
    :raises ValueError: for a pair without a bound per datum (see :class:`~pyrarchy.inference.Terms`).
    """
    num_samples, rows_per_pass = whole("num_samples", num_samples), whole("rows_per_pass", rows_per_pass)
    args = () if data is None else data if isinstance(data, tuple) else (data,)
    with (
        isolated(model, guide, seed=seed),
        torch.no_grad(),
        unannounced(plain_submodules(model, guide)),
        blaming_data(args, model, guide),
    ):
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
        at_once = max(1, rows_per_pass // rows)
        weigh = Weigher(model, guide, plates, passes=len(chunks) * math.ceil(num_samples / at_once), tape=tape)

        def column(chunk):
            return weigh(chunk, num_samples, at_once)

        columns = shared_map(column, chunks, seed) if shared else [column(chunk) for chunk in _bar(chunks, progress)]
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


def _bar(chunks, progress):
    if not progress:
        return chunks
    from tqdm.auto import tqdm

    return tqdm(chunks, desc="evaluate", unit="chunk", dynamic_ncols=True)
