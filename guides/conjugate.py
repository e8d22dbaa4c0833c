r"""Conjugate guide: the factorised posterior of a model that has its own closed forms for it.

.. math:: q(z | x) = \prod_i q_i(z_i), \qquad q_i(z_i) \propto \exp \mathbb{E}_{q_{-i}} \log p(x, z)

The global factors are parameters of the guide; local ones are computed for the data at hand by the model's
``localise``, so that other data than those fitted are served too. :func:`pyrarchy.inference.fit_cavi` fits the factors
by closed-form updates, gradients would by the same parameters.

Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.1; Blei, Kucukelbir and McAuliffe (2017),
https://arxiv.org/abs/1601.00670.
"""

from dataclasses import fields

import torch
from pyro.nn import PyroModule, PyroParam

from .base import Guide


class Conjugate(Guide):
    """Holds ``q``, the dataclass of a conjugate model's factors, and asks ``model.factor`` at each site.

    :param model: a model with ``factor(name, q, values)`` and, where ``q`` has local fields, ``localise(*data, q=q)``.
    :param q: what ``model.start`` or ``fit_cavi`` returned; the guide computes in its precision.
    :ivar bool has_local: whether some factors have a row per datum.
    :raises ValueError: for a model without these closed forms.

    >>> import torch
    >>> from pyrarchy.zoo import NormalGamma
    >>> model, x = NormalGamma(), torch.tensor([0.5, 1.0, 3.0])
    >>> guide = Conjugate(model, model.start(x))
    >>> sorted(guide(x)), guide.q.loc.item()
    (['mu', 'tau', 'x'], 1.125)
    """

    def __init__(self, model, q):
        super().__init__(model)
        if not hasattr(model, "factor"):
            raise ValueError(f"{type(model).__name__} has no factor: use MeanField for a model without closed forms.")
        self._fields = {f.name: f.metadata for f in fields(q) if not f.metadata.get("local")}
        self._kind, self.has_local = type(q), len(self._fields) < len(fields(q))
        missing = [n for n in ["factor"] + ["localise"] * self.has_local if not hasattr(model, n)]
        if missing:
            raise ValueError(f"{type(model).__name__} has no {', '.join(missing)}: use MeanField for a model without "
                             "closed forms.")  # fmt: skip
        self.factors = PyroModule()
        for name, metadata in self._fields.items():
            setattr(self.factors, name, PyroParam(getattr(q, name).detach().clone(), metadata["constraint"]))

    @property
    def q(self):
        """The global factors as the model's dataclass; local fields are ``None``."""
        return self._kind(**{name: getattr(self.factors, name) for name in self._fields})

    @torch.no_grad()
    def set_factors(self, q):
        """Take over the global factors of ``q``, in the precision that the guide has."""
        for name in self._fields:
            old = getattr(self.factors, name)
            new = getattr(q, name)
            if new.shape != old.shape:
                raise ValueError(f"{name}: shape {tuple(new.shape)} given, the guide's is {tuple(old.shape)}; build a "
                                 "guide for this model instead.")  # fmt: skip
            setattr(self.factors, name, new.detach().to(old))

    def factors_for(self, *args, **kwargs):
        """The factors for these data (the model's arguments), local ones included."""
        return self.model.localise(*args, **kwargs, q=self.q) if self.has_local else self.q

    def posterior(self, name, prior):
        """The site's factor given the samples above."""
        # Not in encode(): Pyro's own objectives look for parameters in the trace, which begins after it, and where the
        # model has none either they would compute no gradient.
        if self.evidence is None:
            args, kwargs = self.args_kwargs
            self.evidence = self.factors_for(*args, **kwargs)
        values = {n: node["value"] for n, node in self.trace.nodes.items() if node["type"] == "sample"}
        return self.model.factor(name, self.evidence, values)
