"""Weights to start NumPyro's VAE from without torch."""

import numpy as np

from .numpyro_svi import jnp


def random_weights(rng, x_mean, z_dim=50, width=200):
    """Name -> array as in :class:`~benchmarks.by_hand.HandVAE`: uniform by the widths (Glorot), biases zero
    but for the output's, which is the logit of the mean, as ours.

    :param x_mean: (x_dim,) means of the data.
    """
    x_dim, mean = len(x_mean), np.clip(x_mean, 1e-3, 1 - 1e-3)
    sizes = {
        "encoder.0": (x_dim, width),
        "encoder.2": (width, width),
        "loc": (width, z_dim),
        "raw_scale": (width, z_dim),
        "decoder.0": (z_dim, width),
        "decoder.2": (width, width),
        "decoder.4": (width, x_dim),
    }
    out = {}
    for name, (fan_in, fan_out) in sizes.items():
        reach = np.sqrt(6 / (fan_in + fan_out))
        out[f"{name}.weight"] = jnp.asarray(rng.uniform(-reach, reach, (fan_out, fan_in)), jnp.float32)
        out[f"{name}.bias"] = jnp.zeros(fan_out)
    out["decoder.4.bias"] = jnp.asarray(np.log(mean / (1 - mean)), jnp.float32)
    return out
