r"""How a conjugate model writes down its factorised posterior: a frozen dataclass, one field per parameter.

.. math:: q(z) = \prod_i q_i(z_i), \qquad q_i(z_i) \propto \exp \mathbb{E}_{q_{-i}} \log p(x, z)

Each field's metadata say where its values live, so that whoever keeps the parameters (the guide ``Conjugate``) needs no
further knowledge of the model. A ``LOCAL`` field holds one row per datum (``None`` where no data are at hand); it is not
kept but computed anew, by the model's ``localise``.

Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.
"""

import torch
from torch.distributions import constraints

REAL = {"constraint": constraints.real}
POSITIVE = {"constraint": constraints.positive}
LOWER_CHOLESKY = {"constraint": constraints.lower_cholesky}
LOCAL = {"local": True}


def expected_log(shape, rate):
    """E[log tau] under Gamma(shape, rate)."""
    return torch.digamma(shape) - rate.log()


def check_positive(**values):
    """Raise ValueError that names the hyperparameter which is not positive (floats or tensors)."""
    for name, value in values.items():
        if not bool((torch.as_tensor(value) > 0).all()):
            raise ValueError(f"{name}: {value} given; a positive number is needed.")
