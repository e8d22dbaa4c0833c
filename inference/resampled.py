r"""The distribution that an importance-weighted bound implies: draw K from the guide, keep one by its weight.

.. math:: q_{IW}(z | x) = \mathbb E_{z_{2:K} \sim q}\Big[\frac{p(x, z)}{\tfrac1K\big(w(z) + \sum_{k>1} w(z_k)\big)}\Big]

L_K is a lower bound on the ELBO of this distribution, not of the guide. As K grows it approaches the posterior whatever the
guide is (the prior, say): then the inference model is no longer needed.

Source: Cremer, Morris & Duvenaud (2017), https://arxiv.org/abs/1704.02916; Bachman & Precup (2015), Training deep
generative models: variations on a theme.
"""

import math
from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.plate_messenger import block_plate
from pyro.poutine.runtime import get_plates

from .freeze import FixValues
from .layout import DATA, PARTICLES, PROPOSALS
from .terms import make_terms, trace_pair


class Resampled:
    """An ordinary Pyro guide: K proposals of another guide, one kept by its importance weight, for each datum.

    The density that its draw carries is p(x, z) over the mean weight of the K proposals it was chosen from: exact on the
    extended space of all proposals. Its log-weight is therefore log mean w, its ELBO is L_K, and importance sampling with
    it estimates p(x) without bias. The density of z alone is :meth:`log_prob`.

    :param model: the model, its latents all in plate ``data`` or all global.
    :param guide: the proposal, any callable that samples them.
    :param int num_proposals: K.
    :param int plates: nested plates of the model.
    """

    def __init__(self, model, guide, num_proposals, plates=1):
        if not isinstance(num_proposals, int) or num_proposals < 1:
            raise ValueError(f"num_proposals must be a positive integer, not {num_proposals!r}")
        self.model, self.guide, self.num_proposals, self.plates = model, guide, num_proposals, plates

    def __call__(self, *args, **kwargs):
        """Propose, choose, and sample the chosen latents as point masses; no gradient is followed."""
        outer = next((f.size for f in get_plates() if f.name == PARTICLES), None)
        copies = outer or 1
        with torch.no_grad(), pyro.poutine.block(), block_plate(PARTICLES, strict=False):
            terms = self._propose(args, kwargs, self.num_proposals * copies)
            log_w = terms.log_w.reshape(self.num_proposals, copies, -1)
            choice = dist.Categorical(logits=log_w.movedim(0, -1)).sample()  # (copies, B)
            log_joint = log_w + sum(terms.log_q.values()).reshape(log_w.shape)
            density = log_joint.gather(0, choice.unsqueeze(0)).squeeze(0) - _log_mean(log_w)
        carrier = self._carrier(terms)
        frames = {n: [f for f in s["cond_indep_stack"] if _is_own(f)] for n, s in terms.sites.items()}
        unique = {f.name: f for own in frames.values() for f in own}
        plates = {name: pyro.plate(name, f.size, dim=f.dim) for name, f in unique.items()}
        for name, value in terms.values.items():
            chosen = self._choose(value, choice, terms, name)
            log_density = density if name == carrier else torch.zeros_like(density)
            with ExitStack() as stack:
                for frame in frames[name]:
                    stack.enter_context(plates[frame.name])
                self._sample(name, chosen, log_density, terms, outer is not None)

    def log_prob(self, values, *args, num_estimates=100, **kwargs):
        """Estimate log q_IW(z | x) of given latents by Monte Carlo over the other proposals.

        A lower bound in expectation of the estimate's exponential's logarithm; exact for K = 1.

        :param dict values: latent site -> value of one draw, (B, ...) or global.
        :returns: tensor (B,) in nats (one entry when the latents are global).
        """
        with torch.no_grad(), FixValues(values):
            given = make_terms(
                *trace_pair(self.model, self.guide, args, kwargs, plates=self.plates), plates=self.plates
            )
        log_joint = given.log_lik[0] + sum(given.log_p.values())[0]
        if self.num_proposals == 1:
            return sum(given.log_q.values())[0]
        with torch.no_grad():
            others = self._propose(args, kwargs, (self.num_proposals - 1) * num_estimates).log_w
            others = others.reshape(self.num_proposals - 1, num_estimates, -1)
            own = given.log_w.unsqueeze(0).expand(1, num_estimates, -1)
            log_mean = _log_mean(torch.cat([own, others]))
        return log_joint + (-log_mean).logsumexp(0) - math.log(num_estimates)

    def _propose(self, args, kwargs, num):
        # One dimension further left than the particles', which Pyro keeps taken while their plate is only blocked.
        size = {"num_particles": num, "plates": self.plates + 1}
        traces = trace_pair(self.model, self.guide, args, kwargs, **size, name=PROPOSALS)
        terms = make_terms(*traces, **size)
        if terms.scale != 1.0:
            raise ValueError("Resampled needs the data themselves, not a subsampled plate: pass the rows")
        return terms

    def _carrier(self, terms):
        """The site that carries the density: one in plate ``data`` alone, or in no plate where all are global."""
        wanted = [] if terms.layout.data_dim is None else [DATA]
        for name, site in terms.sites.items():
            if [f.name for f in site["cond_indep_stack"] if _is_own(f)] == wanted:
                return name
        raise ValueError(
            f"no latent site of {list(terms.sites)} lies in {wanted or 'no plate'} alone, to carry the density"
        )

    def _choose(self, value, choice, terms, name):
        """Each datum's chosen proposal: (K copies, ..., B, event) to (copies, ..., B, event)."""
        if terms.layout.num_particles == 1:
            return value.unsqueeze(0)
        value = value.squeeze(1).reshape(self.num_proposals, -1, *value.shape[2:])
        index = choice
        event_dim = terms.sites[name]["fn"].event_dim
        batch = value.dim() - 2 - event_dim
        if terms.layout.data_dim is None:
            index = index.reshape(-1, *[1] * (value.dim() - 2))
        else:
            left, right = batch + terms.layout.data_dim, -1 - terms.layout.data_dim
            index = index.reshape(len(index), *[1] * left, terms.layout.batch, *[1] * (right + event_dim))
        return value.gather(0, index.unsqueeze(0).expand(1, *value.shape[1:])).squeeze(0)

    def _sample(self, name, value, log_density, terms, stacked):
        site = terms.sites[name]
        event_dim = site["fn"].event_dim
        if not stacked:
            value, log_density = value[0], log_density[0]
        own = value.dim() - event_dim
        if terms.layout.data_dim is None:
            log_density = log_density.reshape(log_density.shape[:1] + (1,) * (own - 1) if stacked else (1,) * own)
        else:
            inner = -1 - terms.layout.data_dim
            shape = log_density.shape[:-1] + (1,) * (own - inner - log_density.dim()) + log_density.shape[-1:]
            log_density = log_density.reshape(shape + (1,) * inner)
        pyro.sample(name, dist.Delta(value, log_density=log_density, event_dim=event_dim))


def _is_own(frame):
    """Whether a plate is the model's own."""
    return frame.vectorized and frame.name not in (PARTICLES, PROPOSALS)


def _log_mean(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))
