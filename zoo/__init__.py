"""Models, p: how data come about. Pyro modules with plates and named sites; no guide, no loss, no optimiser.

A model's module, and with it torch, is imported when the model is first asked for: factor analysis by EM needs numpy alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if not __name__.startswith("pyrarchy."):
    raise ImportError("import pyrarchy.zoo: the folder zoo/ is the package pyrarchy.zoo and has no other name.")

if TYPE_CHECKING:
    from .batch_norm import BatchNorm, Normalised
    from .bayesian_ppca import BayesianPPCA
    from .conv_residual_hvae import ConvResidualHVAE
    from .deep_markov import DeepMarkov
    from .dense_hvae import DenseHVAE
    from .eight_schools import EightSchools, EightSchoolsNonCentred
    from .factor_analysis import FactorAnalysis
    from .flow_prior import FlowPrior
    from .gaussian_mixture import GaussianMixture
    from .gaussian_tree import GaussianTree
    from .gaussian_vae import GaussianVAE
    from .growth_curves import GrowthCurves
    from .ising import Ising
    from .linear_state_space import LinearStateSpace
    from .local_level import LocalLevel
    from .lossy_vae import LossyVAE
    from .markov_hvae import MarkovHVAE
    from .multi_stage_vae import MultiStageVAE
    from .normal_gamma import NormalGamma
    from .one_bit import OneBit
    from .partial_pooling import PartialPooling
    from .ppca import PPCA
    from .refittable import GaussianPrior, MixturePrior
    from .residual_hvae import ResidualHVAE
    from .sequential_vae import SequentialVAE, SharedSequentialVAE
    from .sigmoid_belief import SigmoidBelief
    from .sparse_linear import GaussianLinear, SparseLinear
    from .sparse_parts import FixedScale, FreeDictionary, LearnedScale, UnitNormDictionary
    from .vae import VAE
    from .vamp_prior import VampPrior
    from .varying_intercept import VaryingIntercept
    from .vlae import VLAE

__all__ = [
    "PPCA",
    "VAE",
    "VLAE",
    "BatchNorm",
    "BayesianPPCA",
    "ConvResidualHVAE",
    "DeepMarkov",
    "DenseHVAE",
    "EightSchools",
    "EightSchoolsNonCentred",
    "FactorAnalysis",
    "FixedScale",
    "FlowPrior",
    "FreeDictionary",
    "GaussianLinear",
    "GaussianMixture",
    "GaussianPrior",
    "GaussianTree",
    "GaussianVAE",
    "GrowthCurves",
    "Ising",
    "LearnedScale",
    "LinearStateSpace",
    "LocalLevel",
    "LossyVAE",
    "MarkovHVAE",
    "MixturePrior",
    "MultiStageVAE",
    "NormalGamma",
    "Normalised",
    "OneBit",
    "PartialPooling",
    "ResidualHVAE",
    "SequentialVAE",
    "SharedSequentialVAE",
    "SigmoidBelief",
    "SparseLinear",
    "UnitNormDictionary",
    "VampPrior",
    "VaryingIntercept",
]

_MODULES = {
    "batch_norm": ("BatchNorm", "Normalised"),
    "bayesian_ppca": ("BayesianPPCA",),
    "conv_residual_hvae": ("ConvResidualHVAE",),
    "deep_markov": ("DeepMarkov",),
    "dense_hvae": ("DenseHVAE",),
    "eight_schools": ("EightSchools", "EightSchoolsNonCentred"),
    "factor_analysis": ("FactorAnalysis",),
    "flow_prior": ("FlowPrior",),
    "gaussian_mixture": ("GaussianMixture",),
    "gaussian_tree": ("GaussianTree",),
    "gaussian_vae": ("GaussianVAE",),
    "growth_curves": ("GrowthCurves",),
    "ising": ("Ising",),
    "linear_state_space": ("LinearStateSpace",),
    "local_level": ("LocalLevel",),
    "lossy_vae": ("LossyVAE",),
    "markov_hvae": ("MarkovHVAE",),
    "multi_stage_vae": ("MultiStageVAE",),
    "normal_gamma": ("NormalGamma",),
    "one_bit": ("OneBit",),
    "partial_pooling": ("PartialPooling",),
    "ppca": ("PPCA",),
    "refittable": ("GaussianPrior", "MixturePrior"),
    "residual_hvae": ("ResidualHVAE",),
    "sequential_vae": ("SequentialVAE", "SharedSequentialVAE"),
    "sigmoid_belief": ("SigmoidBelief",),
    "sparse_linear": ("GaussianLinear", "SparseLinear"),
    "sparse_parts": ("FixedScale", "FreeDictionary", "LearnedScale", "UnitNormDictionary"),
    "vae": ("VAE",),
    "vamp_prior": ("VampPrior",),
    "varying_intercept": ("VaryingIntercept",),
    "vlae": ("VLAE",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name):
    """A model, imported on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .. import _start  # noqa: F401  (before all else: it imports torch faster)

    globals()[name] = found = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return found


def __dir__():
    return sorted({*globals(), *__all__})
