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
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import prune_subsample_sites

from .layout import DATA, PARTICLES, Layout, lay_out, log_density


@dataclass
class Terms:
    """The table of one pass. All tensors have shape (K, B): particles first, then the data of plate ``data``.

    :ivar dict log_obs: log-likelihood of each observed site (``pyro.factor`` counts as observed).
    :ivar dict log_p: log prior of each latent site.
    :ivar dict log_q: log density of each site of the guide, auxiliary sites included.
    :ivar dict values: the sampled value of each latent site, particles leftmost (absent when K = 1).
    :ivar float scale: full size of plate ``data`` over the size of this batch.
    :ivar dict temperature, guide_temperature: site -> what multiplies its log p (log q), where that is not one.
    :ivar dict p, q: the distributions at each latent site of the model and each site of the guide.
    :ivar bool top_down: whether the guide samples the latents in the model's own order.
    :ivar dict sites, guide_sites: trace nodes of the model's latent sites, and of the guide's sites.
    :ivar Layout layout: how a log-probability reduces to a row of this table.
    :ivar dict log_aux: log-likelihood of each auxiliary site (see :func:`is_auxiliary`), which enters no weight.
    """

    log_obs: dict
    log_p: dict
    log_q: dict
    values: dict
    scale: float = 1.0
    temperature: dict = field(default_factory=dict)
    guide_temperature: dict = field(default_factory=dict)
    p: dict = field(default_factory=dict)
    q: dict = field(default_factory=dict)
    top_down: bool = True
    sites: dict = field(default_factory=dict)
    guide_sites: dict = field(default_factory=dict)
    layout: Layout = None
    log_aux: dict = field(default_factory=dict)

    @property
    def log_lik(self):
        """log p(x | z), (K, B)."""
        return _total(self.log_obs)

    @property
    def log_w(self):
        """The log importance weight, (K, B), free of scales and temperatures."""
        return self.log_lik + _total(self.log_p) - _total(self.log_q)

    @property
    def is_tempered(self):
        """Whether any site that enters the weight has a temperature."""
        return bool(self.temperature.keys() - self.log_aux.keys() or self.guide_temperature)

    @property
    def auxiliary(self):
        """The auxiliary terms per datum, each times its own ``poutine.scale``, mean over particles: (B,)."""
        return sum(self.tempered(n, v) for n, v in self.log_aux.items()).mean(0)

    def tempered(self, name, value):
        """A model site's entry times its temperature."""
        return value * self.temperature[name] if name in self.temperature else value

    def tempered_log_w(self):
        """The log-weight with every density to its temperature, (K, B)."""
        total = sum(self.tempered(n, v) for n, v in {**self.log_obs, **self.log_p}.items())
        return total - sum(self.guide_temperature.get(n, 1.0) * v for n, v in self.log_q.items())

    def at_temperature_one(self):
        """The same table with all temperatures removed."""
        return replace(self, temperature={}, guide_temperature={}) if self.is_tempered else self

    def point_masses(self):
        """Continuous latents that the guide fixes at a point: log q is then no density and no bound exists.

        Where an auxiliary site or another point mass carries the density of them all, they do not count.
        """
        points = [
            n for n, q in self.q.items() if n in self.p and _is_point(q, False) and not self.p[n].support.is_discrete
        ]
        carried = set(self.log_q) - set(self.log_p) or any(_is_point(q, True) for q in self.q.values())
        return [] if carried else points

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


def _is_point(distribution, with_density):
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    if not isinstance(distribution, dist.Delta):
        return False
    return bool(torch.as_tensor(distribution.log_density).any()) == with_density


def trace_pair(model, guide, args=(), kwargs=None, *, num_particles=1, plates=1, name=PARTICLES):
    """Run guide and model once and return their traces ``(model_trace, guide_trace)``, subsample sites removed.

    :param int num_particles: particles, on a plate ``particles`` left of the model's plates (no dimension for one).
    :param int plates: the number of nested vectorised plates in the model.
    :param str name: name of the particles' plate.
    :raises ValueError: when a messenger guide was built with another model than the one given.
    """
    kwargs = kwargs or {}
    messenger = poutine.unwrap(guide)
    outer = pyro.plate(name, num_particles, dim=-1 - plates) if num_particles > 1 else nullcontext()
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


def is_auxiliary(site):
    """Whether a model's observed site is marked ``infer={"auxiliary": True}``.

    A model that sees x more than once (at several stages) has its log p(x) at one site; the likelihoods at the others
    pull on the parameters and belong to no bound, no weight and no density.
    """
    return bool(site["is_observed"] and site["infer"].get("auxiliary"))


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


def make_terms(model_trace, guide_trace, *, num_particles=1, plates=1):
    """Score a pair of traces (see :func:`trace_pair`) and reduce them to :class:`Terms`.

    :raises ValueError: for a site forgotten or invented by the guide, data observed in the guide, mixed global and local
        sites, or a subsampled plate that is not common to all sites; each names the site.
    """
    check_sites(model_trace, guide_trace)
    p_sites = {n: s for n, s in model_trace.nodes.items() if s["type"] == "sample"}
    q_sites = {n: s for n, s in guide_trace.nodes.items() if s["type"] == "sample" and _has_density(s)}
    latents = [n for n, s in p_sites.items() if is_latent(s)]
    layout, scale = lay_out(p_sites, latents, num_particles, plates)
    joint = [
        n for n, s in q_sites.items() if n not in latents and not any(f.name == DATA for f in s["cond_indep_stack"])
    ]
    if joint and layout.data_dim is not None:
        raise ValueError(
            f"the guide has one density for all rows of site(s) {latents}, on its site(s) {joint} outside plate '{DATA}': a "
            "bound per datum is not defined. Use pyro.infer.Trace_ELBO, or a guide with one density for each datum."
        )

    def score(site):
        return layout.table(log_density(site), site)

    observed = {n: s for n, s in p_sites.items() if s["is_observed"] and not s["infer"].get("_deterministic")}
    auxiliary = {n: observed.pop(n) for n, s in p_sites.items() if is_auxiliary(s)}
    if auxiliary and not observed:
        raise ValueError(
            f"all observed sites {sorted(auxiliary)} are marked infer={{'auxiliary': True}}: none is left whose "
            "likelihood is log p(x). Leave the last one unmarked."
        )
    return Terms(
        log_obs={n: score(s) for n, s in observed.items()},
        log_p={n: score(p_sites[n]) for n in latents},
        log_q={n: score(s) for n, s in q_sites.items()},
        values={n: p_sites[n]["value"] for n in latents},
        scale=scale,
        temperature=_temperatures(p_sites, scale),
        guide_temperature=_temperatures(q_sites, scale),
        p={n: p_sites[n]["fn"] for n in latents},
        q={n: s["fn"] for n, s in q_sites.items() if not s["is_observed"]},
        top_down=[n for n in q_sites if n in latents] == latents,
        sites={n: p_sites[n] for n in latents},
        guide_sites=q_sites,
        layout=layout,
        log_aux={n: score(s) for n, s in auxiliary.items()},
    )


def _has_density(site):
    """Whether a guide's site enters log q: what it samples, and factors. Data observed in a guide are refused."""
    if not site["is_observed"] or site["infer"].get("_deterministic"):
        return not site["is_observed"]
    if not isinstance(site["fn"], dist.Unit):
        raise ValueError(f"site '{site['name']}' is observed in the guide: observe data in the model alone")
    return True


def _temperatures(sites, scale):
    """Site -> what multiplies its terms beside the plate's scale, where that is not one."""
    weights = {name: site["scale"] / scale for name, site in sites.items()}
    return {n: w for n, w in weights.items() if isinstance(w, torch.Tensor) or w != 1.0}
