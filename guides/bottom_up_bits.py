r"""Bottom-up guide for layers of bits: from the data to z1, from the sampled z1 to z2, and so on up.

.. math:: q(z | x) = \prod_i \mathrm{Bernoulli}(z_i; \sigma(f_i(z_{i-1}))), \qquad z_0 = x

A bit has no path to follow a gradient along: train it with ``estimator="vimco"`` or ``"score"``, or by wake-sleep.

Source: Mnih & Rezende (2016), https://arxiv.org/abs/1602.06725; Hinton, Dayan, Frey & Neal (1995), The wake-sleep
algorithm for unsupervised neural networks, https://doi.org/10.1126/science.7761831.
"""

from ..zoo.networks import BernoulliHead
from .bottom_up import BottomUp


class BottomUpBits(BottomUp):
    """Independent bits up the hierarchy; block i reads the sample of layer i - 1. Arguments as :class:`BottomUp`'s.

    >>> import torch
    >>> BottomUpBits(4, (3, 2), ((), (5,))).layers[1](torch.zeros(6, 3)).event_shape
    torch.Size([2])
    """

    head = BernoulliHead
