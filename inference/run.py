"""A pair at given arguments: run live, run again frozen at the same latents, or dreamed from the model itself."""

from contextlib import nullcontext

import torch
from pyro.poutine.util import is_validation_enabled

from .batch_statistics import Coupling
from .draws import PinSubsamples
from .freeze import FixValues, frozen, log_prob
from .isolation import buffers_kept
from .one_site import WatchLatents
from .simulate import simulate
from .terms import make_terms, trace_pair


class Run:
    """What makes the tables of one step; a subsampled plate keeps its rows over all of them.

    :param model, guide: the pair. :param args, kwargs: the model's arguments.
    :param int num_particles: K. :param int plates: nested plates of the model.
    :param bool once: whether the pair is run only once, so that subsampled rows need not be kept.
    """

    def __init__(self, model, guide, args, kwargs, num_particles, plates, once=False):
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.size = {"num_particles": num_particles, "plates": plates}
        self._pin = nullcontext() if once else PinSubsamples()
        self.watch = None if once else WatchLatents()
        self.coupled = []

    def live(self):
        """The table of a fresh pass, with all gradients; ``coupled`` names the parts that hang its data together."""
        coupling = nullcontext()
        if self.watch is not None and is_validation_enabled():
            coupling = Coupling(self.model, self.guide)
            self.coupled = coupling.names
        with self._pin, self.watch or nullcontext(), coupling:
            return make_terms(*trace_pair(self.model, self.guide, self.args, self.kwargs, **self.size), **self.size)

    def freeze(self, terms):
        """The table again at the same latents, all parameters detached: gradients run through z alone.

        :raises ValueError: in the first step of a shape, when the numbers differ (dropout) or a parameter escapes.
        """
        still = self._frozen(_drawn(terms))
        if is_validation_enabled():
            self._check(terms, still)
        return still

    def _frozen(self, values):
        with self._pin, FixValues(values), frozen(self.model, self.guide):
            return make_terms(*trace_pair(self.model, self.guide, self.args, self.kwargs, **self.size), **self.size)

    def _check(self, terms, still):
        if not torch.allclose(terms.log_w, still.log_w, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(
                "the pair gives other densities for the same latents when it is run again (dropout, or batch statistics "
                "in training mode?): this estimator compares two passes. Use estimator='plain'."
            )
        constant = self._frozen({name: z.detach() for name, z in _drawn(terms).items()})
        tables = (constant.log_obs, constant.log_p, constant.log_q)
        escaped = sorted({n for table in tables for n, density in table.items() if density.requires_grad})
        if escaped:
            raise ValueError(
                f"site(s) {escaped} depend on a parameter that belongs to no module of model or guide and to no "
                "pyro.param statement, so it cannot be held constant. Make it an nn.Parameter of one of them (a network "
                "that a plain function hands to pyro.module: make the function a PyroModule that owns it)."
            )

    def dream(self):
        """log q of latents drawn together with data from the model itself, per dreamed datum; gradient for the guide.

        :raises ValueError: when the observed values are not the model's arguments, so that no dreamed ones can be given.
        """
        with self._pin, buffers_kept(self.guide):
            dream = simulate(self.model, self.args, self.kwargs, what="sleep-phi", instead="Use estimator='wake'.")
        with buffers_kept(self.model, self.guide):  # dreams must not count as data
            densities = log_prob(self.guide, dream.values, *dream.args, plates=self.size["plates"], **dream.kwargs)
        return sum(d.sum() for d in densities.values())


def _drawn(terms):
    """The value of each site that the guide draws: the latents, and auxiliary sites of a joint density."""
    auxiliary = {n: s["value"] for n, s in terms.guide_sites.items() if not s["is_observed"]}
    return {**auxiliary, **terms.values}
