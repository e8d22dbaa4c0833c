"""Figures of fits, samples and posteriors, drawn from plain numpy arrays: the one import for all of them.

Every function returns a new :class:`matplotlib.figure.Figure`, 810 pixels wide at 150 dpi, without pyplot and whatever
the user's rcParams say; :func:`png` turns it into bytes. An empty input is a ValueError: there are no empty panels.

===================  ==================================================================
what there is        what shows it
===================  ==================================================================
losses, bounds       :func:`loss_curves`
images               :func:`image_grid`, :func:`traversals`, :func:`interpolations`
data, no images      :func:`profile_grid`
codes                :func:`latent_scatter`, :func:`average_marginals`
rates of layers      :func:`rate_bars`
rates of units       :func:`unit_bars`
other numbers        :func:`histogram`
posteriors           :func:`forest`
importance weights   :func:`k_hat_histogram`, and in numbers :func:`k_hat_shares`
ranks, coverage      :func:`rank_ecdf`, and in numbers :func:`ecdf_band`
replicated data      :func:`replicates`
===================  ==================================================================

>>> from pyrarchy.plots import png, rate_bars
>>> png(rate_bars({"vae": {"z": 3.2}}))[1:4]
b'PNG'
"""

from . import _matplotlib  # noqa: F401  before all others
from .plot_average import average_marginals
from .plot_calibration import ecdf_band, rank_ecdf, replicates
from .plot_codes import latent_scatter
from .plot_curves import loss_curves
from .plot_diagnostics import histogram, unit_bars
from .plot_images import image_grid, interpolations, profile_grid, traversals
from .plot_statistics import forest, k_hat_histogram, k_hat_shares, rate_bars
from .plot_style import png

__all__ = [
    "average_marginals",
    "ecdf_band",
    "forest",
    "histogram",
    "image_grid",
    "interpolations",
    "k_hat_histogram",
    "k_hat_shares",
    "latent_scatter",
    "loss_curves",
    "png",
    "profile_grid",
    "rank_ecdf",
    "rate_bars",
    "replicates",
    "traversals",
    "unit_bars",
]
