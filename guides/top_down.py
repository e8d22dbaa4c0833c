r"""Top-down guide: each layer's head reads features of the data and the samples above it.

.. math:: q(z | x) = \prod_i N\big(z_i; \mu_i(e_i(x), z_{>i}), \sigma_i(e_i(x), z_{>i})^2\big)

The factorisation is the true posterior's own, so on a tree, where p(z_i | z_{>i}, x) is Gaussian, linear heads can be
exact; a ladder has the same form with the combination fixed in advance.

Source: the structured guide of Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120, q(z1 | x, z2) q(z2 | x), at
any depth.
"""

from torch import nn

from ..zoo.networks import NormalHead, concatenate, mlp
from .base import Guide
from .example_data import few


class TopDown(Guide):
    """Diagonal Gaussians down the hierarchy, each given all samples above.

    :param model: a model whose latent sites are vectors z1 ... zL, the top sampled first.
    :param features: module mapping the data to a dictionary site -> features (B, width); ``widths``, bottom first.
    :param z_dims: dimension of each layer, bottom first.
    :param hidden: per layer, the widths of its head's network, bottom first: an int (one layer of that width) or a
        sequence; an empty one for a linear head.
    :param activation: class of the nonlinearity.
    :raises ValueError: in a pass, for a site that is none of z1 ... zL or whose upper layers are not sampled yet.

    >>> import torch
    >>> from pyrarchy.guides import Features
    >>> from pyrarchy.zoo import DenseHVAE
    >>> model = DenseHVAE(6, z_dims=(4, 3, 2), hidden=(9, 8, 7))
    >>> guide = TopDown(model, Features(6, hidden=(8, 7, 5)), z_dims=(4, 3, 2), hidden=(8, 7, 5))
    >>> [head[0][0].in_features for head in guide.heads]  # features and samples above
    [13, 9, 5]
    """

    def __init__(self, model, features, z_dims, hidden, activation=nn.LeakyReLU):
        super().__init__(model)
        if len(z_dims) != len(hidden) or len(z_dims) != len(features.widths):
            raise ValueError(
                f"z_dims, hidden and the features need one entry a layer, not {len(z_dims)}, {len(hidden)} and "
                f"{len(features.widths)}"
            )
        self.features = features
        self.layers = len(z_dims)
        heads = []
        for i, (dim, widths) in enumerate(zip(z_dims, hidden, strict=True), 1):
            fan_in = features.widths[i - 1] + sum(z_dims[j - 1] for j in self.reads(i))
            sizes = (fan_in, *((widths,) if isinstance(widths, int) else widths))
            heads.append(nn.Sequential(mlp(sizes, activation), NormalHead(sizes[-1], dim)))
        self.heads = nn.ModuleList(heads)

    def reads(self, layer):
        """The layers whose samples the head of a layer reads, nearest first."""
        return range(layer + 1, self.layers + 1)

    def encode(self, *args, **kwargs):
        """Compute the features once per pass."""
        return self.features(*args, **kwargs)

    def posterior(self, name, prior):
        """The head's Gaussian given features and samples above."""
        layer = int(name[1:]) if name[:1] == "z" and name[1:].isdigit() else 0
        if not 1 <= layer <= self.layers:
            raise ValueError(
                f"the model's latent site '{name}' is none of z1 ... z{self.layers}, for which the guide has heads: give "
                "one entry of z_dims, hidden and the features for each layer of the model"
            )
        above = [f"z{j}" for j in self.reads(layer)]
        if missing := [site for site in above if site not in self.trace]:
            raise ValueError(
                f"site '{name}': its head reads {few(above)}, but the model has not sampled {few(missing)} yet. The "
                "guide follows models that sample from the top, zL, down."
            )
        parts = [self.evidence[name], *(self.trace.nodes[site]["value"] for site in above)]
        return self.heads[layer - 1](concatenate(*parts))


class MarkovTopDown(TopDown):
    """Heads that read the next sample above alone: the posterior's own form where the model is a Markov chain."""

    def reads(self, layer):
        """The next layer, if there is one."""
        return range(layer + 1, min(layer + 1, self.layers) + 1)
