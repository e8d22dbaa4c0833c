r"""Bidirectional Monte Carlo: log p(x) from below and from above, on data that the model made itself.

.. math::

    \mathbb E \log \tfrac1K \sum_k w_k \;\le\; \log p(x) \;\le\; \mathbb E \Big[ - \log \tfrac1K \sum_k 1 / w'_k \Big]

Latents drawn together with x are an exact draw from p(z | x). Annealed chains that start there and walk back to the guide,
or the prior, have E[1 / w'] = 1 / p(x); those that walk forward have E[w] = p(x). The gap bounds the error of both, and
says how many temperatures the same model needs on real data, whose own upper bound nobody knows.

Source: Grosse, Ghahramani & Adams (2015), https://arxiv.org/abs/1511.02543; Wu, Burda, Salakhutdinov & Grosse (2017),
https://arxiv.org/abs/1611.04273.
"""

from dataclasses import dataclass

import numpy as np
import pyro
import torch

from .ais import Annealer, chunks
from .freeze import frozen
from .isolation import isolated
from .log_weights import error_over_data, log_mean
from .simulate import simulate
from .transitions import Transition


@dataclass
class Sandwich:
    """log p(x) of N simulated data between two bounds, in nats per datum.

    :ivar lower, upper: (N,) bounds in expectation; single data may cross.
    :ivar exact: (N,) where the model has ``log_marginal``, else ``None``.
    :ivar accept: (2, N) mean acceptance of the chains forward and backward.
    """

    lower: np.ndarray
    upper: np.ndarray
    exact: np.ndarray | None
    accept: np.ndarray
    num_chains: int
    num_temperatures: int

    @property
    def gap(self):
        """Mean of upper - lower over the data."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_error(self):
        """Standard error of :attr:`gap` over the data; NaN for one datum."""
        return error_over_data(self.upper - self.lower)

    def figures(self):
        """Label -> (mean, error over the data): ``lower bound``, ``exact`` where known, ``upper bound``, ``gap``."""
        rows = {"lower bound": self.lower, "exact": self.exact, "upper bound": self.upper}
        rows["gap"] = self.upper - self.lower
        return {k: (float(v.mean()), error_over_data(v)) for k, v in rows.items() if v is not None}

    def table(self):
        """The figures as text, one line each."""
        lines = [f"{label:<12}{mean:>12.4f} +- {error:.4f}" for label, (mean, error) in self.figures().items()]
        forward, backward = self.accept.mean(1)
        what = f"{len(self.lower)} simulated data, {self.num_chains} chains, {self.num_temperatures} temperatures"
        return "\n".join([*lines, f"nats per datum; {what}; acceptance {forward:.2f} up, {backward:.2f} down"])


def bdmc(
    model,
    guide,
    *args,
    num_chains=16,
    num_temperatures=200,
    leapfrog_steps=10,
    transitions=1,
    target_accept=0.65,
    repeats=1,
    rows_per_pass=2000,
    plates=1,
    seed=0,
    **kwargs,
):
    """Simulate data of the shape of ``args`` from the model, and bound their log p(x) from both sides.

    Both directions use the same transitions: the pilot run that chooses the step sizes sees x and not the latents.

    :param guide: where the chains begin and end; ``None`` for the prior, which is the choice where latents are global: a
        guide that was fitted to one data set knows nothing of the simulated ones. Both figures stay bounds, but the gap
        says how far the guide is from them (eight schools, 100 temperatures, 8 simulations: 8.6 +- 5.1 nats from the
        fitted mean-field guide, .11 +- .07 from the prior; 400 temperatures: .10 +- .09 and -.04 +- .04).
    :param args: the model's arguments; those that it observes are replaced by simulated ones of the same shape, so that N
        rows give N data. Other parameters as for :func:`~pyrarchy.inference.ais`.
    :param int repeats: simulations; where all latents are global each is one datum, and standard errors need several.
    :returns: :class:`Sandwich`.
    :raises ValueError: as :func:`~pyrarchy.inference.ais`, and for a model whose data cannot be simulated.

    >>> import pyrarchy.zoo
    >>> found = bdmc(pyrarchy.zoo.PPCA(4, 2), None, torch.zeros(50, 4), num_chains=4, num_temperatures=20)
    >>> list(found.figures())
    ['lower bound', 'exact', 'upper bound', 'gap']
    """
    if not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats must be a whole number of at least 1, not {repeats!r}")
    annealer = Annealer(num_chains, num_temperatures, Transition(leapfrog_steps, transitions), target_accept, plates)
    most, parts = max(1, rows_per_pass // num_chains), []
    with isolated(model, guide, seed=seed), frozen(model, guide):
        for _ in range(repeats):
            for rows in chunks(model, guide, args, kwargs, most, plates):
                parts.append(_sandwich(annealer, model, guide, rows, kwargs))
    lower, upper, exact, *accept = zip(*parts, strict=True)
    return Sandwich(
        lower=np.concatenate(lower),
        upper=np.concatenate(upper),
        exact=None if exact[0] is None else np.concatenate(exact),
        accept=np.stack([torch.cat(a).double().cpu().numpy() for a in accept]),
        num_chains=num_chains,
        num_temperatures=num_temperatures,
    )


def _sandwich(annealer, model, guide, args, kwargs):
    """Both bounds, the exact answer or ``None``, and both acceptances, of one simulation."""
    drawn = simulate(model, args, kwargs, what="bdmc")
    with pyro.validation_enabled(False):
        path = annealer.path(model, guide, drawn.args, drawn.kwargs)
        steps = annealer.pilot(path)
        up, up_accept = annealer.forward(path, path.start(), steps)
        down, down_accept = annealer.backward(path, path.start_at(drawn.values), steps)
    exact = None
    if hasattr(model, "log_marginal"):
        exact = model.log_marginal(*drawn.args, **drawn.kwargs).detach().double().reshape(-1).cpu().numpy()
    return log_mean(up.cpu().numpy()), -log_mean(-down.cpu().numpy()), exact, up_accept, down_accept
