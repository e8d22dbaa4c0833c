r"""Growth curves: a straight line for each unit, its intercept and slope drawn from a population of lines.

.. math:: \mu \sim N((250, 6), (100, 5)), \quad \sigma_\alpha, \sigma_\beta, \sigma_y \sim \mathrm{HalfNormal}(50, 2, 20),
          \quad \alpha_i \sim N(\mu_\alpha, \sigma_\alpha), \ \beta_i \sim N(\mu_\beta, \sigma_\beta), \quad
          y_{ij} \sim N(\alpha_i + \beta_i (x_{ij} - 22), \sigma_y)

Source: Gelfand, Hills, Racine-Poon & Smith (1990), https://doi.org/10.1080/01621459.1990.10474968.
Differs from the paper: intercept and slope are independent in the population, as in the example of BUGS, ages are centred
at 22 days, which makes them nearly so, and the scales have proper half-normal priors.
"""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule


class GrowthCurves(PyroModule):
    """Sites ``mu_alpha``, ``mu_beta``, ``sigma_alpha``, ``sigma_beta``, ``sigma_weight`` (global); ``alpha``, ``beta``
    and ``weight`` (a vector over the ages) in plate ``rat``.

    :param float centre: the age at which a line has its intercept.
    :param mu_alpha, mu_beta: (mean, scale) of the priors on the population's lines.
    :param scales: scales of the HalfNormal priors on sigma_alpha, sigma_beta and sigma_weight.

    >>> import torch
    >>> from pyro import poutine
    >>> from pyrarchy.zoo import GrowthCurves
    >>> weight, age = torch.full((4, 3), 250.0), torch.tensor([8.0, 22.0, 36.0]).expand(4, 3)
    >>> trace = poutine.trace(GrowthCurves()).get_trace(weight, age)
    >>> trace.nodes["beta"]["value"].shape
    torch.Size([4])
    """

    PLATE = "rat"

    def __init__(self, centre=22.0, mu_alpha=(250.0, 100.0), mu_beta=(6.0, 5.0), scales=(50.0, 2.0, 20.0)):
        super().__init__("model")
        self.centre, self.mu_alpha, self.mu_beta, self.scales = centre, mu_alpha, mu_beta, scales

    def forward(self, weight, age):
        """:param weight: (I, T) measurements of I units. :param age: (I, T) when; ValueError for another shape."""
        if weight.shape != age.shape or weight.dim() != 2:
            raise ValueError(
                f"site 'weight': weights of shape {tuple(weight.shape)} and ages of shape {tuple(age.shape)}; give one "
                "row per unit and one column per measurement in both"
            )
        mu_alpha, mu_beta = (
            pyro.sample(name, dist.Normal(weight.new_full((), loc), scale))
            for name, (loc, scale) in (("mu_alpha", self.mu_alpha), ("mu_beta", self.mu_beta))
        )
        sigma_alpha, sigma_beta, sigma_weight = (
            pyro.sample(f"sigma_{name}", dist.HalfNormal(weight.new_full((), scale)))
            for name, scale in zip(("alpha", "beta", "weight"), self.scales, strict=True)
        )
        with pyro.plate(self.PLATE, weight.shape[0], dim=-1):
            alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha)).unsqueeze(-1)
            beta = pyro.sample("beta", dist.Normal(mu_beta, sigma_beta)).unsqueeze(-1)
            mean = alpha + beta * (age - self.centre)
            pyro.sample("weight", dist.Normal(mean, sigma_weight.unsqueeze(-1)).to_event(1), obs=weight)
