"""Rows of the linear-Gaussian pairs, whose answers are known exactly."""

from .faults import DataError
from .registry import Source, Training, pair


def _more_rows_than_factors(data, options):
    """See that there are more rows than factors; all columns are used."""
    if data.num_train <= options["z_dim"]:
        raise DataError(
            f"{data.name}: has {data.num_train} rows to fit, which {options['z_dim']} factors explain without noise; give "
            f"more rows than factors, or a smaller z_dim"
        )


def _varying_columns(data, options):
    """Leave constant columns out when asked to; the image sets ask for it by themselves."""
    drop = options["drop_constant"]
    dim = data.dim  # refuses a tuple of arrays
    _more_rows_than_factors(data, options)
    varies = data.train.min(0) < data.train.max(0)  # a standard deviation would round
    if varies.all():
        return None
    if not varies.any():
        raise DataError(f"{data.name}: all its columns are constant; there is nothing to fit")
    if data.image_shape is not None if drop is None else drop:
        import numpy as np

        return np.flatnonzero(varies)
    names = data.coords.get("column", range(dim))
    constant = ", ".join(str(name) for name, moves in zip(names, varies, strict=True) if not moves)
    raise DataError(
        f"{data.name}: column(s) {constant} are constant, so their noise has no maximum likelihood; pass "
        "drop_constant=true to leave them out"
    )


def _in_arrays(isotropic):
    def build(data, options, dtype):
        from .zoo.factor_analysis_arrays import FactorAnalysisArrays

        sizes = {"noise_floor": options["noise_floor"], "isotropic": isotropic, "dtype": dtype}
        return FactorAnalysisArrays(data.dim, options["z_dim"], **sizes)

    return build


@pair(
    "factor_analysis",
    model="FactorAnalysis",
    guide="Exact",
    density="z1 ~ N(0, I);  x | z1 ~ N(mean + W z1, diag(scale^2))",
    likelihood="gaussian",
    training=Training(method="em"),
    picks=_varying_columns,
    arrays=_in_arrays(isotropic=False),
    source=Source(
        "Rubin, Donald B. and Thayer, Dorothy T.",
        1982,
        "EM algorithms for ML factor analysis",
        "https://doi.org/10.1007/BF02293851",
    ),
    caution="The likelihood has several maxima on real data, and a column whose noise vanishes (Heywood case) sits on "
    "the noise floor.",
)
def factor_analysis(data, *, z_dim=8, noise_floor=1e-4, drop_constant=None):
    """Factor analysis with its exact posterior, fitted by exact EM from several starts."""
    from .guides import Exact
    from .zoo import FactorAnalysis

    model = FactorAnalysis(data.dim, z_dim, noise_floor=noise_floor)
    return model, Exact(model)


@pair(
    "ppca",
    model="PPCA",
    guide="Exact",
    density="z1 ~ N(0, I);  x | z1 ~ N(mean + W z1, scale^2 I)",
    likelihood="gaussian",
    training=Training(method="em"),
    picks=_more_rows_than_factors,
    arrays=_in_arrays(isotropic=True),
    source=Source(
        "Tipping, Michael E. and Bishop, Christopher M.",
        1999,
        "Probabilistic principal component analysis",
        "https://doi.org/10.1111/1467-9868.00196",
    ),
)
def ppca(data, *, z_dim=8, noise_floor=1e-4):
    """Probabilistic PCA with its exact posterior, fitted in closed form."""
    from .guides import Exact
    from .zoo import PPCA

    model = PPCA(data.dim, z_dim, noise_floor=noise_floor)
    return model, Exact(model)


@pair(
    "linear_vae",
    model="PPCA",
    guide="Amortized",
    density="z1 ~ N(0, I);  x | z1 ~ N(mean + W z1, scale^2 I);  q(z1 | x) diagonal, linear in x",
    likelihood="gaussian",
    training=Training(epochs=400, batch_size=100, lr=3e-2, decay=0.0, objective="analytic"),
    source=Source(
        "Lucas, James and Tucker, George and Grosse, Roger and Norouzi, Mohammad",
        2019,
        "Don't blame the ELBO! A linear VAE perspective on posterior collapse",
        "https://arxiv.org/abs/1911.02469",
    ),
)
def linear_vae(data, *, z_dim=8):
    """PPCA trained by SVI with a linear amortised guide: it reaches PPCA's maximum likelihood."""
    from .guides import Amortized, Encoder
    from .zoo import PPCA

    model = PPCA(data.dim, z_dim)
    return model, Amortized(model, Encoder(data.dim, (z_dim,), ((),), data.mean))


@pair(
    "gaussian_tree",
    model="GaussianTree",
    guide="Ladder",
    density="z2 ~ N(0, 1);  z1 | z2 ~ N(a z2, z1_scale^2 I);  x | z1 ~ N(z1, x_scale^2 I)",
    likelihood="gaussian",
    data="gaussian_tree",
    training=Training(epochs=400, batch_size=50, lr=5e-2, decay=0.0),
    source=Source(
        "Sonderby, Casper Kaae and Raiko, Tapani and Maaloe, Lars and Sonderby, Soren Kaae and Winther, Ole",
        2016,
        "Ladder variational autoencoders",
        "https://arxiv.org/abs/1602.02282",
    ),
)
def gaussian_tree(data):
    """The smallest hierarchy with an exact answer: here a linear ladder reaches the posterior itself."""
    from .guides import Encoder, Ladder
    from .zoo import GaussianTree

    model = GaussianTree(data.dim)
    return model, Ladder(model, Encoder(data.dim, (data.dim, 1), ((), ())))
