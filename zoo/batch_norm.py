r"""Batch normalisation as a part of a network, with any number of particle dimensions on the left.

.. math:: y = \gamma \frac{h - m}{\sqrt{v + \epsilon}} + \beta

In training m and v are those of the batch (particles and data together), so the loss of a datum depends on the others
of its batch; in evaluation they are the running statistics, and no datum leans on another. The statistics of training
lag behind the weights: :func:`~pyrarchy.inference.reestimate_statistics` measures them anew before an evaluation.

Source: Ioffe & Szegedy (2015), https://arxiv.org/abs/1502.03167; in hierarchies, Sonderby et al. (2016),
https://arxiv.org/abs/1602.02282.
"""

from torch import nn


class BatchNorm(nn.BatchNorm1d):
    """Normalise the last dimension over all dimensions to its left.

    >>> import torch
    >>> y = BatchNorm(3)(torch.randn(5, 7, 3))
    >>> y.shape, bool(y.mean((0, 1)).abs().max() < 1e-5)
    (torch.Size([5, 7, 3]), True)
    """

    def forward(self, h):
        """:param h: (..., num_features); ValueError in training for a single row, which has no variance."""
        if self.training and h.numel() == h.shape[-1]:
            raise ValueError(
                "batch normalisation in training needs at least two rows to take a variance of, and this batch has one. "
                "Choose a batch_size that leaves no single row over, or evaluate: eval()."
            )
        return super().forward(h.reshape(-1, h.shape[-1])).reshape(h.shape)


class Normalised:
    """An activation with batch normalisation before it, to be handed on wherever a network takes an activation's class.

    :param activation: class of the nonlinearity.

    >>> from pyrarchy.zoo import MarkovHVAE
    >>> model = MarkovHVAE(6, z_dims=(3,), hidden=(5,), activation=Normalised(nn.LeakyReLU))
    >>> [type(part).__name__ for part in model.decoder[0]]
    ['Linear', 'Sequential', 'Linear', 'Sequential']
    """

    def __init__(self, activation=nn.LeakyReLU):
        self.activation = activation

    def of_width(self, width):
        """The part that follows a linear layer of ``width`` outputs; that layer needs no bias of its own."""
        return nn.Sequential(BatchNorm(width), self.activation())
