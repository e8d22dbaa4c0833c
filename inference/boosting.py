r"""Variational boosting: a mixture guide whose components are added one at a time, each where the guide falls short.

.. math:: q_{C+1}(u) = (1 - \rho)\, q_C(u) + \rho\, N(u; \mu, L L^\top)

A new component starts with the mean, the scales and the share rho of what q_C lacks, the positive part of p - q_C, by
importance sampling. It is trained with that share while the others stand still; then all weights are set by the
stratified bound

.. math:: \sum_c \pi_c\, \mathbb E_{N_c}\Big[\log p(x, u) - \log \sum_{c'} \pi_{c'} N_{c'}(u)\Big],

in which they are exact: the same draws of each component serve every value of the weights. A component that does not
raise the bound is taken away again, and the boosting ends.

Source: Miller, Foti & Adams (2017), https://arxiv.org/abs/1611.06585.
"""

import copy
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .elbo import ELBO
from .fit import fit
from .isolation import isolated, root_modules
from .terms import make_terms, trace_pair


@dataclass(frozen=True)
class Boosted:
    """What boosting did.

    :ivar list bounds: the bound after one component, after two ..., in nats; the last entry is the guide's own.
    :ivar list errors: the standard error of each.
    :ivar list weights: the components' weights at the end.
    :ivar float refused: the bound with the component that was taken away again; ``None`` if there was none.
    """

    bounds: list
    errors: list
    weights: list
    refused: float | None = None


def boost(
    model,
    guide,
    data=None,
    *,
    components=3,
    steps=1000,
    optimizer=0.03,
    num_particles=64,
    num_draws=4000,
    widen=3.0,
    seed=0,
):
    """Train a mixture guide greedily, in place; the model is left as it is.

    :param model: a model whose latents are global, so that its bound is one number.
    :param guide: a guide with ``grow``, ``shrink``, ``only``, ``component_parameters``, ``logits`` and ``distribution``,
        such as :class:`pyrarchy.guides.Mixture`, of one component, untrained.
    :param data: the model's argument, a tuple of them, or ``None``.
    :param int components: the most that the mixture shall have.
    :param int steps: steps of :func:`~pyrarchy.inference.fit` for each component.
    :param optimizer: as for ``fit``; the learning rate falls to zero along a cosine.
    :param int num_particles: draws a step.
    :param int num_draws: draws of each component for weights and bounds.
    :param float widen: by how much the scales of the widest proposal exceed the mixture's, in the search for a start.
    :returns: :class:`Boosted`.
    :raises TypeError: for a guide that is no such mixture.
    :raises ValueError: for a guide that has more than one component already, and (from ``fit``, naming the site) for
        latents in plate ``data``, which have a bound per datum each.
    """
    wanted = ("grow", "shrink", "only", "component_parameters", "logits", "distribution")
    missing = [name for name in wanted if not hasattr(guide, name)]
    if missing:
        raise TypeError(f"{type(guide).__name__} has no {', '.join(missing)}: boosting needs pyrarchy.guides.Mixture")
    if guide.components != 1:
        raise ValueError(f"the guide has {guide.components} components: start boosting from one (components=1)")
    args = () if data is None else data if isinstance(data, tuple) else (data,)
    plan = {"objective": ELBO(num_particles, estimator="stl"), "optimizer": optimizer, "steps": steps, "seed": seed}
    plan["schedule"] = lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    bounds, errors = [], []
    while True:
        with _alone(model, guide):
            fit(model, guide, data, **plan)
        with isolated(model, guide, seed=seed), torch.no_grad():
            _reweigh(model, guide, args, num_draws)
            bound, error = _bound(model, guide, args, num_draws)
        if bounds and bound <= bounds[-1]:
            guide.shrink()
            with isolated(model, guide, seed=seed), torch.no_grad():
                _reweigh(model, guide, args, num_draws)
            return Boosted(bounds, errors, _weights(guide), refused=bound)
        bounds.append(bound)
        errors.append(error)
        if guide.components >= components:
            return Boosted(bounds, errors, _weights(guide))
        with isolated(model, guide, seed=seed), torch.no_grad():
            guide.grow(*_start(model, guide, args, num_draws, widen))


def _weights(guide):
    with torch.no_grad():
        return [1.0] if guide.components == 1 else guide.distribution().log_weights.exp().tolist()


@contextmanager
def _alone(model, guide):
    """Let the last component and its weight be trained and nothing else."""
    free = {id(p) for p in guide.component_parameters(guide.components - 1)}
    free |= {id(p) for p in list(guide.logits)[-1:]}
    parameters = [p for root in root_modules(model, guide) for p in root.parameters()]
    before = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(id(p) in free)
        with warnings.catch_warnings():  # Pyro remarks on each frozen tensor that it does not register
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            yield
    finally:
        for p, wanted in zip(parameters, before, strict=True):
            p.requires_grad_(wanted)


def _joint(model, guide, args, count):
    """Draws u (S, D) of the guide as it stands, and log p(x, z) + log |dz / du| at them, (S,)."""
    model_trace, guide_trace = trace_pair(model, guide, args, num_particles=count)
    terms = make_terms(model_trace, guide_trace, num_particles=count)
    u = guide_trace.nodes["joint"]["value"].reshape(count, -1)
    return u, terms.log_w.squeeze(-1) + guide.distribution().log_prob(u)


def _strata(model, guide, args, count):
    """Per component: log p(x, u) (C, S), and every component's log-density there (C, S, C)."""
    joint, each = [], []
    for c in range(guide.components):
        with guide.only(c):
            u, log_joint = _joint(model, guide, args, count)
        joint.append(log_joint)
        mixture = guide.distribution()
        each.append(mixture.log_components(u))
    return torch.stack(joint), torch.stack(each)


def _reweigh(model, guide, args, count):
    """Set all weights to the maximum of the stratified bound."""
    if guide.components == 1:
        return
    joint, each = _strata(model, guide, args, count)
    mean = joint.mean(1)
    logits = torch.stack([mean.new_zeros(()), *(p.detach() for p in guide.logits)]).clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        log_weights = logits.log_softmax(0)
        value = -(log_weights.exp() * (mean - (log_weights + each).logsumexp(-1).mean(1))).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    floor = math.log(1e-6)  # a weight of zero would have an infinite logit
    logits = logits.detach().log_softmax(0).clamp(min=floor)
    for p, value in zip(guide.logits, logits[1:] - logits[0], strict=True):
        p.copy_(value)


def _bound(model, guide, args, count):
    """The stratified bound and its standard error, on fresh draws."""
    joint, each = _strata(model, guide, args, count)
    log_weights = guide.distribution().log_weights
    values = joint - (log_weights + each).logsumexp(-1)
    weights = log_weights.exp()
    error = (weights**2 * values.var(1) / count).sum().sqrt()
    return (weights * values.mean(1)).sum().item(), error.item()


def _start(model, guide, args, count, widen):
    """Mean, scales and share of a new component: moments of the part of the posterior that q lacks, (p - q)+.

    Draws come from q itself and from q widened a little and a lot: in many dimensions the widest alone would leave a
    handful of draws with all the weight.
    """
    proposals, u, log_joint = [], [], []
    for factor in (1.0, 1.5, widen):
        other, wide = copy.deepcopy((model, guide))
        for raw in wide.raw_scales:
            scale = torch.nn.functional.softplus(raw) * factor
            raw.copy_(scale + (-(-scale).expm1()).log())
        drawn = _joint(other, wide, args, count)
        proposals.append(wide.distribution())
        u.append(drawn[0])
        log_joint.append(drawn[1])
    u, log_joint = torch.cat(u), torch.cat(log_joint)
    log_proposal = torch.stack([q.log_prob(u) for q in proposals]).logsumexp(0) - math.log(len(proposals))
    w = (log_joint - log_proposal - (log_joint - log_proposal).max()).exp()
    lacking = (w / w.mean() - (guide.distribution().log_prob(u) - log_proposal).exp()).clamp(min=0)
    share = lacking.mean().clamp(0.05, 0.5).item()
    lacking = lacking / lacking.sum()
    loc = lacking @ u
    return loc, share, (lacking @ (u - loc) ** 2).sqrt().clamp(min=guide.init_scale)
