"""The weight of auxiliary likelihoods (``infer={"auxiliary": True}``) in the gradient, as a handler around the whole call.

With them a guide learns the posterior of an x seen several times, which is narrower than that of x: importance weights
have heavy tails then. To grade a model so trained, hold it still and let its guide follow the bound alone::

    model.requires_grad_(False)
    with AuxiliaryWeight(0.0):
        fit(model, guide, x, epochs=20)
    evaluate(model, guide, held_out)
"""

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from .terms import is_auxiliary


class AuxiliaryWeight(Messenger):
    """Multiply every auxiliary likelihood by a weight; no bound's value depends on it.

    :param float weight: at least 0; 0 leaves the gradient of the bound alone.
    """

    def __init__(self, weight):
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"the weight of auxiliary likelihoods must be at least 0, not {weight!r}")
        self.weight = float(weight)

    def _pyro_sample(self, msg):
        if not site_is_subsample(msg) and is_auxiliary(msg):
            msg["scale"] = msg["scale"] * self.weight
