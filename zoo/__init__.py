"""Models, p: how data come about. Pyro modules with plates and named sites; no guide, no loss, no optimiser."""

if not __name__.startswith("pyrarchy."):
    raise ImportError("import pyrarchy.zoo: the folder zoo/ is the package pyrarchy.zoo and has no other name.")

from .batch_norm import BatchNorm, Normalised
from .bayesian_ppca import BayesianPPCA
from .dense_hvae import DenseHVAE
from .deep_markov import DeepMarkov
from .eight_schools import EightSchools, EightSchoolsNonCentred
from .factor_analysis import FactorAnalysis
from .flow_prior import FlowPrior
from .gaussian_mixture import GaussianMixture
from .gaussian_tree import GaussianTree
from .gaussian_vae import GaussianVAE
from .linear_state_space import LinearStateSpace
from .local_level import LocalLevel
from .growth_curves import GrowthCurves
from .markov_hvae import MarkovHVAE
from .multi_stage_vae import MultiStageVAE
from .normal_gamma import NormalGamma
from .partial_pooling import PartialPooling
from .ppca import PPCA
from .sequential_vae import SequentialVAE, SharedSequentialVAE
from .sigmoid_belief import SigmoidBelief
from .vae import VAE
from .vlae import VLAE
from .varying_intercept import VaryingIntercept
from .vamp_prior import VampPrior

__all__ = [
    "PPCA",
    "VAE",
    "BatchNorm",
    "VLAE",
    "BayesianPPCA",
    "DenseHVAE",
    "DeepMarkov",
    "EightSchools",
    "EightSchoolsNonCentred",
    "FactorAnalysis",
    "FlowPrior",
    "GaussianMixture",
    "GaussianTree",
    "GaussianVAE",
    "LinearStateSpace",
    "LocalLevel",
    "GrowthCurves",
    "MarkovHVAE",
    "MultiStageVAE",
    "NormalGamma",
    "Normalised",
    "SequentialVAE",
    "SharedSequentialVAE",
    "SigmoidBelief",
    "PartialPooling",
    "VaryingIntercept",
    "VampPrior",
]
