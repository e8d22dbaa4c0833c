"""Guides, q: how latents are inferred. No loss, no data set, no copy of a model's network."""

if not __name__.startswith("pyrarchy."):
    raise ImportError(
        "import pyrarchy.guides: the folder guides/ is the package pyrarchy.guides and has no other name."
    )

from .. import _start  # noqa: F401  (before all else: it imports torch faster)
from .amortized import Amortized
from .base import Guide
from .bottom_up import BottomUp
from .bottom_up_bits import BottomUpBits
from .chain import StructuredChain
from .coarse_to_fine import CoarseToFine, FactorisedCoarseToFine
from .conjugate import Conjugate
from .conv_ladder_iaf import ConvLadderIAF
from .encoder import Encoder, Features
from .exact import Exact
from .full_rank import FullRank
from .iaf import IAF
from .joint_iaf import JointIAF
from .ladder import Ladder, precision_weighted
from .ladder_iaf import BidirectionalGuide, LadderIAF
from .laplace_encoder import LaplaceEncoder
from .lateral import Lateral
from .low_rank import LowRank
from .mean_field import MeanField
from .mixture import Mixture
from .per_site import PerSite
from .ridge import Ridge
from .structured import AmortizedStructured, Structured
from .top_down import MarkovTopDown, TopDown
from .untied_ladder import UntiedLadder
from .zuko_flow import JointZukoFlow, ZukoFlow, masked_autoregressive, neural_spline

__all__ = [
    "IAF",
    "Amortized",
    "AmortizedStructured",
    "BidirectionalGuide",
    "BottomUp",
    "BottomUpBits",
    "CoarseToFine",
    "Conjugate",
    "ConvLadderIAF",
    "Encoder",
    "Exact",
    "FactorisedCoarseToFine",
    "Features",
    "FullRank",
    "Guide",
    "JointIAF",
    "JointZukoFlow",
    "Ladder",
    "LadderIAF",
    "LaplaceEncoder",
    "Lateral",
    "LowRank",
    "MarkovTopDown",
    "MeanField",
    "Mixture",
    "PerSite",
    "Ridge",
    "Structured",
    "StructuredChain",
    "TopDown",
    "UntiedLadder",
    "ZukoFlow",
    "masked_autoregressive",
    "neural_spline",
    "precision_weighted",
]
