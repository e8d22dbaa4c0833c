r"""Eight schools: treatment effects of eight parallel experiments, partially pooled. All latents are global.

.. math:: \mu \sim N(0, 5), \quad \tau \sim \mathrm{HalfCauchy}(5), \quad \theta_j \sim N(\mu, \tau), \quad
          y_j \sim N(\theta_j, \sigma_j)

(second arguments are scales). The centred form samples theta directly, and its posterior has a funnel at small tau
that no Gaussian fits; the non-centred form samples the standardised effects instead.

Source: Rubin (1981), https://doi.org/10.3102/10769986006004377; Gelman et al., Bayesian Data Analysis, section 5.5;
the two forms: Papaspiliopoulos, Roberts & Skold (2007), https://doi.org/10.1214/088342307000000014.
"""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule


class EightSchools(PyroModule):
    """The centred form: sites ``mu``, ``tau`` (both global) and ``theta`` in plate ``school``.

    :param float mu_scale: scale of the prior on mu.
    :param float tau_scale: scale of the HalfCauchy prior on tau.
    """

    def __init__(self, mu_scale=5.0, tau_scale=5.0):
        super().__init__("model")
        self.mu_scale, self.tau_scale = mu_scale, tau_scale

    def hyperparameters(self, y):
        """Draw mu and tau from their priors."""
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), self.mu_scale))
        tau = pyro.sample("tau", dist.HalfCauchy(y.new_full((), self.tau_scale)))
        return mu, tau

    def forward(self, y, sigma):
        """:param y: (J,) estimated effects. :param sigma: (J,) their standard errors."""
        mu, tau = self.hyperparameters(y)
        with pyro.plate("school", y.shape[0], dim=-1):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)


class EightSchoolsNonCentred(EightSchools):
    """The non-centred form: ``theta`` = mu + tau ``theta_std`` is a deterministic site."""

    def forward(self, y, sigma):
        """:param y: (J,) estimated effects. :param sigma: (J,) their standard errors."""
        mu, tau = self.hyperparameters(y)
        with pyro.plate("school", y.shape[0], dim=-1):
            standard = pyro.sample("theta_std", dist.Normal(y.new_zeros(()), 1.0))
            theta = pyro.deterministic("theta", mu + tau * standard)
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)
