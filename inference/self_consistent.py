r"""A self-consistent prior: refit the prior to the average posterior until the two agree.

.. math:: p_{t+1} = \operatorname*{arg\,max}_{p \in \mathcal F} E_{q_t(z)} \log p(z), \qquad
          q_t(z) = \frac1N \sum_n q_t(z | x_n)

Each refit lowers KL(q(z) || p(z)) as far as the family allows, and is the M step of EM for the prior: with the exact
posterior log p(x) never falls. Three things go wrong. Where the guide is narrower than the posterior, or codes are points,
each round shrinks the prior and the rounds end *in a point*, unless a floor restricts it. Where q(z) is not of the *family*
the two never agree. And a prior that follows the codes no longer says what a code *means*: units are as correlated, and as
little identified, as the decoder leaves them.

Source: Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120 (the best prior is the aggregate posterior); Laird (1978),
https://doi.org/10.1080/01621459.1978.10480103 (the mixing distribution by EM).
"""

from dataclasses import dataclass, field

import torch

from .aggregate import AggregatePosterior
from .isolation import isolated
from .surgery import surgery


@dataclass
class SelfConsistency:
    """What each round found, before its refit; the last entry is after the last refit.

    :ivar list cuts: :class:`~pyrarchy.inference.Surgery` of each round.
    :ivar list volume: half the log-determinant of the prior's covariance, from its draws: -inf is a point.
    :ivar bool agreed: whether the marginal KL fell below the tolerance.
    """

    cuts: list = field(default_factory=list)
    volume: list = field(default_factory=list)
    agreed: bool = False

    def table(self):
        """One line a round, nats per datum."""
        lines = ["round   average KL   information        marginal KL   prior's log volume"]
        for i, (cut, volume) in enumerate(zip(self.cuts, self.volume, strict=True)):
            lines.append(
                f"{i:5d}{cut.average_kl:13.4f}{cut.information:14.4f}{cut.marginal_kl:12.4f} +- {cut.errors[2]:.4f}"
                f"{volume:16.4f}"
            )
        return "\n".join([*lines, "the two agree" if self.agreed else "the two do not agree"])


def self_consistent(model, guide, data, *, rounds=10, tolerance=0.01, retrain=None, draws=10_000, seed=0):
    """Alternate: refit ``model.top`` to draws of q(z), then let ``retrain`` move guide and decoder.

    :param model: one whose top layer takes its prior from a module ``top``; moved in place.
    :param data: tensor (N, ...) or tuple of aligned tensors, the model's arguments.
    :param int rounds: refits at most. It stops when the marginal KL is below ``tolerance`` (nats) by two errors.
    :param retrain: ``retrain(model, guide)``, called after each refit: some steps of :func:`~pyrarchy.inference.fit`;
        ``None`` for a guide that follows the prior by itself (:class:`~pyrarchy.guides.Exact`) or is to be held.
    :param int draws: draws of q(z) in a refit.
    :returns: :class:`SelfConsistency`.
    :raises ValueError: for a model without ``top``, or one whose top is neither refitted by its own ``refit(draws)`` nor has
        parameters to be fitted by gradients.
    """
    top = getattr(model, "top", None)
    if top is None:
        raise ValueError(
            f"{type(model).__name__} has no prior module 'top' to refit: build it with top=, where it takes one"
        )
    site, args = _top_site(model), data if isinstance(data, tuple) else (data,)
    found = SelfConsistency()
    for i in range(rounds + 1):
        cut = surgery(model, guide, data, site, seed=seed + i)
        found.cuts.append(cut)
        with torch.no_grad(), isolated(model, guide, seed=seed + i):
            codes = top(args[0]).sample((draws,)).double()
        found.volume.append(0.5 * torch.logdet(torch.cov(codes.T).reshape(codes.shape[1], -1)).item())
        found.agreed = cut.marginal_kl + 2 * cut.errors[2] < tolerance
        if found.agreed or i == rounds:
            return found
        with isolated(model, guide, seed=seed + i):
            z = AggregatePosterior(model, guide, data, site).sample((draws,))
            refit_prior(top, z)
        if retrain is not None:
            retrain(model, guide)
    return found


def refit_prior(top, draws, *, steps=300, lr=5e-3, batch_size=500):
    """Fit a prior module to draws (M, dim) in place: by its own ``refit``, else by Adam on its mean log-density.

    :returns: mean log-density of the draws after it, nats.
    """
    if callable(getattr(top, "refit", None)):
        top.refit(draws)
    else:
        parameters = [p for p in getattr(top, "parameters", list)() if p.requires_grad]
        if not parameters:
            raise ValueError(f"the prior {type(top).__name__} has neither refit(draws) nor parameters to be fitted")
        optimiser = torch.optim.Adam(parameters, lr=lr)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = lr * 0.1 ** (step / steps)
            rows = draws[torch.randint(len(draws), (min(batch_size, len(draws)),))]
            optimiser.zero_grad()
            (-top(rows).log_prob(rows).mean()).backward()
            optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        return top(draws).log_prob(draws).mean().item()


def _top_site(model):
    """The layer that ``top`` is the prior of, by the zoo's naming."""
    return f"z{len(getattr(model, 'z_dims', (1,)))}"
