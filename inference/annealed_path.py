r"""The path of densities from a guide (or the prior) to the posterior, over all latents of all sites jointly.

.. math::

    \log f_\beta(u) = (1 - \beta) \log q(z \mid x) + \beta \log p(x, z) + \log |\partial z / \partial u|,
    \qquad z = T(u)

with T from unconstrained space onto each site's support (Pyro's ``biject_to``); bits stay bits. Every number is per chain
and per datum: a state holds, for each site, the chains of all data, and nothing couples them.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import biject_to

from .freeze import FixValues
from .layout import PARTICLES
from .terms import make_terms, trace_pair


@dataclass
class Point:
    """Where the chains stand, and the densities there.

    :ivar dict state: site -> unconstrained coordinates, or bits; chains and data as in the pass of a pair.
    :ivar log_q, log_w, log_det: (K, B) log density of the start, log p(x, z) - log q(z), and log of the Jacobian.
    """

    state: dict
    log_q: torch.Tensor
    log_w: torch.Tensor
    log_det: torch.Tensor

    def log_f(self, beta):
        """log f_beta, (K, B); minus infinity where it is not a number."""
        value = self.log_q + beta * self.log_w + self.log_det
        return torch.where(value.isnan(), -torch.inf, value)


class Unconstrain(Messenger):
    """Give continuous latents of a model the image of unconstrained coordinates, and remember the Jacobians.

    :ivar dict values: site -> value on its support. ``log_dets``: site -> log Jacobian, of the site's batch shape.
    """

    def __init__(self, state):
        super().__init__()
        self.state, self.values, self.log_dets = state, {}, {}

    def _pyro_sample(self, msg):
        if msg["is_observed"] or msg["name"] not in self.state:
            return
        name, u = msg["name"], self.state[msg["name"]]
        if is_bit(msg["fn"].support):
            msg["value"] = self.values[name] = u
        else:
            transform = biject_to(msg["fn"].support)
            msg["value"] = self.values[name] = transform(u)
            self.log_dets[name] = log_jacobian(transform, u, msg["value"], msg["fn"].event_dim)
        msg["done"] = True


def log_jacobian(transform, u, value, event_dim):
    """log |dz/du| of a site's transform, summed down to the site's batch shape."""
    log_det = transform.log_abs_det_jacobian(u, value)
    return sum_rightmost(log_det, log_det.dim() - (value.dim() - event_dim))


def innermost_constraint(constraint):
    """A constraint without what makes its last axes an event."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def is_bit(support):
    """Whether a support is that of independent bits."""
    return innermost_constraint(support) is constraints.boolean


def is_free(support):
    """Whether a support is the whole space already."""
    return innermost_constraint(support) in (constraints.real, constraints.real_vector)


class Path:
    """The densities of one pair at fixed arguments. Run it inside ``isolated`` and ``frozen``.

    :param guide: where the path begins; ``None`` for the prior. :param int num_chains: K.
    :ivar continuous, bits: names of the latent sites of either kind.
    :raises ValueError: for a guide without a density per site, a subsampled plate, or a site that is neither continuous
        nor made of bits; each names the site.
    """

    def __init__(self, model, guide, args, kwargs, num_chains, plates):
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.size = {"num_particles": num_chains, "plates": plates}
        with pyro.validation_enabled(True):
            terms = self._terms(nullcontext())
        _check(terms)
        self.layout, self.sites = terms.layout, terms.sites
        supports = {name: site["fn"].support for name, site in terms.sites.items()}
        self.bits = [name for name, support in supports.items() if is_bit(support)]
        self.continuous = [name for name in supports if name not in self.bits]
        self._free = all(is_free(supports[name]) for name in self.continuous)
        self._event_dims = {name: site["fn"].event_dim for name, site in terms.sites.items()}
        # batch axes come first, and the axes of the event may differ in number between z and u
        self._batch_dims = {name: site["value"].dim() - site["fn"].event_dim for name, site in terms.sites.items()}
        self._terms_at_start, self._like = terms, _total(terms.log_q).detach()

    def start(self):
        """Chains drawn from the guide or the prior."""
        terms, self._terms_at_start = self._terms_at_start or self._terms(nullcontext()), None
        return self.point(self._unconstrained(terms))

    def start_at(self, values):
        """All chains at given latents: site -> value of a pass without particles, shape (plates..., event...)."""
        k, plates = self.size["num_particles"], self.size["plates"]
        if k > 1:
            for name, z in values.items():
                batch = z.shape[: z.dim() - self._event_dims[name]]
                z = z.reshape((1,) * (1 + plates - len(batch)) + z.shape)
                values = {**values, name: z.expand(self.sites[name]["value"].shape).clone()}
        return self.point(self._unconstrained(self._terms(FixValues(values))))

    def point(self, state):
        """The densities at a state; a gradient if the state has one."""
        terms, log_dets = self._at(state)
        log_q = _total(terms.log_q)
        log_det = torch.zeros_like(log_q)
        for name, value in log_dets.items():
            log_det = log_det + self.layout.table(value, self.sites[name])
        return Point(state, log_q, terms.log_w, log_det)

    def new_full(self, value):
        """A number for every datum, (B,), in the densities' own precision."""
        return self._like.new_full((self.layout.batch,), value)

    def spread(self, table, name, state):
        """A table (K, B) shaped to be broadcast with a site's entry of a state."""
        shape, first = [1] * state[name].dim(), self._batch_dims[name]
        if self.size["num_particles"] > 1:
            shape[first + self.layout.particle_dim] = table.shape[0]
        if self.layout.data_dim is not None:
            shape[first + self.layout.data_dim] = table.shape[1]
        return table.reshape(shape)

    def per_datum(self, name, state):
        """Shape of a site's entry within one chain of one datum: ones at the axes of chains and data."""
        shape, first = list(state[name].shape), self._batch_dims[name]
        if self.size["num_particles"] > 1:
            shape[first + self.layout.particle_dim] = 1
        if self.layout.data_dim is not None:
            shape[first + self.layout.data_dim] = 1
        return shape

    def _at(self, state):
        if self._free:
            return self._terms(FixValues(state)), {}
        handler = Unconstrain(state)
        if self.guide is None:
            return self._terms(handler), handler.log_dets
        with handler, self._outer():
            self.model(*self.args, **self.kwargs)
        return self._terms(FixValues(handler.values)), handler.log_dets

    def _outer(self):
        k, plates = self.size["num_particles"], self.size["plates"]
        return pyro.plate(PARTICLES, k, dim=-1 - plates) if k > 1 else nullcontext()

    def _terms(self, handler):
        """The table of a pass; without a guide its log q is the prior's."""
        with handler:
            if self.guide is not None:
                return make_terms(*trace_pair(self.model, self.guide, self.args, self.kwargs, **self.size), **self.size)
            with self._outer():
                model_trace = poutine.trace(self.model).get_trace(*self.args, **self.kwargs)
        model_trace = prune_subsample_sites(model_trace)
        prior = model_trace.copy()
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"]:
                prior.remove_node(name)
        return make_terms(model_trace, prior, **self.size)

    def _unconstrained(self, terms):
        """The state at the values of a pass."""
        state = {}
        for name, site in terms.sites.items():
            z = terms.values[name].detach()
            state[name] = z if name in self.bits else biject_to(site["fn"].support).inv(z)
        return state


def _total(table):
    return sum(table.values())


def _check(terms):
    if not terms.log_p:
        raise ValueError("the model has no latent site to anneal")
    if odd := sorted(set(terms.log_p) ^ set(terms.log_q)):
        raise ValueError(
            f"the guide's density sits on the auxiliary site(s) {odd}, not on the model's {sorted(terms.log_p)}, between "
            "which annealing has no path: start from the prior, guide=None."
        )
    if points := terms.point_masses():
        raise ValueError(f"the guide fixes site(s) {points} at a point: annealing must start from a density there")
    if terms.scale != 1.0:
        raise ValueError("annealing needs the data themselves, not a subsampled plate: pass the rows to be annealed")
    for name, site in terms.sites.items():
        try:
            support = site["fn"].support
        except NotImplementedError:
            raise ValueError(
                f"site '{name}': its distribution does not say its support, so it cannot be moved"
            ) from None
        if support.is_discrete and not is_bit(support):
            raise ValueError(
                f"site '{name}' is discrete and not made of bits: annealing moves continuous sites by Hamiltonian steps "
                "and bits one by one. Sum the site out of the model."
            )
