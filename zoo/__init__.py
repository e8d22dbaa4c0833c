"""Models, p: how data come about. Pyro modules with plates and named sites; no guide, no loss, no optimiser."""

if not __name__.startswith("pyrarchy."):
    raise ImportError("import pyrarchy.zoo: the folder zoo/ is the package pyrarchy.zoo and has no other name.")

from .. import _start  # noqa: F401  (before all else: it imports torch faster)
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
