r"""Exact guide: the model's own posterior, for models that know it.

.. math:: q(z | x) = p(z | x), \qquad \log w = \log p(x) \text{ for every particle}

Every bound is then tight and every importance weight equal: the grading of all other guides starts here.
"""

import torch

from .base import Guide


class Exact(Guide):
    """Asks ``model.posterior(x)`` once per pass.

    :param model: a model with ``posterior(x)``: a distribution (one latent site), or a dictionary from site to a
        distribution, or to a function of the samples above (a dictionary site -> value) that returns one.
    """

    def __init__(self, model):
        if not callable(getattr(model, "posterior", None)):
            raise ValueError(f"{type(model).__name__} has no posterior(x): the exact guide needs its closed form")
        super().__init__(model)

    def encode(self, *args, **kwargs):
        """The closed-form posterior of this batch."""
        return self.model.posterior(*args, **kwargs)

    def posterior(self, name, prior):
        """The posterior of one site given the samples above."""
        q = self.evidence
        if not isinstance(q, dict):
            return q
        if name not in q:
            raise ValueError(f"model.posterior(x) covers {sorted(q)} but not the latent site '{name}'")
        q = q[name]
        if isinstance(q, torch.distributions.Distribution):
            return q
        return q({n: node["value"] for n, node in self.trace.nodes.items() if node["type"] == "sample"})
