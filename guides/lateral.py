r"""Lateral guide: each layer's head reads features of the data beside the model's own deterministic state.

.. math:: q(z_i | z_{>i}, x) = N\big(\mu_i(e_i(x), h_i), \sigma_i(e_i(x), h_i)^2\big), \qquad h_i = f_i(h_{i+1}, z_{i+1})

The state h is the model's, computed once in the pass: bottom-up and top-down paths meet at every layer, and what they
share with the model is not copied.

Source: Bachman (2016), An architecture for deep, hierarchical generative models, https://arxiv.org/abs/1612.04739.
Differs from the paper: fully connected, and the merged features are not themselves handed down from layer to layer.
"""

from torch import nn

from ..zoo.networks import NormalHead, concatenate, mlp
from .base import Guide


class Lateral(Guide):
    """Diagonal Gaussians down the hierarchy from features and the model's state.

    :param model: a model with ``z_dims``, ``hidden`` and, during a pass, ``state`` (:class:`~pyrarchy.zoo.DenseHVAE`).
    :param features: module mapping the data to a dictionary site -> features (B, width); ``widths``, bottom first.
    :param hidden: per layer, width of the one-layer network that merges features and state, bottom first.
    :param activation: class of the nonlinearity.
    :raises TypeError: for a model without a state.
    """

    def __init__(self, model, features, hidden, activation=nn.LeakyReLU):
        super().__init__(model)
        if not hasattr(type(model), "state"):
            raise TypeError(
                f"{type(model).__name__} has no deterministic state to read beside the features at its sites: give a "
                "model that carries one down, such as DenseHVAE, or use TopDown, which reads the samples."
            )
        if hasattr(model, "map_shapes"):
            raise TypeError(f"{type(model).__name__} has maps as its state, not vectors: use ConvLadderIAF")
        dims = model.z_dims
        if not len(dims) == len(hidden) == len(features.widths):
            raise ValueError(
                f"hidden and the features need one entry for each of the model's {len(dims)} layers, not {len(hidden)} and "
                f"{len(features.widths)}"
            )
        self.features = features
        states = (*model.hidden[1:], 0)  # the top has none
        self.heads = nn.ModuleDict(
            {
                f"z{i}": nn.Sequential(mlp((width + state, merged), activation), NormalHead(merged, dim))
                for i, (width, state, merged, dim) in enumerate(
                    zip(features.widths, states, hidden, dims, strict=True), 1
                )
            }
        )

    def encode(self, *args, **kwargs):
        """Compute the features once per pass."""
        return self.features(*args, **kwargs)

    def posterior(self, name, prior):
        """The head's Gaussian given features and state."""
        features, state = self.evidence[name], self.model.state
        return self.heads[name](features if state is None else concatenate(features, state))
