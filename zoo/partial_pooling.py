r"""Repeated trials, partially pooled: a chance of success for each unit, drawn from a population of chances.

.. math:: \mu \sim N(-1, 1), \quad \sigma \sim \mathrm{HalfNormal}(1), \quad \epsilon_j \sim N(0, 1), \quad
          \theta_j = \mathrm{logit}^{-1}(\mu + \sigma \epsilon_j), \quad y_j \sim \mathrm{Binomial}(n_j, \theta_j)

Source: Efron & Morris (1975), https://doi.org/10.1080/01621459.1975.10479864, whose batting averages it pools; the
density: Carpenter, Gabry & Goodrich (2017), Hierarchical partial pooling for repeated binary trials,
https://mc-stan.org/rstanarm/articles/pooling.html.
Differs from the paper: Efron and Morris shrink arcsine-transformed averages by a formula; here the counts are binomial,
the chances are normal on the logit scale, and mu and sigma have priors.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from pyro.poutine.util import is_validation_enabled


class PartialPooling(PyroModule):
    """Sites ``mu``, ``sigma`` (global), ``epsilon``, ``theta`` (deterministic) and ``y`` in plate ``player``.

    :param float mu_loc, mu_scale: prior of the population's mean log odds.
    :param float sigma_scale: scale of the HalfNormal prior on the population's standard deviation.

    >>> import torch
    >>> from pyro import poutine
    >>> from pyrarchy.zoo import PartialPooling
    >>> y, n = torch.tensor([18.0, 7.0, 11.0]), torch.tensor([45.0, 45.0, 60.0])
    >>> trace = poutine.trace(PartialPooling()).get_trace(y, n)
    >>> trace.nodes["theta"]["value"].shape
    torch.Size([3])
    """

    PLATE = "player"

    def __init__(self, mu_loc=-1.0, mu_scale=1.0, sigma_scale=1.0):
        super().__init__("model")
        self.mu_loc, self.mu_scale, self.sigma_scale = mu_loc, mu_scale, sigma_scale

    def forward(self, y, n):
        """:param y: (J,) successes. :param n: (J,) trials; ValueError where y lies outside [0, n]."""
        check_trials(y, n)
        mu = pyro.sample("mu", dist.Normal(y.new_full((), self.mu_loc), self.mu_scale))
        sigma = pyro.sample("sigma", dist.HalfNormal(y.new_full((), self.sigma_scale)))
        with pyro.plate(self.PLATE, y.shape[0], dim=-1):
            epsilon = pyro.sample("epsilon", dist.Normal(y.new_zeros(()), 1.0))
            log_odds = mu + sigma * epsilon
            pyro.deterministic("theta", torch.sigmoid(log_odds))
            pyro.sample("y", dist.Binomial(n, logits=log_odds), obs=y)


def check_trials(y, n):
    """A ValueError for successes and trials that are not aligned, or more successes than trials."""
    if y.shape != n.shape:
        raise ValueError(
            f"site 'y': successes of shape {tuple(y.shape)} and trials of shape {tuple(n.shape)} must agree"
        )
    if is_validation_enabled() and bool(((y < 0) | (y > n)).any()):  # it reads values, which a recorded step cannot
        raise ValueError("site 'y': there are fewer than zero successes, or more than there are trials")
