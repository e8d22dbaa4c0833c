r"""Mixture guide: several full-rank Gaussians over all latents in unconstrained space, for posteriors of several modes.

.. math:: q_u(u) = \sum_{c=1}^C \pi_c\, N(u;\ \mu_c,\ L_c L_c^\top)

Components can be trained together, or added one at a time by :func:`pyrarchy.inference.boost`.

A draw is a component and then a Gaussian draw. Given the component the path to its mean and factor is the usual one. The
weights get theirs by implicit reparameterisation: with F_d the distribution function of u_d given the entries before it,
F(u; pi) is held constant, so that

.. math:: \frac{\partial u}{\partial \pi} = -\Big(\frac{\partial F}{\partial u}\Big)^{-1} \frac{\partial F}{\partial \pi}.

The gradient is unbiased, and of use where components overlap. Between components far apart its mass sits on draws that
hardly ever come, and weights seem not to move: ``boost`` sets them by one expectation a component instead.

Source: Miller, Foti & Adams (2017), https://arxiv.org/abs/1611.06585; the gradient: Figurnov, Mohamed & Mnih (2018),
https://arxiv.org/abs/1805.08498.
Differs from the paper: components are full-rank where it takes low rank plus a diagonal.
"""

from contextlib import contextmanager

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

from .full_rank import scale_tril
from .joint import Joint
from .mean_field import SCALE_FLOOR


class GaussianMixtureDensity(dist.TorchDistribution):
    """A mixture of C Gaussians on R^D whose samples carry a gradient to means, factors and weights.

    :param logits: (C,). :param loc: (C, D). :param scale_tril: (C, D, D) lower triangular, positive diagonal.
    """

    arg_constraints = {}  # noqa: RUF012  (torch's own name and form)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits, loc, scale_tril):
        self.log_weights = logits.log_softmax(-1)
        self.loc, self.scale_tril = loc, scale_tril
        super().__init__(torch.Size(), loc.shape[-1:], validate_args=False)

    def log_prob(self, value):
        """Values (..., D) to (...)."""
        return (self.log_weights + self.log_components(value)).logsumexp(-1)

    def log_components(self, value):
        """Each component's log-density at values (..., D): (..., C)."""
        return self._log_entries(self._whitened(value)).sum(-1)

    def rsample(self, sample_shape=()):
        """Draws (*sample_shape, D)."""
        shape = torch.Size(sample_shape) + self.event_shape
        probabilities = self.log_weights.detach().exp()
        picked = torch.multinomial(probabilities, shape[:-1].numel(), replacement=True)
        noise = torch.randn(len(picked), shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        u = self.loc[picked] + (self.scale_tril[picked] @ noise.unsqueeze(-1)).squeeze(-1)
        if self.log_weights.requires_grad and len(self.loc) > 1:
            u = u + self._path_of_weights(u.detach())
        return u.reshape(shape)

    def _path_of_weights(self, u):
        """Zero, whose derivative by the weights is that of the draws u (S, D)."""
        with torch.no_grad():
            tril = self.scale_tril
            eps = self._whitened(u)  # (S, C, D)
            inverse = torch.linalg.inv(tril)  # d eps / d u, (C, D, D)
            entries = self._log_entries(eps)
            before = entries.cumsum(-1) - entries  # log N_c(u_<d), (S, C, D)
            cdf = 0.5 * torch.erfc(-eps / 2**0.5)
            density = entries.exp()  # of u_d given u_<d, in component c
            score = -(eps.unsqueeze(-1) * inverse)  # d log N_c(u_d | u_<d) / d u_e, (S, C, D, D)
            score_before = score.cumsum(-2) - score  # d log N_c(u_<d) / d u_e
        share = (self.log_weights.unsqueeze(-1) + before).softmax(-2)  # of component c given u_<d, (S, C, D)
        function = (share * cdf).sum(-2)  # F_d, (S, D): a function of the weights alone here
        with torch.no_grad():
            spread = cdf - function.unsqueeze(-2)
            jacobian = torch.einsum("scd,scde->sde", share * spread, score_before)
            # d cdf / d u_e = N(eps_d) d eps_d / d u_e; on the diagonal it is the conditional density
            slope = density * tril.diagonal(dim1=-2, dim2=-1)
            jacobian = jacobian + torch.einsum("scd,scd,cde->sde", share, slope, inverse)
        moved = function - function.detach()
        return -torch.linalg.solve_triangular(jacobian, moved.unsqueeze(-1), upper=False).squeeze(-1)

    def _whitened(self, value):
        """L_c^-1 (value - mu_c), (..., C, D); entry d depends on the entries up to d alone."""
        shift = (value.unsqueeze(-2) - self.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.scale_tril, shift, upper=False).squeeze(-1)

    def _log_entries(self, eps):
        """log N_c(u_d | u_<d), (..., C, D)."""
        return -0.5 * (eps**2 + 1.8378770664093453) - self.scale_tril.diagonal(dim1=-2, dim2=-1).log()


class Mixture(Joint):
    """A mixture of full-rank Gaussians over the stacked latents.

    :param model, model_args, model_kwargs: as for :class:`~pyrarchy.guides.joint.Joint`.
    :param int components: how many to start with. The first starts where the other joint guides do, the rest around it.
    :param float init_scale: first standard deviation of every entry, uncoupled.
    :param float spread: standard deviation of the other components' starts around the first one's.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.guides.mixture import Mixture
    >>> def model(y):
    ...     tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    ...     with pyro.plate("school", 3):
    ...         theta = pyro.sample("theta", dist.Normal(0.0, tau))
    ...         pyro.sample("y", dist.Normal(theta, 1.0), obs=y)
    >>> guide = Mixture(model, torch.zeros(3), components=2)
    >>> guide.components, [tuple(p.shape) for p in guide.parameters()]
    (2, [(4,), (4,), (4,), (4,), (6,), (6,), ()])
    """

    def __init__(self, model, *model_args, components=2, init_scale=0.1, spread=0.5, **model_kwargs):
        super().__init__(model, *model_args, **model_kwargs)
        if components < 1:
            raise ValueError(f"a mixture needs at least one component, not {components}")
        if not init_scale > SCALE_FLOOR:
            raise ValueError(f"init_scale must be above {SCALE_FLOOR}, not {init_scale!r}")
        self.init_scale = init_scale
        self.locs, self.raw_scales = nn.ParameterList(), nn.ParameterList()
        self.couplings, self.logits = nn.ParameterList(), nn.ParameterList()
        self._only = None
        for i in range(components):
            self.grow(self.start + spread * torch.randn(self.dim).to(self.start) * (i > 0))

    @property
    def components(self):
        """How many there are."""
        return len(self.locs)

    def grow(self, loc, weight=None, scale=None):
        """Add an uncoupled component.

        :param loc: its mean, (dim,). :param float weight: its share of the whole, 1 / C by default.
        :param scale: its standard deviations, (dim,); ``init_scale`` by default.
        """
        n = self.dim
        if self.components:  # the first one's logit is zero: only differences count
            share = 1 / (self.components + 1) if weight is None else weight
            others = torch.stack([self.start.new_zeros(()), *(p.detach() for p in self.logits)]).logsumexp(0)
            self.logits.append(nn.Parameter(others + torch.logit(torch.as_tensor(share).to(self.start))))
        scale = torch.full_like(self.start, self.init_scale) if scale is None else scale.detach().to(self.start)
        above = scale - SCALE_FLOOR
        self.locs.append(nn.Parameter(loc.detach().clone().to(self.start)))
        self.raw_scales.append(nn.Parameter(above + (-(-above).expm1()).log()))
        self.couplings.append(nn.Parameter(self.start.new_zeros(n * (n - 1) // 2)))

    def shrink(self):
        """Take the last component away."""
        if self.components < 2:
            raise ValueError("the mixture has one component left: it cannot be taken away")
        for name in ("locs", "raw_scales", "couplings", "logits"):
            setattr(self, name, nn.ParameterList(list(getattr(self, name))[:-1]))

    def component_parameters(self, index):
        """Mean, scales and couplings of one component."""
        return [self.locs[index], self.raw_scales[index], self.couplings[index]]

    @contextmanager
    def only(self, index):
        """Draw from one component, and score by it, inside."""
        self._only = index
        try:
            yield
        finally:
            self._only = None

    def distribution(self):
        """The density of the stacked vector: the mixture, or inside :meth:`only` one Gaussian of it."""
        if self._only is not None:
            loc, raw, coupling = self.component_parameters(self._only)
            return dist.MultivariateNormal(loc, scale_tril=scale_tril(raw, coupling))
        logits = torch.stack([self.start.new_zeros(()), *self.logits])
        tril = scale_tril(torch.stack(list(self.raw_scales)), torch.stack(list(self.couplings)))
        return GaussianMixtureDensity(logits, torch.stack(list(self.locs)), tril)
