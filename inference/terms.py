r"""One pass of a pair as a table: log-likelihood and, per latent site, log p and log q, in nats.

.. math:: \log w_{kb} = \log p(x_b | z_{kb}) + \sum_i \log p(z_{i,kb} | \cdot) - \sum_i \log q(z_{i,kb} | \cdot)

Every entry has shape (particles, batch). Plate scales and temperatures are kept *beside* the numbers: a bound over
importance weights is per datum, so a scale inside its log-mean-exp would not be a bound at all (Pyro's ``RenyiELBO``
does that). When every latent is global and nothing is subsampled the whole data set is one datum: (particles, 1).
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import prune_subsample_sites

DATA = "data"
PARTICLES = "particles"


@dataclass
class Terms:
    """The table of one pass. All tensors have shape (K, B): particles first, then the data of plate ``data``.

    :ivar dict log_obs: log-likelihood of each observed site (``pyro.factor`` counts as observed).
    :ivar dict log_p: log prior of each latent site.
    :ivar dict log_q: log density of each site of the guide, auxiliary sites included.
    :ivar dict values: the sampled value of each latent site, particles leftmost (absent when K = 1).
    :ivar float scale: full size of plate ``data`` over the size of this batch.
    :ivar dict temperature: site -> what multiplies its terms, for the sites where that is not one.
    :ivar dict p, q: the distributions at each latent site of the model and each site of the guide.
    :ivar bool top_down: whether the guide samples the latents in the model's own order.
    :ivar dict sites: the model's trace nodes of the latent sites.
    :ivar Layout layout: how a log-probability reduces to a row of this table.
    """

    log_obs: dict
    log_p: dict
    log_q: dict
    values: dict
    scale: float = 1.0
    temperature: dict = field(default_factory=dict)
    p: dict = field(default_factory=dict)
    q: dict = field(default_factory=dict)
    top_down: bool = True
    sites: dict = field(default_factory=dict)
    layout: "Layout" = None

    @property
    def log_lik(self):
        """log p(x | z), (K, B)."""
        return _total(self.log_obs)

    @property
    def log_w(self):
        """The log importance weight, (K, B), free of scales and temperatures."""
        return self.log_lik + _total(self.log_p) - _total(self.log_q)

    def tempered(self, name, value):
        """A site's entry times its temperature."""
        return value * self.temperature[name] if name in self.temperature else value

    def at_temperature_one(self):
        """The same table with all temperatures removed."""
        return replace(self, temperature={}) if self.temperature else self

    def paired_sites(self):
        """The latent sites, or an error that names what model and guide do not share (auxiliary sites)."""
        odd = sorted(set(self.log_p) ^ set(self.log_q))
        if odd:
            raise ValueError(
                f"a term per latent site is not defined: the guide's density sits on the auxiliary site(s) {odd}. "
                "Use a bound on the total weight (ELBO, ImportanceWeighted, Renyi), or a guide with one density a site."
            )
        return list(self.log_p)


def _total(table):
    values = list(table.values())
    return sum(values[1:], start=values[0]) if values else 0.0  # not 0 + first: that is one node more in the graph


@dataclass(frozen=True)
class Layout:
    """Where particles and data sit in a site's log-probability; ``data_dim`` is None when all latents are global."""

    num_particles: int
    particle_dim: int
    data_dim: int | None
    batch: int

    def table(self, log_prob, site):
        """Sum a site's log-probability over every dimension but particles and data; returns (K, B)."""
        keep = {self.data_dim} if self.data_dim is not None else set()
        if self.num_particles > 1:
            keep.add(self.particle_dim)
        shape = log_prob.shape
        if len(shape) < (size := max((-d for d in keep), default=0)):
            log_prob = log_prob.reshape((1,) * (size - len(shape)) + shape)
        extra = [d for d in range(-log_prob.dim(), 0) if d not in keep]
        plates = {frame.dim for frame in site["cond_indep_stack"]}
        stray = [d for d in extra if log_prob.shape[d] != 1 and d not in plates]
        if extra:
            log_prob = log_prob.sum(extra)
        out = log_prob.reshape(log_prob.shape if self.num_particles > 1 else (1, *log_prob.shape))
        if self.data_dim is None:
            out = out.unsqueeze(-1)
        if stray or out.shape != (self.num_particles, self.batch):
            raise ValueError(
                f"site '{site['name']}': log-probability of shape {tuple(shape)} does not reduce to (particles, batch) = "
                f"({self.num_particles}, {self.batch}). Every batch dimension must be a plate's or the particles': "
                "check to_event() at this site, and that `plates` is the number of plates of the model."
            )
        return out


def trace_pair(model, guide, args=(), kwargs=None, *, num_particles=1, plates=1):
    """Run guide and model once and return their traces ``(model_trace, guide_trace)``, subsample sites removed.

    :param int num_particles: particles, on a plate ``particles`` left of the model's plates (no dimension for one).
    :param int plates: the number of nested vectorised plates in the model.
    :raises ValueError: when a messenger guide was built with another model than the one given.
    """
    kwargs = kwargs or {}
    messenger = poutine.unwrap(guide)
    outer = pyro.plate(PARTICLES, num_particles, dim=-1 - plates) if num_particles > 1 else nullcontext()
    with outer:
        if isinstance(messenger, GuideMessenger):
            if messenger.model is not model:
                raise ValueError(
                    f"the guide {type(messenger).__name__} was built with another model than the one given. A guide of "
                    "this kind runs the model it was built with, so a handler around the model argument would be "
                    "ignored: build the guide with this model, and put handlers around the whole call."
                )
            guide(*args, **kwargs)
            return messenger.get_traces()  # subsample sites are removed already
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def is_latent(site):
    """Whether a trace node is a sampled (not observed) site."""
    return site["type"] == "sample" and not site["is_observed"]


def check_sites(model_trace, guide_trace):
    """Raise a ValueError that names the latent sites which the guide forgets or invents."""
    latents = {name for name, site in model_trace.nodes.items() if is_latent(site)}
    drawn = {name: site for name, site in guide_trace.nodes.items() if is_latent(site)}
    forgotten = sorted(latents - set(drawn))
    if forgotten:
        raise ValueError(
            f"the guide does not sample the model's latent site(s) {forgotten}. Add them to the guide. "
            "Enumerated? Then use pyro.infer.TraceEnum_ELBO with a plain guide."
        )
    invented = sorted(n for n in set(drawn) - latents if not drawn[n]["infer"].get("is_auxiliary"))
    if invented:
        raise ValueError(
            f"the guide samples site(s) {invented}, which the model does not have (it has {sorted(latents)}). Rename "
            "them, or mark them infer={'is_auxiliary': True} if their density cancels in the guide itself."
        )


def _frame(site, name):
    return next((f for f in site["cond_indep_stack"] if f.name == name and f.vectorized), None)


def _layout(sites, latents, num_particles, plates):
    """Decide whether the table is per datum or global, and refuse what is neither. Returns (layout, scale)."""
    frames = {name: _frame(site, DATA) for name, site in sites.items()}
    local = [name for name in latents if frames[name] is not None]
    outside = [name for name in sites if frames[name] is None]
    if local and outside:
        raise ValueError(
            f"site(s) {outside} lie outside plate '{DATA}' while {local} lie inside: a bound per datum is not "
            "defined when global and local sites mix. Use pyro.infer.Trace_ELBO, or move the sites into the plate."
        )
    for name, site in sites.items():
        for f in site["cond_indep_stack"]:
            if f.full_size is not None and f.full_size != f.size and not (local and f.name == DATA):
                raise ValueError(
                    f"site '{name}' lies in the subsampled plate '{f.name}', which is not common to all sites: the "
                    "bound would not be one of the whole data set. Use pyro.infer.Trace_ELBO, or do not subsample."
                )
            if f.vectorized and f.dim < -plates and f.name != PARTICLES:
                raise ValueError(
                    f"site '{name}' lies in plate '{f.name}' at dim {f.dim}, outside the {plates} plate(s) announced: "
                    f"pass plates={-f.dim} to the bound."
                )
    if not local:
        return Layout(num_particles, -1 - plates, None, 1), 1.0
    frame = frames[local[0]]
    scale = frame.full_size / frame.size if frame.full_size else 1.0
    return Layout(num_particles, -1 - plates, frame.dim, frame.size), scale


def make_terms(model_trace, guide_trace, *, num_particles=1, plates=1):
    """Score a pair of traces (see :func:`trace_pair`) and reduce them to :class:`Terms`.

    :raises ValueError: for a site forgotten or invented by the guide, mixed global and local sites, or a subsampled
        plate that is not common to all sites; each names the site.
    """
    check_sites(model_trace, guide_trace)
    p_sites = {n: s for n, s in model_trace.nodes.items() if s["type"] == "sample"}
    q_sites = {n: s for n, s in guide_trace.nodes.items() if is_latent(s)}
    latents = [n for n, s in p_sites.items() if is_latent(s)]
    layout, scale = _layout(p_sites, latents, num_particles, plates)

    def score(site):
        try:
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        except ValueError as error:
            raise ValueError(f"site '{site['name']}': {error}") from None
        return layout.table(scale_and_mask(log_prob, 1.0, site["mask"]), site)

    temperature = {}
    for name, site in p_sites.items():
        weight = site["scale"] / scale
        if isinstance(weight, torch.Tensor) or weight != 1.0:
            temperature[name] = weight
    return Terms(
        log_obs={n: score(s) for n, s in p_sites.items() if s["is_observed"]},
        log_p={n: score(p_sites[n]) for n in latents},
        log_q={n: score(s) for n, s in q_sites.items()},
        values={n: p_sites[n]["value"] for n in latents},
        scale=scale,
        temperature=temperature,
        p={n: p_sites[n]["fn"] for n in latents},
        q={n: s["fn"] for n, s in q_sites.items()},
        top_down=[n for n in q_sites if n in latents] == latents,
        sites={n: p_sites[n] for n in latents},
        layout=layout,
    )
