r"""Amortised guide: a network maps each datum to the parameters of its own posterior.

.. math:: q(z | x) = \prod_i N(z_i; \mu_i(x), \sigma_i(x)^2)

Source: Kingma & Welling (2014), https://arxiv.org/abs/1312.6114.
"""

from .base import Guide


class Amortized(Guide):
    """Each latent site gets the distribution that an encoder computes for it, independent of the samples above.

    :param model: the model.
    :param encoder: module mapping the model's arguments to a dictionary site -> distribution of batch shape (B,).
    """

    def __init__(self, model, encoder):
        super().__init__(model)
        self.encoder = encoder

    def encode(self, *args, **kwargs):
        """Run the encoder once per pass."""
        return self.encoder(*args, **kwargs)

    def posterior(self, name, prior):
        """The encoder's distribution for the site."""
        return self.message(name)

    def message(self, name):
        """What the encoder says of a site; a ValueError names a site that it does not cover."""
        try:
            return self.evidence[name]
        except KeyError:
            raise ValueError(
                f"the encoder gives no distribution for the model's latent site '{name}' (it covers "
                f"{sorted(self.evidence)}). Give the encoder one head for each latent site."
            ) from None
