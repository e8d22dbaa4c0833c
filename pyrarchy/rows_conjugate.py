"""Rows of conjugate models: factorised posteriors by closed-form updates, with the exact bound."""

from .registry import Source, Training, pair


def _rows(data):
    import numpy as np
    import torch

    parts = data.train if isinstance(data.train, tuple) else (data.train,)
    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in parts)


@pair(
    "normal_gamma",
    model="NormalGamma",
    guide="Conjugate",
    density="tau ~ Gamma(a, b);  mu | tau ~ N(m, 1 / (l tau));  x_n ~ N(mu, 1 / tau);  q(mu) q(tau)",
    data="newcomb",
    likelihood="own",
    training=Training(method="cavi"),
    source=Source(
        "MacKay, David J. C.",
        2003,
        "Information theory, inference, and learning algorithms, section 33.5",
        "https://www.inference.org.uk/mackay/itila/",
    ),
    differs="conjugate priors in place of improper ones, so that the evidence exists",
    caution="Two of Newcomb's 66 values are outliers (-44 and -2), for which this model has no place.",
)
def normal_gamma(data, *, strength=0.01, shape=0.01, rate=0.01):
    """Normal data of unknown mean and precision: the exact evidence shows what mean field costs."""
    from .guides import Conjugate
    from .zoo import NormalGamma

    model = NormalGamma(strength=strength, shape=shape, rate=rate)
    return model, Conjugate(model, model.start(*_rows(data)))


@pair(
    "gaussian_mixture",
    model="GaussianMixture",
    guide="Conjugate",
    density="weights ~ Dirichlet(a);  precision_k ~ Gamma;  mean_k ~ N(m, 1 / (b precision_k));  "
    "z1 ~ Categorical(weights);  x | z1 ~ N(mean_z1, 1 / precision_z1)",
    data="old_faithful",
    likelihood="gaussian",
    training=Training(method="cavi"),
    source=Source(
        "Attias, Hagai",
        1999,
        "Inferring parameters and structure of latent variable models by variational Bayes",
        "https://arxiv.org/abs/1301.6676",
    ),
    differs="each column has its own precision, a Gamma, in place of a Wishart over all",
    caution="The bound knows one labelling of the components of K! equal ones, so it lies below the evidence by up to "
    "log K! for that reason alone.",
)
def gaussian_mixture(data, *, components=6, concentration=0.1):
    """Bayesian mixture of Gaussians by coordinate ascent: components that the data do not need switch off."""
    from .guides import Conjugate
    from .zoo import GaussianMixture

    rows = _rows(data)
    spread = data.train.std(0, dtype="float64")
    model = GaussianMixture(data.dim, components, concentration=concentration, loc=data.mean, scale=spread)
    return model, Conjugate(model, model.start(*rows))


@pair(
    "bayesian_ppca",
    model="BayesianPPCA",
    guide="Conjugate",
    density="tau, alpha_k ~ Gamma;  W_k ~ N(0, 1 / alpha_k);  mean ~ N(0, s^2);  z1 ~ N(0, I);  "
    "x | z1 ~ N(mean + W z1, 1 / tau I)",
    likelihood="gaussian",
    training=Training(method="cavi"),
    source=Source(
        "Bishop, Christopher M.",
        1999,
        "Variational principal components",
        "https://doi.org/10.1049/cp:19991160",
    ),
    caution="With 1,500 digits all 16 factors earn their place; they switch off where data have fewer directions than "
    "factors.",
)
def bayesian_ppca(data, *, z_dim=16):
    """Bayesian PCA by coordinate ascent: a prior on each factor's size finds how many are needed."""
    from .guides import Conjugate
    from .zoo import BayesianPPCA

    model = BayesianPPCA(data.dim, z_dim)
    return model, Conjugate(model, model.start(*_rows(data)))
