"""Hierarchies of Gaussian layers in NumPyro, with a bottom-up guide or a ladder that shares the model's priors by name."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from .numpyro_svi import FLOOR, affine


def make_model_and_guide(weights, x_mean, z_dims, ladder):
    """NumPyro functions of x (B, x_dim) with the parameters of a :class:`~benchmarks.hand_hierarchy.HandHierarchy`.

    :param weights: name -> array. :param z_dims: of each layer, bottom first.
    :param bool ladder: whether the guide multiplies the prior in, as :class:`~benchmarks.hand_hierarchy.HandLadder`.
    """
    layers = len(z_dims)

    def network(name, h):
        for place in (0, 2):
            h = jax.nn.leaky_relu(affine(f"{name}.{place}", weights, h), 0.01)
        return h

    def head(name, h):
        scale = jax.nn.softplus(affine(f"{name}.raw_scale", weights, h)) + FLOOR
        return affine(f"{name}.loc", weights, h), scale

    def prior(layer, z):
        return head(f"priors.{layer}.1", network(f"priors.{layer}.0", z))

    def sample(layer, loc, scale):
        return numpyro.sample(f"z{layer + 1}", dist.Normal(loc, scale).to_event(1))

    def model(x):
        with numpyro.plate("data", x.shape[0]):
            z = sample(layers - 1, jnp.zeros(z_dims[-1]), 1.0)
            for layer in reversed(range(layers - 1)):
                z = sample(layer, *prior(layer, z))
            logits = affine("decoder.4", weights, network("decoder", z))
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        h, evidence = x - x_mean, []
        for layer in range(layers):
            h = network(f"blocks.{layer}", h)
            evidence.append(head(f"heads.{layer}", h))
        with numpyro.plate("data", x.shape[0]):
            z = sample(layers - 1, *evidence[-1])
            for layer in reversed(range(layers - 1)):
                loc, scale = evidence[layer]
                if ladder:
                    mean, width = prior(layer, z)
                    total = width**2 + scale**2
                    loc, scale = mean + width**2 / total * (loc - mean), width * scale / jnp.sqrt(total)
                z = sample(layer, loc, scale)

    return model, guide
