r"""How far two sets of samples are from one distribution, with a standard error: the energy distance.

.. math:: D = 2 E\|X - Y\| - E\|X - X'\| - E\|Y - Y'\| \ge 0, \quad = 0 \text{ only for equal distributions}

The estimate is unbiased (each sample is left out of its own mean), so it falls below zero half of the time where the
distributions are one. The error has both parts of a U-statistic's variance: the linear one, and the one that is left when
the distributions are close and the linear one vanishes; there it is a quarter too large on average (measured).

Source: Szekely & Rizzo (2013), Energy statistics, https://doi.org/10.1016/j.jspi.2013.03.018; Hoeffding (1948),
https://doi.org/10.1214/aoms/1177730196.
"""

import math

import numpy as np
import torch


def energy_distance(x, y):
    """Energy distance of samples (m, ...) and (n, ...) of independent rows, in the units of x, and its standard error.

    :raises ValueError: for fewer than three rows, or rows of different sizes.

    >>> rng = np.random.default_rng(0)
    >>> value, error = energy_distance(rng.normal(size=(400, 3)), 1 + rng.normal(size=(300, 3)))
    >>> value > 10 * error
    True
    """
    x, y = (torch.as_tensor(np.asarray(v), dtype=torch.float64).flatten(1) for v in (x, y))
    m, n = len(x), len(y)
    if min(m, n) < 3 or x.shape[1] != y.shape[1]:
        raise ValueError(f"need two sets of three rows or more of one size, not {tuple(x.shape)} and {tuple(y.shape)}")
    xy, xx, yy = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    to_x, to_y = xx.sum(1) / (m - 1), yy.sum(1) / (n - 1)  # a row's mean distance to the others of its own
    value = 2 * xy.mean() - to_x.mean() - to_y.mean()
    linear = 4 * ((xy.mean(1) - to_x).var() / m + (xy.mean(0) - to_y).var() / n)
    rest = 4 * (xy - xy.mean(1, keepdim=True) - xy.mean(0) + xy.mean()).var() / (m * n)
    for own, mean in ((xx, to_x), (yy, to_y)):
        size = len(own)
        off = (own - mean.unsqueeze(1) - mean + mean.mean())[~torch.eye(size, dtype=torch.bool)]
        rest = rest + 2 * off.var() / (size * (size - 1))
    # A row's mean distance is itself an average over finitely many rows, whose noise puts twice the rest into the linear
    # part: taken off, and the rest added.
    return value.item(), math.sqrt(max(linear - rest, rest).item())
