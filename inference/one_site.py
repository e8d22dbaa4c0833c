"""The frozen table for free, where there is one Gaussian latent site: a hook on its value reweights the path.

With several sites a hook on each would count the lower paths twice, so they take a second pass
(:meth:`~pyrarchy.inference.run.Run.freeze`). With one, the gradient that reaches z is the path's and nothing else's.
"""

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample


class WatchLatents(Messenger):
    """Hand each Gaussian latent on as a new tensor object, on which a hook can be put later.

    Flows keep their own object: they remember its inverse by identity.
    """

    def __init__(self):
        super().__init__()
        self.watched, self.others = {}, []

    def _pyro_post_sample(self, msg):
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if isinstance(innermost(msg["fn"]), torch.distributions.Normal) and msg["value"].requires_grad:
            msg["value"] = self.watched[msg["name"]] = msg["value"].view_as(msg["value"])
        else:
            self.others.append(msg["name"])


def innermost(distribution):
    """A distribution without its ``to_event``."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution


def single_site(terms, watch):
    """Name of the pair's only latent site, if it is Gaussian, per datum and scored by one density; else ``None``."""
    one = len(watch.watched) == 1 and not watch.others and list(terms.log_p) == list(terms.log_q) == list(watch.watched)
    if not one or terms.layout.data_dim != -1 or terms.log_aux:  # a hook would reweight auxiliary terms too
        return None
    (name,) = terms.log_p
    return name if terms.q[name].batch_shape == _batch(terms) else None


def reweighted_path(terms, watch, name, w, path):
    """Surrogate (B,): the model follows ``w``, the guide ``path`` through z alone; both (K, B), held constant.

    :math:`\\sum_k w_k (\\log p - \\log q_2)` with the gradient at z multiplied by ``path / w``.
    """
    q = terms.q[name]
    base = innermost(q)
    still = dist.Normal(base.loc.detach(), base.scale.detach()).to_event(q.event_dim)
    log_q = _log_q(terms, name, still, watch.watched[name])
    # A weight that underflows would take the path with it, which has its own weight (PIWAE's is of the group). The
    # floor is the square of the precision, below what theta's gradient can see.
    w = torch.where(w.abs() < (floor := torch.finfo(w.dtype).eps ** 2), floor, w)
    factor = (path / w).reshape(_batch(terms) + (1,) * q.event_dim)
    watch.watched[name].register_hook(lambda gradient: gradient * factor)
    log_p = terms.log_lik + terms.log_p[name]
    return (w * (log_p - log_q)).sum(0)


def score(terms, name):
    """log q at the same latents held constant, (K, B): its gradient is the score."""
    return _log_q(terms, name, terms.q[name], terms.values[name].detach())


def _log_q(terms, name, q, value):
    """Log density under ``q``, masked as the guide's site is, (K, B)."""
    site = terms.guide_sites[name]
    return terms.layout.table(scale_and_mask(q.log_prob(value), 1.0, site["mask"]), site)


def _batch(terms):
    k, batch = terms.layout.num_particles, terms.layout.batch
    return torch.Size((k, batch) if k > 1 else (batch,))
