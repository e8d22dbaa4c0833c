"""Rows of sparse linear models of image patches, and of their Gaussian control."""

from .registry import Source, Training, pair

OLSHAUSEN_1997 = Source(
    "Olshausen, Bruno A. and Field, David J.",
    1997,
    "Sparse coding with an overcomplete basis set: a strategy employed by V1?",
    "https://doi.org/10.1016/S0042-6989(97)00169-7",
)
TRAINING = Training(epochs=60, batch_size=100, lr=5e-3, decay=0.03)
DIFFERS = (
    "an amortised guide in place of the codes' maximum; two photographs; white noise of sd .2 added to the patches"
)


@pair(
    "sparse_laplace",
    model="SparseLinear",
    guide="Ridge",
    density="z1 ~ Laplace(0, 1);  x | z1 ~ N(mean + W z1, scale^2 I);  q(z1 | x) diagonal about the ridge estimate",
    likelihood="gaussian",
    data="patches",
    training=TRAINING,
    source=OLSHAUSEN_1997,
    differs=DIFFERS,
    caution="The learned noise scale falls below the .2 that was added to the data: weak atoms carry that noise, and the "
    "diagonal guide has almost no gap there. With more atoms than pixels (z_dim=288) the codes hang together given x, which "
    "the guide cannot say: its gap is 14 nats.",
)
def sparse_laplace(data, *, z_dim=144, hidden=64):
    """Sparse coding with a Laplace prior: four atoms in ten become localised edges."""
    import pyro.distributions as dist

    return _sparse(data, dist.Laplace, z_dim, hidden)


@pair(
    "sparse_cauchy",
    model="SparseLinear",
    guide="Ridge",
    density="z1 ~ Cauchy(0, 1);  x | z1 ~ N(mean + W z1, scale^2 I);  q(z1 | x) diagonal about the ridge estimate",
    likelihood="gaussian",
    data="patches",
    training=TRAINING,
    source=OLSHAUSEN_1997,
    differs=DIFFERS,
)
def sparse_cauchy(data, *, z_dim=144, hidden=64):
    """Sparse coding with a Cauchy prior, whose tails are heavier still."""
    import pyro.distributions as dist

    return _sparse(data, dist.Cauchy, z_dim, hidden)


@pair(
    "sparse_gaussian",
    model="GaussianLinear",
    guide="Amortized",
    density="z1 ~ N(0, I);  x | z1 ~ N(mean + W z1, scale^2 I);  q(z1 | x) diagonal, linear in x",
    likelihood="gaussian",
    data="patches",
    training=TRAINING,
    source=OLSHAUSEN_1997,
    differs="the control: the same model with a Gaussian prior",
    caution="Its atoms are known up to a rotation only; the diagonal guide picks the principal axes.",
)
def sparse_gaussian(data, *, z_dim=144):
    """The Gaussian control of the sparse models: same linear decoder, no sparseness."""
    from .guides import Amortized, Encoder
    from .zoo import GaussianLinear

    model = GaussianLinear(data.dim, z_dim, mean=data.mean)
    return model, Amortized(model, Encoder(data.dim, (z_dim,), ((),), data.mean))


def _sparse(data, prior, z_dim, hidden):
    from .guides import Ridge
    from .zoo import SparseLinear

    model = SparseLinear(data.dim, z_dim, prior, mean=data.mean)
    return model, Ridge(model, hidden)
