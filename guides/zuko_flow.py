r"""Flows of the package zuko as guides: neural splines, masked autoregressive flows, or any other of its kind.

.. math:: z = \mu + s \odot u, \qquad u \sim \mathrm{flow}(\cdot\,; c)

with :math:`\mu, s, c` functions of the datum (:class:`ZukoFlow`), or free and without a context
(:class:`JointZukoFlow`). A flow is a function of (features, context) that returns a ``zuko.lazy.Flow``.

Source: Durkan et al. (2019), https://arxiv.org/abs/1906.04032; Papamakarios et al. (2017),
https://arxiv.org/abs/1705.07057; the flows themselves: Rozet et al., https://github.com/probabilists/zuko.
"""

import torch
import torch.nn.functional as F
from pyro.contrib.zuko import ZukoToPyro
from torch import nn
from torch.distributions import AffineTransform, constraints

from .amortized import Amortized
from .example_data import inverse_softplus
from .joint import Joint
from .ladder import normal_parameters
from .mean_field import SCALE_FLOOR


def _zuko():
    """The package, which is in the extra ``flows``."""
    try:
        import zuko
    except ImportError:
        raise ImportError("a flow of zuko needs the package zuko: pip install 'pyrarchy[flows]'") from None
    return zuko


def neural_spline(features, context=0, transforms=3, bins=8, hidden=(64, 64)):
    """Rational-quadratic splines on [-5, 5], autoregressive; one pass a transform for a sample, one an entry for a density.

    :param int features: dimension of the variable. :param int context: width of the context.
    """
    zuko = _zuko()
    flow = zuko.flows.NSF(features, context, transforms=transforms, bins=bins, hidden_features=hidden)
    # zuko's own direction has the cheap density; a guide samples, and knows the density of what it sampled.
    return zuko.lazy.Flow(flow.transform.inv, flow.base)


def masked_autoregressive(features, context=0, transforms=3, hidden=(64, 64)):
    """Affine autoregressive steps in the direction of Papamakarios et al.: one pass a step for a density, D for a sample.

    :param int features: dimension of the variable. :param int context: width of the context.
    """
    return _zuko().flows.MAF(features, context, transforms=transforms, hidden_features=hidden)


class FlowDensity(ZukoToPyro):
    """Pyro's wrapper of a zuko density, which has no support of its own."""

    support = constraints.real_vector

    def expand(self, batch_shape, _instance=None):
        """The same density for more places."""
        return FlowDensity(self.dist.expand(batch_shape))


class Move(AffineTransform):
    """``loc + scale * u``; zuko asks it for an event's shape alone, which rows of loc and scale would add to."""

    def forward_shape(self, shape):
        """An event keeps its shape."""
        return shape

    inverse_shape = forward_shape


def moved(flow, loc, scale):
    """``loc + scale * u`` for u of a zuko distribution, as a Pyro distribution of loc's event shape."""
    zuko = _zuko()
    back = zuko.transforms.ComposedTransform(Move(loc, scale, event_dim=1).inv, flow.transform)
    return FlowDensity(zuko.distributions.NormalizingFlow(back, flow.base))


class ZukoFlow(Amortized):
    """At each site a flow that reads the datum's features, moved and scaled by the encoder's Gaussian.

    :param model: the model.
    :param encoder: an :class:`~pyrarchy.guides.Encoder`; its block outputs are the contexts.
    :param flow: function of (features, context) to a ``zuko.lazy.Flow``: :func:`neural_spline`,
        :func:`masked_autoregressive`, a partial of them, or a class of ``zuko.flows``.
    :raises ImportError: without zuko (the extra ``flows``).
    """

    def __init__(self, model, encoder, flow=neural_spline):
        super().__init__(model, encoder)
        self.flows = nn.ModuleDict(
            {f"z{i}": flow(head.loc.out_features, head.loc.in_features) for i, head in enumerate(encoder.heads, 1)}
        )

    def encode(self, x, *args, **kwargs):
        """Per site, the Gaussian that moves the flow and its context."""
        heads, features = self.encoder.heads, self.encoder.features(x)
        return {f"z{i}": (head(h), h) for i, (head, h) in enumerate(zip(heads, features, strict=True), 1)}

    def posterior(self, name, prior):
        """The site's flow given the datum."""
        gaussian, context = self.message(name)
        return moved(self.flows[name](context), *normal_parameters(gaussian))


class JointZukoFlow(Joint):
    """One flow over all latents in unconstrained space, moved and scaled.

    :param model: the model; its latents are continuous.
    :param model_args, model_kwargs: example arguments, or the data themselves when latents lie in plate ``data``.
    :param flow: as for :class:`ZukoFlow`, with no context.
    :param float init_scale: first scale of every entry; a spline bends within 5 of them and hardly changes it.
    :raises ImportError: without zuko (the extra ``flows``).
    """

    def __init__(self, model, *model_args, flow=neural_spline, init_scale=1.0, **model_kwargs):
        super().__init__(model, *model_args, **model_kwargs)
        if not init_scale > SCALE_FLOOR:
            raise ValueError(f"init_scale must be above {SCALE_FLOOR}, not {init_scale!r}")
        self.flow = flow(self.dim, 0).to(self.start)
        self.loc = nn.Parameter(self.start.clone())
        self.raw_scale = nn.Parameter(torch.full_like(self.start, inverse_softplus(init_scale - SCALE_FLOOR)))

    def distribution(self):
        """The flow, scaled and moved."""
        return moved(self.flow(None), self.loc, SCALE_FLOOR + F.softplus(self.raw_scale))
