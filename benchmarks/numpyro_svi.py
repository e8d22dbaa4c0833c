"""The same VAE in NumPyro: weights as ``numpyro.param``, one jitted ``SVI.update`` per step."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

from .by_hand import FLOOR


def _affine(name, weights, h):
    weight = numpyro.param(f"{name}.weight", weights[f"{name}.weight"])
    return h @ weight.T + numpyro.param(f"{name}.bias", weights[f"{name}.bias"])


def make_model_and_guide(module):
    """NumPyro functions of x (B, x_dim) that start from the weights of a :class:`~benchmarks.by_hand.HandVAE`."""
    weights = {name: jnp.asarray(p.detach().numpy()) for name, p in module.named_parameters()}
    x_mean, z_dim = jnp.asarray(module.x_mean.numpy()), module.loc.out_features

    def model(x):
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(z_dim), 1.0).to_event(1))
            h = jnp.tanh(_affine("decoder.0", weights, z))
            h = jnp.tanh(_affine("decoder.2", weights, h))
            logits = _affine("decoder.4", weights, h)
            numpyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        h = jnp.tanh(_affine("encoder.0", weights, x - x_mean))
        h = jnp.tanh(_affine("encoder.2", weights, h))
        loc, scale = _affine("loc", weights, h), jax.nn.softplus(_affine("raw_scale", weights, h)) + FLOOR
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return model, guide


def make_svi(module, num_particles, lr=1e-3):
    """NumPyro's SVI with Adam: ``Trace_ELBO`` for one particle, else ``RenyiELBO(alpha=0)``."""
    objective = Trace_ELBO() if num_particles == 1 else RenyiELBO(alpha=0, num_particles=num_particles)
    return SVI(*make_model_and_guide(module), numpyro.optim.Adam(lr), objective)


def numpyro_step(module, batches, num_particles):
    """A function that takes one jitted update on the next of ``batches`` and returns the loss per datum."""
    svi = make_svi(module, num_particles)
    update = jax.jit(svi.update)
    state = svi.init(jax.random.key(0), jnp.asarray(next(batches).numpy()))

    def step():
        nonlocal state
        x = next(batches).numpy()
        state, loss = update(state, x)
        return float(loss) / len(x)  # waits for the update, as ours does for its loss

    return step
