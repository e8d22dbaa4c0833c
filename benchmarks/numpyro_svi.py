"""The same VAE in NumPyro: weights as ``numpyro.param``; one jitted ``SVI.update`` per step, or a compiled loop of them.

Imports no torch, so that a process of NumPyro alone can be timed from its start.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

FLOOR = 1e-4  # that of benchmarks.by_hand


def weights_of(module):
    """Name -> array, from a module of torch."""
    return {name: jnp.asarray(p.detach().numpy()) for name, p in module.named_parameters()}


def affine(name, weights, h):
    """A linear map whose weights are parameters of NumPyro, started from those given."""
    weight = numpyro.param(f"{name}.weight", weights[f"{name}.weight"])
    return h @ weight.T + numpyro.param(f"{name}.bias", weights[f"{name}.bias"])


def make_model_and_guide(weights, x_mean):
    """NumPyro functions of x (B, x_dim) with the parameters of a :class:`~benchmarks.by_hand.HandVAE`, by name."""
    z_dim = len(weights["loc.bias"])

    def model(x):
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(z_dim), 1.0).to_event(1))
            h = jnp.tanh(affine("decoder.0", weights, z))
            h = jnp.tanh(affine("decoder.2", weights, h))
            logits = affine("decoder.4", weights, h)
            numpyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        h = jnp.tanh(affine("encoder.0", weights, x - x_mean))
        h = jnp.tanh(affine("encoder.2", weights, h))
        loc, scale = affine("loc", weights, h), jax.nn.softplus(affine("raw_scale", weights, h)) + FLOOR
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return model, guide


def make_svi(model, guide, num_particles, lr=1e-3):
    """NumPyro's SVI with Adam: ``Trace_ELBO`` for one particle, else ``RenyiELBO(alpha=0)``."""
    objective = Trace_ELBO() if num_particles == 1 else RenyiELBO(alpha=0, num_particles=num_particles)
    return SVI(model, guide, numpyro.optim.Adam(lr), objective)


def numpyro_step(svi, feed, first):
    """A function that takes one jitted update on the next batch of ``feed`` and returns the loss per datum.

    :param first: a batch, for the initial state.
    """
    update = jax.jit(svi.update)
    state = svi.init(jax.random.key(0), jnp.asarray(first))

    def step():
        nonlocal state
        x = next(feed)
        state, loss = update(state, x)
        return float(loss) / len(x)  # waits for the update, as ours does for its loss

    return step


def numpyro_loop(svi, rows):
    """A function that takes a step on each of ``rows`` (batches, B, x_dim) in one ``lax.scan``; mean loss per datum."""
    rows = jnp.asarray(rows)
    loop = jax.jit(lambda state, rows: jax.lax.scan(svi.update, state, rows))
    state = svi.init(jax.random.key(0), rows[0])

    def steps():
        nonlocal state
        state, losses = loop(state, rows)
        return float(losses.mean()) / rows.shape[1]

    return steps
