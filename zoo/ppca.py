r"""Probabilistic PCA: factor analysis with one noise scale for all columns, solved in closed form.

.. math::

    z_1 \sim N(0, I_K), \quad x \mid z_1 \sim N(\mu + W z_1, \sigma^2 I), \qquad
    W = U_K (L_K - \sigma^2 I)^{1/2} R, \quad \sigma^2 = \frac{1}{D - K} \sum_{i > K} l_i

This is also the generative half of the *linear VAE*: trained by gradients with an amortised diagonal guide it settles
on the principal axes (R = I), because there alone the posterior is diagonal and the bound tight. So the zoo has no
class for the linear VAE: the row ``linear_vae`` pairs ``PPCA`` with such a guide.

Source: Tipping and Bishop (1999), https://doi.org/10.1111/1467-9868.00196; Lucas, Tucker, Grosse and Norouzi (2019),
Don't blame the ELBO!, https://arxiv.org/abs/1911.02469.
"""

from __future__ import annotations

import torch

from .factor_analysis import FactorAnalysis
from .factor_analysis_arrays import fit_ppca
from .factor_analysis_em import FactorAnalysisFit


class PPCA(FactorAnalysis):
    """:class:`FactorAnalysis` whose ``scale`` is a single number (shape ()): same sites, same exact answers.

    ``maximize`` is the EM step of probabilistic PCA; :meth:`maximize_likelihood` is the closed form, one
    eigendecomposition and no iteration. As sigma -> 0 the posterior mean becomes PCA's projection.

    >>> model = PPCA(5, 2)
    >>> model.scale.shape, model.log_marginal(torch.zeros(3, 5)).shape
    (torch.Size([]), torch.Size([3]))
    """

    def _scale_shape(self):
        return ()

    def _noise_step(self, noise, variance):
        return torch.maximum(noise.mean(), self.noise_floor * variance.min())

    def maximize_likelihood(self, statistics, **_) -> FactorAnalysisFit:
        """Set the parameters to the global maximum, at the principal axes; returns a record with one start.

        A closed form has no starts, seed, tolerance or floor: such options are accepted, so that one driver fits every
        linear model, and have nothing to act on. Raises ValueError where the data lie in ``z_dim`` dimensions.
        """
        fit = fit_ppca(statistics, self.z_dim)
        self.set_parameters(statistics.mean, fit.loadings, fit.noise_variance[0] ** 0.5)
        return fit
