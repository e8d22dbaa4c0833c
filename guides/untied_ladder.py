r"""Untied ladder: as the ladder, but the guide's top-down Gaussian comes from networks of its own.

.. math:: q(z_i | z_{i+1}, x) \propto N(z_i; \tilde\mu_i(z_{i+1}), \tilde\sigma_i(z_{i+1})^2)\,
          N(z_i; \hat\mu_i(x), \hat\sigma_i(x)^2)

The paper merges the evidence with the model's own prior (:class:`Ladder`); the authors' published training commands turn
that sharing off, which is this guide. It costs a second set of top-down networks and can differ from the prior where
the prior is a poor half of the posterior.

Source: Sonderby et al. (2016), https://arxiv.org/abs/1602.02282.
"""

from torch import nn

from ..zoo.networks import NormalHead, mlp
from .amortized import Amortized
from .ladder import precision_weighted


class UntiedLadder(Amortized):
    """Evidence alone at the top site, below it its precision-weighted product with the guide's own top-down Gaussian.

    :param model: a model whose latent sites are vectors z1 ... zL, the top sampled first.
    :param encoder: module mapping the data to a dictionary site -> diagonal Normal of batch shape (B,).
    :param z_dims: dimension of each layer, bottom first.
    :param hidden: width of the two-layer network down to each layer but the top, bottom first; a sequence of widths in
        place of an int gives other depths, an empty one a linear network. MarkovHVAE's own are its ``hidden[1:]``.
    :param activation: class of the nonlinearity.
    :raises ValueError: in a pass, naming a site without network or evidence, or whose upper layer is not sampled yet.
    """

    def __init__(self, model, encoder, z_dims, hidden, activation=nn.LeakyReLU):
        super().__init__(model, encoder)
        if len(hidden) != len(z_dims) - 1:
            raise ValueError(f"hidden needs one entry for each layer but the top, {len(z_dims) - 1}, not {len(hidden)}")
        self.top_down = nn.ModuleDict()
        for i, widths in enumerate(hidden, 1):
            sizes = (z_dims[i], *((widths, widths) if isinstance(widths, int) else widths))
            self.top_down[f"z{i}"] = nn.Sequential(mlp(sizes, activation), NormalHead(sizes[-1], z_dims[i - 1]))

    def posterior(self, name, prior):
        """The product of evidence and the guide's own Gaussian given the sample above."""
        evidence = self.message(name)
        if self.is_top():
            return evidence
        if name not in self.top_down:
            raise ValueError(
                f"site '{name}' is not at the top, but the guide has no network down to it (it has {list(self.top_down)}): "
                "give one entry of z_dims for each layer of the model"
            )
        above = f"z{int(name[1:]) + 1}"
        if above not in self.trace:
            raise ValueError(f"site '{name}': its network reads '{above}', which the model has not sampled yet")
        own = self.top_down[name](self.trace.nodes[above]["value"])
        try:
            return precision_weighted(own, evidence)
        except TypeError as error:
            raise ValueError(f"site '{name}': the ladder multiplies Gaussian densities, but {error}.") from None
