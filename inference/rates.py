r"""The rate of each unit of a layer, and what the rates of a layer mean, in words.

.. math:: R_{ij} = \mathbb E \, \mathrm{KL}\big(q(z_{ij} \mid z_{>i}, x) \,\|\, p(z_{ij} \mid z_{>i})\big)

over the data and the samples above. Where q and p factor over the units, the R_ij of a layer sum to its rate; where q is
joint (a full covariance, a flow) they are of its marginals, and sum to at most the layer's rate. Where p is joint they do
not exist.

Source: Sønderby et al. (2016), Ladder variational autoencoders, https://arxiv.org/abs/1602.02282 (KL per unit as the
sign of collapse).
"""

import math

from torch.distributions import MultivariateNormal, Normal, kl_divergence

from .isolation import rng_state, set_rng_state
from .one_site import innermost

COLLAPSED, WEAK = 0.01, 0.1  # nats per datum
DRAWS = 100  # of a joint q without moments, per row and particle
NAMED = 8  # idle units that are named


def unit_kl(q, p, value):
    """KL(q || p) of every unit, in nats, broadcast to the shape of ``value``; ``None`` where p does not factor over units.

    In closed form where torch knows one, else ``log q - log p`` at the value; of a joint q: of its marginals, as Gaussians.

    :param q, p: distributions at a site, with as many event dimensions as the site has.
    :param value: a draw of q.

    >>> import torch, pyro.distributions as dist
    >>> p, q = dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.Normal(torch.tensor([0.0, 2.0]), 1.0).to_event(1)
    >>> unit_kl(q, p, torch.zeros(2))
    tensor([0., 2.])
    """
    q, p = innermost(q), innermost(p)
    if p.event_shape:
        return None
    if q.event_shape:
        q = _marginals(q) if isinstance(p, Normal) else None
    if q is None:
        return None
    try:
        # torch's KL of bits indexes one side by a mask of the other: both need the shape of the value
        kl = kl_divergence(q.expand(value.shape), p.expand(value.shape))
    except NotImplementedError:
        kl = q.log_prob(value) - p.log_prob(value)
    return kl.expand(value.shape)


def _marginals(q):
    """A joint distribution's marginals: exact for Gaussians, else Gaussians of the moments of draws."""
    if isinstance(q, MultivariateNormal):
        return Normal(q.mean, q.variance.sqrt())
    before = rng_state()  # the figures of the layer must not depend on whether its units were looked at
    try:
        draws = q.sample((DRAWS,))
    finally:
        set_rng_state(before)
    spread = draws.std(0)
    return Normal(draws.mean(0), spread) if bool((spread > 0).all()) else None


def rate_sums(terms, joint=True):
    """Local latent site -> (units,) doubles: the rate of each unit, mean over the data, sum over the draws of a pass.

    :param Terms terms: the pass. :param bool joint: whether a joint q without moments is drawn from, which costs time.
    """
    sums = {}
    if terms.layout.data_dim is None:
        return sums
    k, batch = terms.layout.num_particles, terms.layout.batch
    for name, value in terms.values.items():
        q, masked = terms.q.get(name), terms.sites[name]["mask"] is not None
        if q is None or name not in terms.log_q or masked:
            continue
        if not joint and innermost(q).event_shape and not isinstance(innermost(q), MultivariateNormal):
            continue
        kl = unit_kl(q, terms.p[name], value)
        if kl is not None:
            sums[name] = kl.double().reshape(k, batch, -1).sum(0).mean(0)
    return sums


def layer_word(rate, active=None):
    """``collapsed`` below 0.01 nats or without an active unit, ``weak`` below 0.1 nats, ``active``, or ``not finite``.

    >>> layer_word(3.2, 5), layer_word(0.04), layer_word(0.002), layer_word(5.0, 0)
    ('active', 'weak', 'collapsed', 'collapsed')
    """
    if not math.isfinite(rate):
        return "not finite"
    if rate < COLLAPSED or active == 0:
        return "collapsed"
    return "weak" if rate < WEAK else "active"


def describe_layer(site, rate, active=None, units=None, unit_rates=None):
    """One sentence on what a layer carries; collapse, of the layer or of some of its units, is called by its name.

    :param float rate: nats per datum. ``active``, ``units``: active units and units, where counted.
    :param unit_rates: (units,) nats per datum, where known.

    >>> describe_layer("z3", 0.011, 0, 4)
    'z3 carries nothing: rate 0.01 nats, 0 of 4 units active. It has collapsed to the prior.'
    >>> describe_layer("z1", 3.2, 2, 3, [1.6, 1.6, 0.001])
    'z1 is used: rate 3.20 nats, 2 of 3 units active. 1 unit carries nothing (below 0.01 nats): z1[2].'
    """
    word = layer_word(rate, active)
    if word == "not finite":
        return f"{site}: its rate is not a number."
    verb = {"collapsed": "carries nothing", "weak": "carries little", "active": "is used"}[word]
    counted = "" if active is None or units is None else f", {active} of {units} units active"
    text = f"{site} {verb}: rate {abs(rate) if abs(rate) < 0.005 else rate:.2f} nats{counted}."
    if word == "collapsed":
        below = "It has collapsed to the prior." if rate < WEAK else "Its q does not depend on x, and is not the prior."
        return f"{text} {below}"
    idle = [] if unit_rates is None else [i for i, r in enumerate(unit_rates) if r < COLLAPSED]
    if not idle:
        return text
    names = ", ".join(f"{site}[{i}]" for i in idle[:NAMED]) + (", ..." if len(idle) > NAMED else "")
    verb = "unit carries" if len(idle) == 1 else "units carry"
    text = f"{text} {len(idle)} {verb} nothing (below {COLLAPSED} nats): {names}."
    if active is not None and units is not None and len(idle) > units - active:
        text += " Some are active all the same: below the top a unit's mean may vary because the prior's does."
    return text
