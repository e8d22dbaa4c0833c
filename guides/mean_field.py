r"""Mean-field guide: a free Gaussian per latent site in unconstrained space, for models without a network.

.. math:: q(z) = \prod_i N(u_i; \mu_i, \sigma_i^2) \left|\frac{\partial u_i}{\partial z_i}\right|,
          \qquad u_i = T_i^{-1}(z_i)

T_i is Pyro's bijection from the reals to the support of the prior at site i. A site in plate ``data`` keeps one row of
parameters per datum; rows are found by the *content* of the data, so that another data set of the same size is refused
instead of being given this one's posterior.

Source: Kucukelbir et al. (2017), Automatic differentiation variational inference, https://arxiv.org/abs/1603.00788.
Differs from the paper: starts at the prior mean where that is finite and at u = 0 elsewhere; scales have a floor.
"""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn

from .base import Guide
from .example_data import DataRows, inverse_softplus, latent_sites, to_support

SCALE_FLOOR = 1e-6


class MeanField(Guide):
    """A free Normal per latent site, global or local, pushed to the support of the prior.

    :param model: the model.
    :param model_args, model_kwargs: example arguments; with latents in plate ``data``, the training data themselves.
    :param float init_scale: first scale of every Normal, in unconstrained space.
    :raises ValueError: for a discrete site, and when called on rows that are not among the example's; each names the
        site. Any subset of the example's rows, in any order, is served with those rows' parameters.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.guides.mean_field import MeanField
    >>> def model(y):
    ...     tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    ...     with pyro.plate("data", len(y), dim=-1):
    ...         z = pyro.sample("z1", dist.Normal(0.0, tau))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=y)
    >>> guide = MeanField(model, torch.arange(3.0))
    >>> {name: tuple(p.shape) for name, p in guide.named_parameters()}
    {'locs.tau': (), 'locs.z1': (3,), 'raw_scales.tau': (), 'raw_scales.z1': (3,)}
    """

    def __init__(self, model, *model_args, init_scale=0.1, **model_kwargs):
        super().__init__(model)
        if not init_scale > SCALE_FLOOR:
            raise ValueError(f"init_scale must be above {SCALE_FLOOR}, not {init_scale!r}")
        self._sites = latent_sites(model, model_args, model_kwargs)
        raw = inverse_softplus(init_scale - SCALE_FLOOR)
        self.locs = nn.ParameterDict({_key(n): s.start for n, s in self._sites.items()})
        self.raw_scales = nn.ParameterDict({_key(n): torch.full_like(s.start, raw) for n, s in self._sites.items()})
        sizes = [f.full_size or f.size for s in self._sites.values() if (f := s.frame("data"))]
        self.data = DataRows(model_args, model_kwargs, sizes[0]) if sizes else None

    def encode(self, *args, **kwargs):
        """Where the rows of these data stand among the example's."""
        return self.data.find(args, kwargs) if self.data is not None else None

    @property
    def sites(self):
        """Names of the model's latent sites, in its order."""
        return list(self._sites)

    def restrict(self, names):
        """Keep the parameters of these sites alone: the others are another guide's, as a part of ``PerSite``."""
        for table in (self.locs, self.raw_scales):
            for key in set(table) - {_key(name) for name in names}:
                del table[key]

    def posterior(self, name, prior):
        """The site's Normal, its rows picked by the data and by the indices of subsampled plates."""
        site = self._sites.get(name)
        if site is None:
            raise ValueError(f"the model's latent site '{name}' was not there in the run on the example arguments "
                             f"(which had {sorted(self._sites)}): its sites must not depend on data or chance.")  # fmt: skip
        loc, scale = self.normal(site)
        q = dist.Normal(loc, scale).to_event(site.event_dim)
        transform = to_support(name, prior)
        if _is_identity(transform):
            return q  # a plain Normal, so that KL(q || p) has its closed form
        return dist.TransformedDistribution(q, [transform.with_cache()])

    def normal(self, site):
        """Location and scale of a site's Normal in unconstrained space, for the rows of this pass."""
        loc, raw = self.pick(site, self.locs[_key(site.name)], self.raw_scales[_key(site.name)])
        return loc, SCALE_FLOOR + F.softplus(raw)

    def pick(self, site, *tables, extra=0):
        """Tables with an entry per row of the site's plates, and ``extra`` dimensions on the right, cut to this pass."""
        for frame in site.frames:
            index = self._rows(site, frame)
            if index is not None:
                dim = frame.dim - site.event_dim - extra
                tables = [table.index_select(dim, index) for table in tables]
        return tables

    def _rows(self, site, frame):
        """Which rows along a plate this pass is about; ``None`` for all of them, in order."""
        rows = None
        if frame.name == "data":
            rows = self.evidence
            if rows is None:
                raise ValueError(
                    f"site '{site.name}' keeps one row of parameters per datum, made for the {frame.full_size} rows of "
                    f"the example data, and these data are others: {type(self).__name__} has no posterior for them. "
                    "Build and train a guide on these data, or amortise (an encoder maps any datum to its posterior)."
                )
            rows = rows if len(rows) else None
        node = self.trace.nodes.get(frame.name)
        if node is None:  # a plate made outside of the model
            return rows
        size = frame.full_size if rows is None else len(rows)
        if node["fn"].size != size:
            raise ValueError(
                f"site '{site.name}' lies in plate '{frame.name}' of size {node['fn'].size}, and the guide's parameters "
                f"were made for a size of {size}: build a guide with these arguments."
            )
        return node["value"] if rows is None else rows[node["value"]]


def _key(name):
    return name.replace(".", "__")  # a parameter's name must not hold a dot


def _is_identity(transform):
    while isinstance(transform, torch.distributions.transforms.IndependentTransform):
        transform = transform.base_transform
    return transform == torch.distributions.transforms.identity_transform
