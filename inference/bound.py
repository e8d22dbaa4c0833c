"""A bound is one reduction of one table: subclass :class:`Bound` and write :meth:`Bound.reduce`.

A bound here is a Pyro ``ELBO``: it works in Pyro's own ``SVI`` and in :func:`~pyrarchy.inference.fit`. Its value is
always the bound itself, per datum; the plate's scale is applied outside, after the reduction. Which gradient is followed
is the estimator's business and never changes the value (:mod:`~pyrarchy.inference.estimators`). The auxiliary likelihoods
of a model that sees x at several stages are in the gradient and not in the value (``infer={"auxiliary": True}``).
"""

import torch
from pyro.infer.elbo import ELBO as PyroELBO

from .estimators import make_estimator
from .run import Run
from .terms import trace_pair


class Bound(PyroELBO):
    """Base of objectives that are functions of :class:`~pyrarchy.inference.Terms`.

    :param int num_particles: K, the draws per datum.
    :param int plates: how many nested vectorised plates the model has (Pyro's own guess would consume random numbers).
    :param estimator: how the gradient is formed: a name (``"plain"``, ``"dreg"`` ...) or an instance.
    :cvar bool is_lower_bound: whether the value is at most log p(x) in expectation.

    >>> class Mean(Bound):
    ...     def reduce(self, terms):
    ...         return terms.log_w.mean(0)
    >>> Mean(num_particles=3)
    Mean(num_particles=3)
    """

    is_lower_bound = True

    def __init__(self, num_particles=1, plates=1, estimator=None):
        if not isinstance(num_particles, int) or num_particles < 1:
            raise ValueError(f"num_particles must be a positive integer, not {num_particles!r}")
        if not isinstance(plates, int) or plates < 0:
            raise ValueError(f"plates must be the model's number of nested plates, not {plates!r}")
        super().__init__(num_particles=num_particles, max_plate_nesting=plates, vectorize_particles=True)
        self.plates = plates
        self.estimator = make_estimator(estimator)

    def reduce(self, terms):
        """The bound per datum, without the plate's scale.

        :param Terms terms: one pass; entries of shape (K, B).
        :returns: tensor of shape (B,), in nats.
        """
        raise TypeError(f"{type(self).__name__} must override reduce(terms)")

    def run(self, model, guide, args=(), kwargs=None):
        """A pair at given arguments, ready to be run (more than once, where the estimator needs it)."""
        once = self.estimator.is_plain(self)
        return Run(model, guide, args, kwargs or {}, self.num_particles, self.plates, once)

    def terms(self, model, guide, *args, **kwargs):
        """Run the pair once and return its table."""
        terms = self.run(model, guide, args, kwargs).live()
        self.check(terms)
        return terms

    def check(self, terms):
        """Refuse, by name of the site, a pair for which this objective or its estimator would be wrong."""
        if torch.is_grad_enabled():
            self.estimator.check(self, terms)
            if terms.log_aux and not self.estimator.takes_auxiliary:
                raise ValueError(
                    f"estimator '{self.estimator.name}' does not follow the path through the latents by which the guide "
                    f"would learn from the auxiliary site(s) {sorted(terms.log_aux)}. Use 'plain', 'stl' or 'dreg'."
                )

    def followed(self, terms, run):
        """The bound per datum, (B,): value of :meth:`reduce`, gradient of the estimator and of any auxiliary terms."""
        if not torch.is_grad_enabled():
            return self.reduce(terms)
        if run.coupled:
            self.estimator.check_coupled(self, terms, run.coupled)
        surrogate = self.estimator.surrogate(self, terms, run)
        pull = terms.auxiliary - terms.auxiliary.detach() if terms.log_aux else 0.0
        if self.estimator.is_plain(self):
            return surrogate + pull if terms.log_aux else surrogate
        with torch.no_grad():
            value = self.reduce(terms)
        return value + (surrogate - surrogate.detach()) + pull

    def value(self, model, guide, *args, **kwargs):
        """The bound per datum at temperature one, without gradient: shape (B,), nats."""
        with torch.no_grad():
            return self.reduce(self.terms(model, guide, *args, **kwargs).at_temperature_one())

    def differentiable_loss(self, model, guide, *args, **kwargs):
        """Minus the bound, summed over the data and scaled to the full plate, as Pyro's objectives are."""
        run = self.run(model, guide, args, kwargs)
        terms = run.live()
        self.check(terms)
        return -terms.scale * self.followed(terms, run).sum()

    def loss(self, model, guide, *args, **kwargs):
        """The same as a float."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model, guide, *args, **kwargs):
        """The same after a backward pass (what ``pyro.infer.SVI`` calls)."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _get_trace(self, model, guide, args, kwargs):
        return trace_pair(model, guide, args, kwargs, num_particles=1, plates=self.plates)

    def __repr__(self):
        shown = {k: v for k, v in vars(self).items() if k in self._shown()}
        if self.estimator.name != "plain":
            shown["estimator"] = self.estimator.name
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"

    @classmethod
    def _shown(cls):
        return ("num_particles",)
