"""Rows of chains in time: a datum is a whole series, its latents ``z1`` .. ``zT`` are sampled one after the other."""

from .faults import DataError
from .registry import Source, Training, pair

DURBIN_2012 = Source(
    "Durbin, James and Koopman, Siem Jan",
    2012,
    "Time series analysis by state space methods, second edition",
    "https://doi.org/10.1093/acprof:oso/9780199641178.001.0001",
)


def _times(data):
    """How many steps the series have; DataError where there is one, which follows from nothing."""
    if data.dim < 2:
        raise DataError(f"{data.name}: has one column, a series of one step; give at least two")
    return data.dim


@pair(
    "local_level",
    model="LocalLevel",
    guide="Exact",
    density="z1 ~ N(0, initial_scale^2);  zt | zt-1 ~ N(zt-1, level_scale^2);  xt | zt ~ N(zt, noise_scale^2)",
    data="nile",
    likelihood="gaussian",
    training=Training(steps=250, lr=5e-2, decay=0.0),
    source=DURBIN_2012,
    differs="the first level has a wide proper prior, variance 10^7, in place of the diffuse limit",
    caution="One series is one datum, so nothing is held out. A mean-field guide on it loses 21.8 nats, exactly.",
)
def local_level(data):
    """A random walk seen through noise, with its exact posterior: the annual flow of the Nile."""
    from .guides import Exact
    from .zoo import LocalLevel

    model = LocalLevel(_times(data), float(data.train.std()))
    return model, Exact(model)


@pair(
    "linear_state_space",
    model="LinearStateSpace",
    guide="Exact",
    density="z1 ~ N(0, I);  zt | zt-1 ~ N(A zt-1, L L');  xt | zt ~ N(d + c zt, scale^2)",
    data="elnino",
    likelihood="gaussian",
    training=Training(steps=400, lr=3e-2, decay=0.0),
    source=Source(
        "Kalman, Rudolf E.",
        1960,
        "A new approach to linear filtering and prediction problems",
        "https://doi.org/10.1115/1.3662552",
    ),
)
def linear_state_space(data, *, z_dim=2):
    """A linear-Gaussian chain with its exact posterior, by gradients of what is then the exact log p(x)."""
    from .guides import Exact
    from .zoo import LinearStateSpace

    model = LinearStateSpace(_times(data), z_dim, float(data.train.mean()), float(data.train.std()))
    return model, Exact(model)


@pair(
    "deep_markov",
    model="DeepMarkov",
    guide="StructuredChain",
    density="z1 ~ N(0, I);  zt | zt-1 ~ N((1 - g) (W zt-1 + b) + g h, s(h)^2), g and h networks of zt-1;  "
    "xt | zt ~ N(mu(zt), sigma(zt)^2);  q(zt | zt-1, x_t..T)",
    data="elnino",
    likelihood="gaussian",
    training=Training(steps=800, lr=1e-2, decay=0.05, warm_up=0.3),
    source=Source(
        "Krishnan, Rahul G. and Shalit, Uri and Sontag, David",
        2017,
        "Structured inference networks for nonlinear state space models",
        "https://arxiv.org/abs/1609.09869",
    ),
    differs="Gaussian observations, one number a step; a GRU in place of an LSTM; sizes for 49 short series",
    caution="49 short series are few: held out, linear_state_space is better by .87 +- .31 nats a year (5,000 samples), and "
    "500 importance samples fall short of log p(x) by another .2.",
)
def deep_markov(data, *, z_dim=2, hidden=16, state=32, floor=0.15):
    """A deep Markov model with a guide that reads each series backward and follows its own samples forward."""
    from .guides import StructuredChain
    from .zoo import DeepMarkov

    model = DeepMarkov(z_dim, hidden, (hidden,), floor)
    mean, scale = float(data.train.mean()), float(data.train.std())
    return model, StructuredChain(model, z_dim, state, 1, mean, scale)
