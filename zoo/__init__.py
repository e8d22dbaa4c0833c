"""Models, p: how data come about. Pyro modules with plates and named sites; no guide, no loss, no optimiser."""

if not __name__.startswith("pyrarchy."):
    raise ImportError("import pyrarchy.zoo: the folder zoo/ is the package pyrarchy.zoo and has no other name.")

from .eight_schools import EightSchools, EightSchoolsNonCentred
from .factor_analysis import FactorAnalysis
from .gaussian_tree import GaussianTree
from .gaussian_vae import GaussianVAE
from .markov_hvae import MarkovHVAE
from .ppca import PPCA
from .vae import VAE

__all__ = [
    "PPCA",
    "VAE",
    "EightSchools",
    "EightSchoolsNonCentred",
    "FactorAnalysis",
    "GaussianTree",
    "GaussianVAE",
    "MarkovHVAE",
]
