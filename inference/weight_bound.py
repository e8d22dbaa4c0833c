"""Bounds that are functions of the log-weights: their first and second derivatives make every gradient estimator."""

import math

import torch

from .bound import Bound


def log_mean_exp(log_w, dim):
    """log of the mean of exp(log_w) along a dimension; exact for one element."""
    return log_w.logsumexp(dim) - math.log(log_w.shape[dim])


class WeightFunction(Bound):
    """A bound f(log w) per datum. Subclasses write :meth:`of_weights`; the derivatives have closed forms where cheap.

    :cvar bool normalised: whether the derivative is the vector of normalised weights of groups of K >= 2.
    :cvar bool kinked: whether f has a kink, so that its second derivative says nothing.
    :cvar bool split: whether the guide follows another function of the weights than the model.
    """

    normalised = False
    kinked = False
    split = False

    def of_weights(self, log_w):
        """The bound (B,) from log-weights (K, B)."""
        raise TypeError(f"{type(self).__name__} must override of_weights(log_w)")

    def of_weights_for_guide(self, log_w):
        """The bound that the guide follows; the same one unless ``split``."""
        return self.of_weights(log_w)

    def reduce(self, terms):
        """The bound from the table's weights; (B,)."""
        return self.of_weights(terms.log_w)

    def gradient(self, log_w, guide=False):
        """First derivative in each log-weight, (K, B); ``guide`` for the bound that the guide follows."""
        function = self.of_weights_for_guide if guide else self.of_weights
        return torch.func.grad(lambda value: function(value).sum())(log_w)

    def curvature(self, log_w):
        """Second derivative in each log-weight by itself, (K, B), of the bound that the guide follows."""
        slope = torch.func.grad(lambda value: self.of_weights_for_guide(value).sum())
        _, pull = torch.func.vjp(slope, log_w)  # the Hessian is symmetric, and forward mode takes seconds to import
        directions = torch.eye(len(log_w), dtype=log_w.dtype, device=log_w.device).unsqueeze(-1)
        rows = torch.func.vmap(lambda direction: pull(direction.expand_as(log_w))[0])(directions)
        return rows.diagonal(dim1=0, dim2=1).movedim(-1, 0)

    def of_each_replaced(self, log_w, other):
        """The guide's bound with each log-weight in turn replaced by that of ``other``: (K, B)."""
        k, batch = log_w.shape
        index = torch.arange(k)
        changed = log_w.unsqueeze(1).expand(k, k, batch).clone()
        changed[index, index] = other
        return self.of_weights_for_guide(changed.reshape(k, k * batch)).reshape(k, batch)


class WeightBound(WeightFunction):
    """A function of the weights that would bound another quantity under a temperature, and refuses one."""

    def check(self, terms):
        super().check(terms)
        if terms.is_tempered:
            sites = sorted({*terms.temperature, *terms.guide_temperature})
            raise ValueError(
                f"{type(self).__name__} under a temperature (site(s) {sites}) would bound another "
                "quantity than log p(x): its weights would be tempered inside the log. Warm up with ELBO, or drop it."
            )
