"""What consumes a pair (model, guide): bounds, drivers, evaluation, diagnostics, ArviZ. Knows no model and no guide."""

if not __name__.startswith("pyrarchy."):
    raise ImportError("import pyrarchy.inference: the folder inference/ is the package pyrarchy.inference.")

from .apply import decode, encode, reconstruct, sample
from .batches import Batches
from .bound import Bound
from .check_pair import PairCheck, check_pair
from .checkpoint import CheckpointError, load_state, save_state
from .elbo import ELBO, AnalyticELBO, FreeBits
from .evaluate import Evaluation, evaluate
from .fit import fit
from .fit_em import EMRecord, LikelihoodFellError, exact_em, fit_em
from .groups import summary
from .importance import ImportanceWeighted, Renyi, VRMax, WeightBound
from .inference_data import to_inference_data
from .isolation import isolated
from .loop import DivergedError, Step, adam
from .preflight import preflight
from .psis import psis
from .record import Record
from .temper import Temper
from .terms import Terms, make_terms, trace_pair

__all__ = [
    "ELBO",
    "AnalyticELBO",
    "Batches",
    "Bound",
    "CheckpointError",
    "DivergedError",
    "EMRecord",
    "Evaluation",
    "FreeBits",
    "ImportanceWeighted",
    "LikelihoodFellError",
    "PairCheck",
    "Record",
    "Renyi",
    "Step",
    "Temper",
    "Terms",
    "VRMax",
    "WeightBound",
    "adam",
    "check_pair",
    "decode",
    "encode",
    "evaluate",
    "exact_em",
    "fit",
    "fit_em",
    "isolated",
    "load_state",
    "make_terms",
    "preflight",
    "psis",
    "reconstruct",
    "sample",
    "save_state",
    "summary",
    "to_inference_data",
    "trace_pair",
]
