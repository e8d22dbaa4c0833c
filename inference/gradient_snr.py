r"""Signal-to-noise ratio of a gradient estimate, per parameter: is there anything left for the guide to follow?

.. math:: \mathrm{SNR} = \frac{|\mathbb E\,\Delta|}{\sqrt{\mathrm{Var}\,\Delta}}

As K grows the importance-weighted bound tightens and its plain gradient for the guide drowns: theta's SNR grows as
:math:`\sqrt{K}`, phi's falls as :math:`1/\sqrt{K}`; both grow as :math:`\sqrt{M}`.

Source: Rainforth et al. (2018), https://arxiv.org/abs/1802.04537.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from .isolation import isolated, root_modules


@dataclass
class GradientSNR:
    """Moments of a gradient estimate over repeated draws.

    :ivar dict mean, variance: parameter name -> array of its shape. Names begin with ``model.`` or ``guide.``.
    :ivar int draws: how many draws.
    """

    mean: dict
    variance: dict
    draws: int

    def snr(self, name):
        """Absolute mean over standard deviation, per entry."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.abs(self.mean[name]) / np.sqrt(self.variance[name])

    def snr_error(self, name):
        """Standard error of :meth:`snr` by the delta method for Gaussian draws: sqrt((1 + SNR^2 / 2) / draws)."""
        return np.sqrt((1 + self.snr(name) ** 2 / 2) / self.draws)

    def average(self, side):
        """Mean SNR over all entries of the parameters of ``"model"`` or ``"guide"`` with a gradient, and its error."""
        names = [n for n in self.mean if n.startswith(side + ".")]
        if not names:
            raise ValueError(f"no parameter of the {side}; there are {sorted(self.mean)}")
        ratio = np.concatenate([self.snr(n).ravel() for n in names])
        error = np.concatenate([self.snr_error(n).ravel() for n in names])
        kept = np.isfinite(ratio)
        return float(ratio[kept].mean()), float(np.sqrt((error[kept] ** 2).sum()) / max(kept.sum(), 1))


def gradient_snr(model, guide, data, objective, *, draws=1000, seed=0, at_once=None):
    """Draw the gradient of an objective many times, all of them vectorised, and give its moments.

    :param data: a tensor or a tuple of tensors, the model's arguments: one batch.
    :param objective: a :class:`~pyrarchy.inference.Bound`, with its estimator.
    :param int draws: gradients to draw.
    :param int at_once: how many to draw side by side; by default as many as keep a pass near 2 million numbers.
    :returns: :class:`GradientSNR` of the gradient of the bound summed over the batch.
    :raises ValueError: for a latent site whose sampler cannot be vectorised (see :class:`DrawApart`).
    """
    args = data if isinstance(data, tuple) else (data,)
    with isolated(model, guide, seed=seed), pyro.validation_enabled(False):
        places = _places(model, guide)
        values = tuple(parameter.detach() for _, _, _, parameter in places)

        def loss(replaced):
            for (_, module, name, _), value in zip(places, replaced, strict=True):
                module._parameters[name] = value
            try:
                with DrawApart(), TakeAsIs():
                    run = objective.run(model, guide, args)
                    run.watch = None  # hooks do not exist under a transform
                    terms = run.live()
                    objective.check(terms)
                    return terms.scale * objective.followed(terms, run).sum()
            finally:
                for _, module, name, parameter in places:
                    module._parameters[name] = parameter

        gradient = torch.func.vmap(lambda _: torch.func.grad(loss)(values), randomness="different")
        rows = args[0].numel() if args and torch.is_tensor(args[0]) else 1
        step = at_once or max(1, min(draws, 2_000_000 // max(1, rows * objective.num_particles)))
        count, total, square = 0, [0.0] * len(values), [0.0] * len(values)
        while count < draws:
            size = min(step, draws - count)
            for i, drawn in enumerate(gradient(torch.zeros(size))):
                drawn = drawn.double()
                total[i] = total[i] + drawn.sum(0)
                square[i] = square[i] + (drawn**2).sum(0)
            count += size
    names = [name for name, *_ in places]
    mean = {n: (t / draws).numpy() for n, t in zip(names, total, strict=True)}
    variance = {
        n: (np.maximum((s / draws).numpy() - mean[n] ** 2, 0) * draws / max(draws - 1, 1))
        for n, s in zip(names, square, strict=True)
    }
    return GradientSNR(mean, variance, draws)


class DrawApart(Messenger):
    """Sample Gaussian sites, and flows on them, by operations that ``torch.func.vmap`` can draw apart for each copy."""

    def _pyro_sample(self, msg):
        if msg["is_observed"] or msg["done"] or msg["value"] is not None or site_is_subsample(msg):
            return
        msg["value"], msg["done"] = _draw(msg["name"], msg["fn"]), True


def _draw(name, fn):
    if isinstance(fn, torch.distributions.Independent):
        return _draw(name, fn.base_dist)
    if isinstance(fn, torch.distributions.Normal):
        return fn.loc + fn.scale * torch.randn(fn.batch_shape, dtype=fn.loc.dtype, device=fn.loc.device)
    if isinstance(fn, torch.distributions.MultivariateNormal):
        noise = torch.randn(fn.batch_shape + fn.event_shape, dtype=fn.loc.dtype, device=fn.loc.device)
        return fn.loc + (fn._unbroadcasted_scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(fn, torch.distributions.TransformedDistribution):
        value = _draw(name, fn.base_dist)
        for transform in fn.transforms:
            value = transform(value)
        return value
    if isinstance(fn, pyro.distributions.Delta):
        return fn.v
    raise ValueError(
        f"site '{name}' ({type(fn).__name__}) cannot be drawn side by side: gradient_snr takes Gaussian sites and flows"
    )


class TakeAsIs(Messenger):
    """Answer ``pyro.param`` statements with the tensor at hand: the store cannot hold a tensor under a transform."""

    def _pyro_param(self, msg):
        if len(msg["args"]) > 1 and isinstance(msg["args"][1], torch.Tensor):
            msg["value"], msg["done"] = msg["args"][1], True


def _places(model, guide):
    """Every parameter once: (name, module that holds it, its name there, the tensor)."""
    out, seen = [], set()
    for side, root in (("model", model), ("guide", guide)):
        for owner in root_modules(root):
            for prefix, module in owner.named_modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None and parameter.requires_grad and id(parameter) not in seen:
                        seen.add(id(parameter))
                        out.append((".".join(filter(None, (side, prefix, name))), module, name, parameter))
    if not out:
        raise ValueError("model and guide have no parameter of their own: gradient_snr needs modules")
    return out


def slope(x, y):
    """Slope of log y against log x by least squares: the exponent of a power law."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def standard_error_of_slope(x, y, relative_errors):
    """Standard error of :func:`slope` from relative errors of y."""
    centred = np.log(x) - np.log(x).mean()
    weights = centred / (centred**2).sum()
    return math.sqrt(float(((weights * np.asarray(relative_errors)) ** 2).sum()))
