r"""Temperature on the latent terms: :math:`\log p(x|z) + \beta \sum_i (\log p(z_i) - \log q(z_i))`, with a warm-up.

A handler, so that neither model nor guide needs an argument for it. Guides that run their model ignore handlers around
the model argument; this one goes around the whole call, as :func:`~pyrarchy.inference.fit` does.

Source: Bowman et al. (2015), https://arxiv.org/abs/1511.06349; Sonderby et al. (2016), https://arxiv.org/abs/1602.02282.
"""

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from .draws import kind


class Temper(Messenger):
    """Multiply the terms of latent sites by a temperature beta, constant or raised linearly from ``start`` to ``stop``.

    Below one the objective is no bound on log p(x), so drivers also record the value at temperature one.

    :param float start: beta at step 0.
    :param float stop: beta at step ``steps`` and after.
    :param int steps: length of the warm-up; 0 for a constant ``stop``.
    :param sites: names of the latent sites to temper; all of them by default.

    >>> warm_up = Temper(start=0.0, steps=4)
    >>> [round(warm_up.set_step(t), 2) for t in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    def __init__(self, start=0.0, stop=1.0, steps=0, sites=None):
        super().__init__()
        if min(start, stop) < 0:
            raise ValueError(f"temperatures must be >= 0, not {start} and {stop}")
        if steps < 0:
            raise ValueError(f"steps must be >= 0, not {steps}")
        sites = (sites,) if isinstance(sites, str) else sites
        self.start, self.stop, self.steps, self.sites = float(start), float(stop), int(steps), sites
        self.met = set()  # sites seen, so that a misspelt one can be told
        # A tensor, changed in place: a recorded step sees the new value.
        self.beta = torch.tensor(self.start if self.steps else self.stop)

    def set_step(self, step):
        """Set beta for a step of training and return it."""
        share = min(1.0, step / self.steps) if self.steps else 1.0
        value = self.start + share * (self.stop - self.start)
        self.beta.fill_(value)
        return value

    def check(self):
        """Raise a ValueError naming the sites to temper that the model does not have; call after a pass."""
        unknown = sorted(set(self.sites or ()) - self.met)
        if unknown:
            raise ValueError(f"there is no site {unknown} to temper; the model has {sorted(self.met)}")

    @property
    def finished(self):
        """Whether beta is exactly one, so that the handler changes nothing."""
        return self.beta.item() == 1.0

    def concerns(self, msg):
        """Whether a site is of the kind whose terms the temperature multiplies."""
        return not msg["is_observed"] and not site_is_subsample(msg)

    def _pyro_sample(self, msg):
        if not self.concerns(msg):
            return
        self.met.add(msg["name"])
        if self.sites is None or msg["name"] in self.sites:
            msg["scale"] = msg["scale"] * self.beta

    def __repr__(self):
        return f"{type(self).__name__}(start={self.start:g}, stop={self.stop:g}, steps={self.steps})"


class Anneal(Temper):
    r"""Multiply the terms of the model's factors by an inverse temperature beta, for models that are a density without data.

    .. math:: \beta \log f(z) + \sum_i (\log p(z_i) - \log q(z_i))

    At beta = 0 the guide meets the base alone, and structure comes in as beta rises to one (for an Ising model, from
    infinite temperature down to its own). Named ``sites`` are factors or observed sites.

    Source: Wu, Wang & Zhang (2019), https://arxiv.org/abs/1809.10606.
    Differs from the paper: the rise is linear, where theirs is 1 - .998^step.
    """

    def concerns(self, msg):
        """Whether a site is a factor, or observed and named."""
        if not msg["is_observed"] or msg["infer"].get("_deterministic") or site_is_subsample(msg):
            return False
        return kind(msg) == "factor" or (self.sites is not None and msg["name"] in self.sites)
