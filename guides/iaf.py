r"""Inverse autoregressive flow: a Gaussian per datum, pushed through gated autoregressive steps that see its context.

.. math:: z^{(t)} = \sigma_t \odot z^{(t-1)} + (1 - \sigma_t) \odot m_t, \qquad
          \sigma_t = \mathrm{sigmoid}(s_t), \quad (m_t, s_t) = \mathrm{MADE}_t(z^{(t-1)}, h(x))

Sampling costs one pass a step. The log-density of a sample uses the numbers of that pass; of a foreign value it costs
one sequential pass a dimension and step.

Source: Kingma et al. (2016), https://arxiv.org/abs/1606.04934; Germain et al. (2015), https://arxiv.org/abs/1502.03509.
"""

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro.nn import ConditionalAutoRegressiveNN
from torch import nn

from .amortized import Amortized


class GatedFlow(nn.Module):
    """Gated autoregressive steps with a context, the order reversed between them.

    :param int dim: dimension of the variable.
    :param int context_dim: width of the context.
    :param int steps: number of steps.
    :param hidden: widths of each step's masked network; at least ``dim`` each.
    :param float bias: added to s, so that a fresh flow is near the identity (+1 to +2 in the paper).
    """

    def __init__(self, dim, context_dim, steps=2, hidden=(64,), bias=1.5):
        super().__init__()
        if steps < 1:
            raise ValueError(f"a flow needs at least one step, not {steps}")
        order = torch.arange(dim)
        # Reversing the order inside the masks equals reversing z between the steps, and costs nothing.
        self._stack(
            (
                ConditionalAutoRegressiveNN(
                    dim, context_dim, list(hidden), permutation=order.flip(0) if t % 2 else order
                )
                for t in range(steps)
            ),
            bias,
        )

    @classmethod
    def of(cls, networks, bias=1.5):
        """A flow of given autoregressive networks (see Pyro's ``ConditionalAutoRegressiveNN``), one a step."""
        flow = cls.__new__(cls)
        nn.Module.__init__(flow)
        flow._stack(networks, bias)
        return flow

    def _stack(self, networks, bias):
        steps = (T.ConditionalAffineAutoregressive(net, stable=True, sigmoid_bias=bias) for net in networks)
        self.steps = nn.ModuleList(steps)

    def forward(self, base, context):
        """Push a distribution with event shape (dim,) through the steps, given a context (..., context_dim)."""
        return dist.TransformedDistribution(base, [step.condition(context) for step in self.steps])


class IAF(Amortized):
    """An amortised Gaussian at each site, made flexible by a flow that reads the datum's context.

    :param model: the model.
    :param encoder: an :class:`~pyrarchy.guides.Encoder`; its block outputs are the contexts.
    :param int steps: flow steps per site of two dimensions or more.
    :param hidden: widths of each step's masked network.
    """

    def __init__(self, model, encoder, steps=2, hidden=(64,)):
        super().__init__(model, encoder)
        # An affine step on one dimension leaves a Gaussian a Gaussian: such a site keeps the one it has.
        self.flows = nn.ModuleDict(
            {
                f"z{i}": GatedFlow(head.loc.out_features, head.loc.in_features, steps, hidden)
                for i, head in enumerate(encoder.heads, 1)
                if head.loc.out_features > 1
            }
        )

    def encode(self, x, *args, **kwargs):
        """Per site, the Gaussian that starts the flow and its context."""
        encoder = self.encoder
        features = encoder.features(x)
        return {f"z{i}": (head(h), h) for i, (head, h) in enumerate(zip(encoder.heads, features, strict=True), 1)}

    def posterior(self, name, prior):
        """The Gaussian pushed through the site's flow."""
        base, context = self.message(name)
        return self.flows[name](base, context) if name in self.flows else base
