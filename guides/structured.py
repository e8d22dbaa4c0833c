r"""Structured guide: the local posteriors read the sampled globals, and the globals read each other.

.. math:: q(g, z) = \prod_i q(g_i \mid g_{<i}) \prod_n q(z_n \mid g), \qquad
          u_n = \mu_n + s_n \Big(\epsilon_n + \sum_k C_{nk} \frac{v_k - m_k}{s_k}\Big), \quad \epsilon_n \sim N(0, 1)

u_n and v_k are a local and a global latent in unconstrained space, m_k and s_k the global's own location and scale. Where
the model is Gaussian given its scales, this is the form of the exact p(z_n | g, x): what a mean-field guide misses of a
hierarchy, at a cost that grows with the number of data and not with its square, as a full-rank guide's does.

Source: Hoffman & Blei (2015), Structured stochastic variational inference, https://arxiv.org/abs/1404.4114.
Differs from the paper: reparameterised gradients instead of natural ones, and free couplings instead of the conditional
optimum (the "linear" dependencies of Pyro's AutoStructured).
"""

import pyro.distributions as dist
import torch
from torch import nn

from .example_data import few
from .mean_field import MeanField, _key


class Structured(MeanField):
    """Normals in unconstrained space whose means are affine in the global latents above them.

    A site is global when it lies in no plate. Couplings start at zero, where this is a :class:`MeanField`.

    :param model, model_args, model_kwargs, init_scale: as for :class:`MeanField`.
    :raises ValueError: as :class:`MeanField` does, and for a model without a global latent, naming its sites.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.guides import Structured
    >>> def model(x):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", len(x), dim=-1):
    ...         z = pyro.sample("z1", dist.Normal(mu, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> guide = Structured(model, torch.arange(3.0))
    >>> {name: tuple(p.shape) for name, p in guide.named_parameters() if "coupling" in name}
    {'couplings.z1': (3, 1)}
    """

    def __init__(self, model, *model_args, init_scale=0.1, **model_kwargs):
        super().__init__(model, *model_args, init_scale=init_scale, **model_kwargs)
        self._globals = [site for site in self._sites.values() if not site.frames]
        if not self._globals:
            raise ValueError(
                f"site(s) {few(self._sites)} all lie in plates: there is no global latent for the others to read. "
                "Use MeanField, or an amortised guide."
            )
        couplings, width = {}, 0
        for site in self._sites.values():
            if width:
                couplings[_key(site.name)] = site.start.new_zeros(*site.start.shape, width)
            width += 0 if site.frames else site.start.numel()
        self.couplings = nn.ParameterDict(couplings)

    def restrict(self, names):
        """Keep the parameters of these sites alone; globals that another guide samples are read all the same."""
        super().restrict(names)
        for key in set(self.couplings) - {_key(name) for name in names}:
            del self.couplings[key]

    def normal(self, site):
        """Location and scale, the location moved by the globals above: outer dimensions are those of their samples."""
        loc, scale = super().normal(site)
        key = _key(site.name)
        if key not in self.couplings:
            return loc, scale
        (coupling,) = self.pick(site, self.couplings[key], extra=1)
        above = self._above(coupling.shape[-1])
        above = above.reshape(*above.shape[:-1], *[1] * site.event_dim, above.shape[-1])
        return loc + scale * (coupling * above).sum(-1), scale

    def _above(self, width):
        """The first ``width`` entries of the globals, standardised: (batch..., width)."""
        parts, found = [], 0
        for site in self._globals:
            if found == width:
                break
            value = site.transform.inv(self.trace.nodes[site.name]["value"])
            if _key(site.name) in self.locs:
                loc, scale = super().normal(site)
                value = (value - loc) / scale
            else:  # another guide's
                value = value - site.start
            batch = value.shape[: value.dim() - site.event_dim]
            parts.append(value.reshape(*batch, -1))
            found += parts[-1].shape[-1]
        batch = torch.broadcast_shapes(*[part.shape[:-1] for part in parts])
        return torch.cat([part.expand(*batch, -1) for part in parts], -1)


class AmortizedStructured(Structured):
    """Globals as in :class:`Structured`; for each local site a network of the datum and of the globals.

    .. math:: q(z_n \\mid g) = N(z_n; \\mu(x_n, v), \\sigma(x_n, v)^2)

    So new data have a posterior, and batches of any rows can be trained on.

    :param model, model_args, model_kwargs, init_scale: as for :class:`Structured`.
    :param network: module from a tensor (..., x_dim + G) to a dictionary from local site to a diagonal Normal, as
        :class:`~pyrarchy.guides.Encoder`; the G entries on the right are the globals, standardised.
    """

    def __init__(self, model, network, *model_args, init_scale=0.1, **model_kwargs):
        super().__init__(model, *model_args, init_scale=init_scale, **model_kwargs)
        if len(self._globals) == len(self._sites):
            raise ValueError(
                f"site(s) {few(self._sites)} are all global: the network would have nothing to answer for. Use Structured."
            )
        self.restrict([site.name for site in self._globals])
        self.data, self.network = None, network

    def encode(self, x, *args, **kwargs):
        """The data, one row of features each: (N, x_dim)."""
        return x.reshape(len(x), -1)

    def posterior(self, name, prior):
        """The globals' Normals, or the network's for a local site."""
        site = self._sites.get(name)
        if site is None or not site.frames:
            return super().posterior(name, prior)
        above = self._above(sum(s.start.numel() for s in self._globals))
        x, node = self.evidence, self.trace.nodes.get(site.frames[-1].name)
        if node is not None and len(node["value"]) != len(x):
            x = x[node["value"]]
        if above.dim() == 1:
            above = above.expand(len(x), -1)
        else:
            above = above.expand(*above.shape[:-2], len(x), -1)
        found = self.network(torch.cat([x.expand(*above.shape[:-1], -1), above], -1))
        try:
            q = found[name]
        except KeyError:
            raise ValueError(
                f"the network gives no distribution for the local site '{name}' (it covers {sorted(found)})"
            ) from None
        if prior.event_dim == 0 and q.event_dim == 1:
            base = q.base_dist
            q = dist.Normal(base.loc.squeeze(-1), base.scale.squeeze(-1))
        return q
