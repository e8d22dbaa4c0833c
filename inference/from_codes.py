r"""Data from codes that the guide makes: from the average posterior in place of the prior, and the chain x -> z -> x.

.. math:: x \sim \int p(x | z) \, q(z) \, dz, \qquad x_{t+1} \sim p(x | z_t), \; z_t \sim q(z | x_t)

With the exact posterior the chain is a Gibbs sampler of p(x, z): from whatever data it starts, it ends in the model's own
p(x). With another guide it ends elsewhere, and how far away says what guide and model together make of data.

Source: Rezende, Mohamed & Wierstra (2014), https://arxiv.org/abs/1401.4082, appendix F (the chain, for imputation).
"""

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites

from .aggregate import AggregatePosterior
from .apply import _images, _observed_mean, reconstruct
from .draws import FixAndFree
from .isolation import isolated
from .terms import trace_pair


def sample_from_average(model, guide, data, num, site=None, *, mean=False, seed=0):
    """Data drawn with a layer's code from q(z) in place of p(z), the layers below from the model.

    :param data: tensor (N, ...) or tuple of aligned tensors: whose average posterior it is.
    :param int num: how many.
    :param str site: the layer; its q(z | x) must be given x alone (:class:`~pyrarchy.inference.AggregatePosterior`).
    :param bool mean: give E[x | z] in place of a draw of x.
    :returns: dictionary from the site and the observed sites to arrays (num, ...).
    """
    q = AggregatePosterior(model, guide, data, site)
    args = data if isinstance(data, tuple) else (data,)
    args = tuple(a.repeat(-(-num // len(a)), *[1] * (a.dim() - 1))[:num] for a in args)
    with isolated(model, None, seed=seed), torch.no_grad():
        z = q.sample((num,))
        observed = _images(prune_subsample_sites(poutine.trace(model).get_trace(*args)))
        with FixAndFree({q.site: z}, observed):
            trace = prune_subsample_sites(poutine.trace(model).get_trace(*args))
        out = {n: _observed_mean(trace.nodes[n]) if mean else trace.nodes[n]["value"] for n in observed}
        return {n: v.cpu().numpy() for n, v in {q.site: z, **out}.items()}


def alternating_chain(model, guide, x, steps, *, mean=False, seed=0):
    """Run x -> z -> x -> z ... for each row: the guide's draw of all latents, then the model's of x.

    :param x: tensor (N, ...), the model's only argument, where the chains start.
    :param int steps: T.
    :param bool mean: give E[x | z] (one draw of z) as the next x; for bits it is then no datum of the model's.
    :returns: array (T + 1, N, ...), the start first.
    :raises ValueError: when the model observes more than one site, or is given more than one argument.
    """
    if not isinstance(x, torch.Tensor):
        raise ValueError(f"the chain needs one tensor, what the model observes, not {type(x).__name__}")
    states = [x.cpu().numpy()]
    for step in range(steps):
        found = seen_again(model, guide, torch.as_tensor(states[-1]).to(x), mean=mean, seed=seed + step)
        if len(found) != 1:
            raise ValueError(f"the model observes {sorted(found)}: the chain is of one observed site")
        states.append(next(iter(found.values())).astype(states[0].dtype))
    return np.stack(states)


def seen_again(model, guide, x, *, mean=False, seed=0):
    """x given one draw of its latents: dictionary from observed site to a draw, or E[x | z], (N, ...)."""
    if not mean:
        return {name: v[0] for name, v in reconstruct(model, guide, x, draws=1, seed=seed).items()}
    with isolated(model, guide, seed=seed), torch.no_grad():
        trace, _ = trace_pair(model, guide, (x,))
        return {name: _observed_mean(site).cpu().numpy() for name, site in _images(trace).items()}
