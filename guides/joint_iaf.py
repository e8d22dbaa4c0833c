r"""Joint flow guide: a Gaussian over all latents in unconstrained space, bent by inverse autoregressive steps.

.. math:: u = \mu + s \odot v^{(T)}, \qquad
          v^{(t)} = m_t + e^{a_t} \odot v^{(t-1)}, \quad (m_t, a_t) = \mathrm{MADE}_t(v^{(t-1)}), \qquad
          v^{(0)} \sim N(0, I)

The order of the entries is reversed between steps. It follows curved and skewed posteriors, such as the funnel of a
scale and its effects, that no Gaussian fits. A sample and its density cost one pass a step; the density of a foreign
value costs one sequential pass an entry and step.

Source: Kingma et al. (2016), https://arxiv.org/abs/1606.04934; Germain et al. (2015), https://arxiv.org/abs/1502.03509.
Differs from the paper: no context, since the latents are those of one data set, and no gate, so that a step can also
expand (a gated one only contracts).
"""

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
import torch.nn.functional as F
from pyro.nn import AutoRegressiveNN
from torch import nn

from ..zoo.flow_prior import AffineStep
from .example_data import inverse_softplus
from .joint import Joint
from .mean_field import SCALE_FLOOR


class JointIAF(Joint):
    """A flow over the stacked latents.

    :param model, model_args, model_kwargs: as for :class:`~pyrarchy.guides.joint.Joint`.
    :param int flow_steps: autoregressive steps.
    :param int hidden: width of each step's masked network (at least the number of latents).
    :param float init_scale: first scale of every entry, times that of a fresh flow (about one).

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.guides.joint_iaf import JointIAF
    >>> def model(y):
    ...     tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    ...     with pyro.plate("school", 3):
    ...         theta = pyro.sample("theta", dist.Normal(0.0, tau))
    ...         pyro.sample("y", dist.Normal(theta, 1.0), obs=y)
    >>> guide = JointIAF(model, torch.zeros(3))
    >>> {name: tuple(value.shape) for name, value in guide(torch.zeros(3)).items()}
    {'tau': (), 'theta': (3,)}
    """

    def __init__(self, model, *model_args, flow_steps=3, hidden=32, init_scale=0.1, **model_kwargs):
        super().__init__(model, *model_args, **model_kwargs)
        if flow_steps < 1:
            raise ValueError(
                f"a flow needs at least one step, not {flow_steps}; without any it would be a mean-field guide"
            )
        if hidden < self.dim:
            raise ValueError(f"hidden must be at least the number of latents, {self.dim}, not {hidden}: masks need it")
        if not init_scale > SCALE_FLOOR:
            raise ValueError(f"init_scale must be above {SCALE_FLOOR}, not {init_scale!r}")
        order = torch.arange(self.dim)
        self.flow = nn.ModuleList()
        for step in range(flow_steps):
            # Reversing the order inside the masks equals reversing v between the steps, and costs nothing.
            permutation = order if step % 2 == 0 else order.flip(0)
            made = AutoRegressiveNN(self.dim, [hidden], permutation=permutation, nonlinearity=nn.ELU())
            with torch.no_grad():
                for parameter in made.layers[-1].parameters():
                    parameter.mul_(0.01)  # near the identity: steps drawn at random may multiply to overflow
            self.flow.append(AffineStep(made))
        self.flow.to(self.start)  # the data's dtype and device
        self.loc = nn.Parameter(self.start.clone())
        self.raw_scale = nn.Parameter(torch.full_like(self.start, inverse_softplus(init_scale - SCALE_FLOOR)))

    def distribution(self):
        """The Gaussian pushed through the steps, then scaled and moved."""
        base = dist.Normal(torch.zeros_like(self.loc), torch.ones_like(self.loc)).to_event(1)
        scale = SCALE_FLOOR + F.softplus(self.raw_scale)
        last = T.AffineTransform(self.loc, scale, event_dim=1, cache_size=1)
        return dist.TransformedDistribution(base, [*self.flow, last])
