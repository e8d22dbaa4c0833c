r"""The local level model: a random walk seen through noise, the smallest structural model of a time series.

.. math:: z_1 \sim N(0, s_1^2), \quad z_t \mid z_{t-1} \sim N(z_{t-1}, \sigma_\eta^2), \quad
          x_t \mid z_t \sim N(z_t, \sigma_\varepsilon^2)

Two numbers are free: the scale of the level's steps and that of the noise. Durbin and Koopman fit it to the flow of the
Nile: sigma_eps^2 = 15099, sigma_eta^2 = 1469.1.

Source: Durbin and Koopman (2012), Time Series Analysis by State Space Methods, Oxford, chapter 2.
Differs from the book: the level starts from a wide proper prior (s_1^2 = 10^7, as in the book's figures) and not from
the diffuse limit, because a density of x is needed.
"""

import torch
from torch import nn

from .kalman import System
from .linear_state_space import LinearStateSpace, _scale


class LocalLevel(LinearStateSpace):
    """One series or several of length ``x_dim`` = T; sites ``z1`` .. ``zT``, each one number, and ``x``.

    :param float x_scale: the unit of both scales, such as the data's standard deviation.
    :param float initial_scale: s_1, in the data's own unit; wide against the data.

    Raises ValueError for scales that are not positive.

    >>> LocalLevel(4).log_marginal(torch.zeros(3, 4)).shape
    torch.Size([3])
    """

    def __init__(self, x_dim, x_scale=1.0, initial_scale=1e7**0.5):
        if not initial_scale > 0:
            raise ValueError(f"initial_scale: {initial_scale} given; a positive scale is needed.")
        super().__init__(x_dim, 1, 0.0, x_scale)
        self.register_buffer("initial_scale", torch.tensor(float(initial_scale)))

    def _make_parameters(self, x_mean):
        self.raw_level = nn.Parameter(torch.tensor(0.0))
        self.raw_scale = nn.Parameter(torch.tensor(0.0))

    @property
    def level_scale(self):
        """sigma_eta, the standard deviation of a step of the level, ()."""
        return self.unit * _scale(self.raw_level)

    @property
    def noise_scale(self):
        """sigma_epsilon, the standard deviation of an observation about the level, ()."""
        return self.unit * _scale(self.raw_scale)

    def system(self):
        """The chain's parameters as a :class:`~pyrarchy.zoo.kalman.System`."""
        one = torch.ones_like(self.unit)
        square = one.reshape(1, 1)
        initial, step = self.initial_scale * square, self.level_scale * square
        return System(0 * square[0], initial, square, step, square[0], 0 * one, self.noise_scale)
