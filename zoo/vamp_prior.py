r"""A prior made of the encoder itself: the average of its answers to pseudo-inputs that are learned with it.

.. math:: p(z) = \frac1K \sum_{k=1}^K q(z \mid u_k), \qquad u_k \in [0, 1]^D

The prior that maximises the ELBO is the aggregate posterior (1/N) sum_n q(z | x_n); K pseudo-inputs stand for the N data.
The encoder belongs to the *model*, whose prior it is, and the guide borrows it: ``Amortized(model, model.top.encode)``.
Its parameters then play two roles; the estimators of :mod:`pyrarchy.inference` tell them apart.

Source: Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120.
"""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn


class VampPrior(nn.Module):
    """The top layer's prior, for the argument ``top`` of a hierarchy.

    :param encoder: callable from inputs (K, x_dim) to a distribution of batch shape (K,), or to a dictionary from sites
        to such distributions. If it is a module, its parameters become the model's.
    :param pseudo_inputs: tensor (K, x_dim), where they start: rows of the training data, or their mean plus noise.
    :param site: which entry of the dictionary is the top layer's (``"z1"`` under a VAE).
    :param bounds: (low, high) between which pseudo-inputs are clamped, as the paper does; ``None`` for real data.

    A clamped entry has no gradient outside its bounds or on them, so those that start there are moved 2 % of the range
    inwards. One that leaves the bounds during training stays at the bound.

    >>> import torch
    >>> from torch import nn
    >>> from pyrarchy.zoo.networks import NormalHead
    >>> prior = VampPrior(NormalHead(6, 3), torch.rand(4, 6))(torch.zeros(5, 6))
    >>> prior.batch_shape, prior.event_shape, prior.log_prob(torch.zeros(5, 3)).shape
    (torch.Size([]), torch.Size([3]), torch.Size([5]))
    """

    def __init__(self, encoder, pseudo_inputs, site=None, bounds=(0.0, 1.0)):
        super().__init__()
        pseudo_inputs = torch.as_tensor(pseudo_inputs)
        if pseudo_inputs.dim() != 2 or not len(pseudo_inputs):
            raise ValueError(f"pseudo_inputs must have shape (K, x_dim), K >= 1, not {tuple(pseudo_inputs.shape)}")
        if bounds is not None:
            low, high = bounds
            if not low < high:
                raise ValueError(f"bounds must be (low, high) with low < high, not {bounds!r}")
            inwards = 0.02 * (high - low)
            pseudo_inputs = pseudo_inputs.clamp(low + inwards, high - inwards)
        self.encoder = encoder
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.detach().clone())
        self.site = site
        self.bounds = bounds

    def encode(self, x):
        """The encoder's answer for data: what the guide borrows."""
        return self.encoder(x)

    def forward(self, like):
        """The mixture, of batch shape () and event shape (z_dim,); ``like`` is not read.

        :raises ValueError: when the encoder has no entry for the site, or no distribution for each pseudo-input.
        """
        u = self.pseudo_inputs
        components = self.encode(u if self.bounds is None else F.hardtanh(u, *self.bounds))
        if isinstance(components, dict):
            if self.site not in components:
                raise ValueError(
                    f"the VampPrior's encoder answers for {sorted(components)}, not for site {self.site!r}"
                )
            components = components[self.site]
        if components.batch_shape != u.shape[:1]:
            raise ValueError(
                f"the VampPrior's encoder gave batch shape {tuple(components.batch_shape)} for {len(u)} pseudo-inputs; it "
                f"must be {(len(u),)}: one distribution a row, vectors by to_event(1)."
            )
        weights = dist.Categorical(logits=u.new_zeros(len(u)))  # equal, as in the paper
        return dist.MixtureSameFamily(weights, components)
