"""What consumes a pair (model, guide): bounds, drivers, evaluation, diagnostics, ArviZ. Knows no model and no guide."""

if not __name__.startswith("pyrarchy."):
    raise ImportError("import pyrarchy.inference: the folder inference/ is the package pyrarchy.inference.")

from .. import _start  # noqa: F401  (before all else: it imports torch faster)
from ..checkpoint import CheckpointError, load_state, save_state
from .adam import adam
from .aggregate import AggregatePosterior
from .ais import AnnealedEstimate, ais
from .alternate import Alternating, alternating
from .apply import decode, encode, reconstruct, sample
from .auxiliary import AuxiliaryWeight
from .average import AveragePosterior, Moments, average_posterior, moments
from .batch_statistics import reestimate_statistics
from .batches import Batches
from .bayes_loop import BayesLoop, bayes_loop
from .bdmc import Sandwich, bdmc
from .boosting import Boosted, boost
from .bound import Bound
from .check_pair import PairCheck, check_pair
from .compare import compare
from .compare_runs import Entry
from .comparison import Comparison, Outcome
from .edges import EdgeScores, edge_scores
from .elbo import ELBO, AnalyticELBO, FreeBits
from .elpd import elpd_from_draws, held_out_elpd, rank_elpd
from .energy_distance import energy_distance
from .estimators import Estimator
from .evaluate import evaluate
from .evaluation import Evaluation
from .fit import fit
from .fit_cavi import BoundFellError, CAVIRecord, fit_cavi
from .fit_em import EMRecord, LikelihoodFellError, exact_em, fit_em
from .freeze import log_prob
from .from_codes import alternating_chain, sample_from_average
from .gradient_snr import GradientSNR, gradient_snr
from .importance import ImportanceWeighted, Renyi, VRMax
from .inference_data import to_inference_data
from .isolation import isolated
from .loo import loo
from .loop import DivergedError, Step
from .marginal_kl import MarginalKL
from .mcmc import MCMCResult, mcmc_inference_data, run_nuts
from .multisample import CIWAE, MIWAE, PIWAE, Jackknife, Thermodynamic
from .mutual_information import Information, label_information, number_information
from .parallel import LostRankError
from .predictive_check import PredictiveCheck, predictive_check
from .preflight import preflight
from .profile_step import Profile, profile_step
from .psis import psis, trust
from .psis_posterior import GlobalKHat, UntrustedGuideError, global_k_hat, psis_posterior
from .rates import describe_layer
from .record import Record
from .resampled import Resampled
from .self_consistent import SelfConsistency, refit_prior, self_consistent
from .side_by_side import SideBySide, side_by_side
from .stein import SteinMatrix, stein_matrix
from .stochastic_em import stochastic_em
from .summary_table import summary
from .surgery import Surgery, index_code_information, surgery
from .tarp import Coverage, nearest_truth, tarp
from .temper import Anneal, Temper
from .terms import Terms, make_terms, trace_pair
from .weight_bound import WeightBound, WeightFunction

__all__ = [
    "CIWAE",
    "ELBO",
    "MIWAE",
    "PIWAE",
    "AggregatePosterior",
    "Alternating",
    "AnalyticELBO",
    "Anneal",
    "AnnealedEstimate",
    "AuxiliaryWeight",
    "AveragePosterior",
    "Batches",
    "BayesLoop",
    "Boosted",
    "Bound",
    "BoundFellError",
    "CAVIRecord",
    "CheckpointError",
    "Comparison",
    "Coverage",
    "DivergedError",
    "EMRecord",
    "EdgeScores",
    "Entry",
    "Estimator",
    "Evaluation",
    "FreeBits",
    "GlobalKHat",
    "GradientSNR",
    "ImportanceWeighted",
    "Information",
    "Jackknife",
    "LikelihoodFellError",
    "LostRankError",
    "MCMCResult",
    "MarginalKL",
    "Moments",
    "Outcome",
    "PairCheck",
    "PredictiveCheck",
    "Profile",
    "Record",
    "Renyi",
    "Resampled",
    "Sandwich",
    "SelfConsistency",
    "SideBySide",
    "SteinMatrix",
    "Step",
    "Surgery",
    "Temper",
    "Terms",
    "Thermodynamic",
    "UntrustedGuideError",
    "VRMax",
    "WeightBound",
    "WeightFunction",
    "adam",
    "ais",
    "alternating",
    "alternating_chain",
    "average_posterior",
    "bayes_loop",
    "bdmc",
    "boost",
    "check_pair",
    "compare",
    "decode",
    "describe_layer",
    "edge_scores",
    "elpd_from_draws",
    "encode",
    "energy_distance",
    "evaluate",
    "exact_em",
    "fit",
    "fit_cavi",
    "fit_em",
    "global_k_hat",
    "gradient_snr",
    "held_out_elpd",
    "index_code_information",
    "isolated",
    "label_information",
    "load_state",
    "log_prob",
    "loo",
    "make_terms",
    "mcmc_inference_data",
    "moments",
    "nearest_truth",
    "number_information",
    "predictive_check",
    "preflight",
    "profile_step",
    "psis",
    "psis_posterior",
    "rank_elpd",
    "reconstruct",
    "reestimate_statistics",
    "refit_prior",
    "run_nuts",
    "sample",
    "sample_from_average",
    "save_state",
    "self_consistent",
    "side_by_side",
    "stein_matrix",
    "stochastic_em",
    "summary",
    "surgery",
    "tarp",
    "to_inference_data",
    "trace_pair",
    "trust",
]
