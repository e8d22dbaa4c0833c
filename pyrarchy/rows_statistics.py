"""Rows of the statistics literature's own hierarchies: few data, global latents, exact answers by quadrature."""

from .registry import Source, Training, pair

RUBIN_1981 = Source(
    "Rubin, Donald B.",
    1981,
    "Estimation in parallel randomized experiments",
    "https://doi.org/10.3102/10769986006004377",
)
MILLER_2017 = Source(
    "Miller, Andrew C. and Foti, Nicholas J. and Adams, Ryan P.",
    2017,
    "Variational boosting: iteratively refining posterior approximations",
    "https://arxiv.org/abs/1611.06585",
)
CENTRED = "mu ~ N(0, 5);  tau ~ HalfCauchy(5);  theta_j ~ N(mu, tau);  y_j ~ N(theta_j, sigma_j)"
NON_CENTRED = (
    "mu ~ N(0, 5);  tau ~ HalfCauchy(5);  theta_std_j ~ N(0, 1);  theta_j = mu + tau theta_std_j;  "
    "y_j ~ N(theta_j, sigma_j)"
)
FUNNEL = "The centred posterior is a funnel at small tau, which no Gaussian fits: k-hat says not to trust it."


def _arguments(data):
    import numpy as np
    import torch

    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in data.train)


@pair(
    "eight_schools",
    model="EightSchoolsNonCentred",
    guide="FullRank",
    density=NON_CENTRED,
    data="eight_schools",
    likelihood="own",
    source=RUBIN_1981,
    training=Training(steps=3000, lr=3e-2, decay=0.0, objective="elbo:128"),
)
def eight_schools(data):
    """Eight schools, non-centred, with a full-rank Gaussian guide."""
    from .guides import FullRank
    from .zoo import EightSchoolsNonCentred

    model = EightSchoolsNonCentred()
    return model, FullRank(model, *_arguments(data))


@pair(
    "eight_schools_mean_field",
    model="EightSchoolsNonCentred",
    guide="MeanField",
    density=NON_CENTRED,
    data="eight_schools",
    likelihood="own",
    source=RUBIN_1981,
    training=Training(steps=2000, lr=3e-2, decay=0.0, objective="elbo:16"),
)
def eight_schools_mean_field(data):
    """Eight schools, non-centred, with a mean-field guide."""
    from .guides import MeanField
    from .zoo import EightSchoolsNonCentred

    model = EightSchoolsNonCentred()
    return model, MeanField(model, *_arguments(data))


@pair(
    "eight_schools_iaf",
    model="EightSchoolsNonCentred",
    guide="JointIAF",
    density=NON_CENTRED,
    data="eight_schools",
    likelihood="own",
    source=RUBIN_1981,
    training=Training(steps=2000, lr=2e-2, decay=0.0, objective="elbo:16"),
)
def eight_schools_iaf(data):
    """Eight schools, non-centred, with an inverse autoregressive flow over all latents."""
    from .guides import JointIAF
    from .zoo import EightSchoolsNonCentred

    model = EightSchoolsNonCentred()
    return model, JointIAF(model, *_arguments(data))


@pair(
    "eight_schools_mixture",
    model="EightSchoolsNonCentred",
    guide="Mixture",
    density=NON_CENTRED,
    data="eight_schools",
    likelihood="own",
    source=MILLER_2017,
    training=Training(steps=2000, lr=3e-2, decay=0.0, objective="elbo:32"),
    differs="components are full-rank and trained together; inference.boost adds them one at a time",
)
def eight_schools_mixture(data, *, components=3):
    """Eight schools, non-centred, with a mixture of full-rank Gaussians."""
    from .guides import Mixture
    from .zoo import EightSchoolsNonCentred

    model = EightSchoolsNonCentred()
    return model, Mixture(model, *_arguments(data), components=components)


@pair(
    "eight_schools_centred",
    model="EightSchools",
    guide="MeanField",
    density=CENTRED,
    data="eight_schools",
    likelihood="own",
    source=RUBIN_1981,
    caution=FUNNEL,
    training=Training(steps=8000, lr=5e-2, decay=0.0, objective="elbo:16"),
)
def eight_schools_centred(data):
    """Eight schools, centred, with a mean-field guide: the textbook example of a posterior not to be trusted."""
    from .guides import MeanField
    from .zoo import EightSchools

    model = EightSchools()
    return model, MeanField(model, *_arguments(data))
