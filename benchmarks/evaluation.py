r"""Held-out L_K of a VAE 784-200-200-50: our ``evaluate`` against the loop one writes by hand in PyTorch.

.. math:: L_K = \log \tfrac1K \sum_k p(x | z_k) p(z_k) / q(z_k | x)

Both take 50 data at a time, 20 draws a pass, from the same weights. The loop by hand encodes once per 50 data and returns
L_K alone; ours returns k-hat, effective number, rates and active units as well.
"""

import itertools
import math

import torch
import torch.nn.functional as F

from pyrarchy.inference import evaluate

from .by_hand import HandVAE
from .interleave import Variant
from .svi_steps import Setting, make_pair

OURS, HAND = "Pyrarchy evaluate", "PyTorch by hand"
SETTING = Setting("Held-out L_2000 of 50 images", 50, 2000)
AT_ONCE = 20


@torch.no_grad()
def hand_log_p(module, x, num_samples, at_once=AT_ONCE):
    """L_K of each row of ``x`` (B, x_dim), (B,) nats, in passes of ``at_once`` draws."""
    h = module.encoder(x - module.x_mean)
    loc, scale = module.loc(h), F.softplus(module.raw_scale(h)) + 1e-4
    log_scale, log_w = scale.log().sum(-1), []
    for start in range(0, num_samples, at_once):
        eps = torch.randn(min(at_once, num_samples - start), *loc.shape)
        z = loc + scale * eps
        logits = module.decoder(z)
        log_lik = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_w.append(log_lik + 0.5 * (eps.square() - z.square()).sum(-1) + log_scale)
    return torch.cat(log_w).double().logsumexp(0) - math.log(num_samples)


def variants(setting=SETTING):
    """By hand (the reference) and ours, each on the next batch of the same data."""
    model, guide, data = make_pair(setting)
    module = HandVAE(setting.x_dim, setting.z_dim, setting.hidden, data.mean(0)).copy_weights(model, guide)
    first, second = (itertools.cycle(data.split(setting.batch_size)) for _ in range(2))
    k = setting.num_particles
    return [
        Variant(HAND, lambda: hand_log_p(module, next(first), k)),
        Variant(OURS, lambda: evaluate(model, guide, next(second), num_samples=k)),
    ]
