"""Rows of multilevel regression: groups of real data, partially pooled, with exact answers by quadrature over the scales."""

from .registry import Source, Training, pair

EFRON_1975 = Source(
    "Efron, Bradley and Morris, Carl",
    1975,
    "Data analysis using Stein's estimator and its generalizations",
    "https://doi.org/10.1080/01621459.1975.10479864",
)
GELMAN_2007 = Source(
    "Gelman, Andrew and Hill, Jennifer",
    2007,
    "Data analysis using regression and multilevel/hierarchical models",
    "https://doi.org/10.1017/CBO9780511790942",
)
GELFAND_1990 = Source(
    "Gelfand, Alan E. and Hills, Susan E. and Racine-Poon, Amy and Smith, Adrian F. M.",
    1990,
    "Illustration of Bayesian inference in normal data models using Gibbs sampling",
    "https://doi.org/10.1080/01621459.1990.10474968",
)


def _arguments(data):
    from .placement import to_tensors

    return to_tensors(data.train)


@pair(
    "baseball",
    model="PartialPooling",
    guide="JointIAF",
    density=(
        "mu ~ N(-1, 1);  sigma ~ HalfNormal(1);  epsilon_j ~ N(0, 1);  theta_j = sigmoid(mu + sigma epsilon_j);  "
        "y_j ~ Binomial(n_j, theta_j)"
    ),
    data="baseball",
    likelihood="own",
    source=EFRON_1975,
    differs=(
        "Efron and Morris shrink arcsine-transformed averages by a formula; here counts are binomial, the players' log "
        "odds are normal, and mu and sigma have priors, as in Carpenter, Gabry & Goodrich (2017)"
    ),
    caution=(
        "With 45 times at bat the data hardly bound sigma from below: log sigma has a long left tail, which no Gaussian "
        "has and a flow follows only some way. Weights are heavy: look at k-hat."
    ),
    training=Training(steps=2000, lr=2e-2, decay=0.0, objective="elbo:16"),
)
def baseball(data):
    """Batting averages of 18 players, partially pooled, with an inverse autoregressive flow over all latents."""
    from .guides import JointIAF
    from .zoo import PartialPooling

    model = PartialPooling()
    return model, JointIAF(model, *_arguments(data))


@pair(
    "radon",
    model="VaryingIntercept",
    guide="Structured",
    density=(
        "gamma, beta ~ N(0, 2);  sigma_alpha, sigma_y ~ HalfNormal(1);  epsilon_j ~ N(0, 1);  "
        "alpha_j = gamma_0 + gamma_1 u_j + sigma_alpha epsilon_j;  y_i ~ N(alpha_county(i) + beta x_i, sigma_y)"
    ),
    data="radon",
    likelihood="own",
    source=GELMAN_2007,
    differs="proper priors where the book has flat ones; intercepts are not centred",
    caution=(
        "log sigma_alpha has a long left tail, since the data allow counties that differ by their uranium alone; the "
        "guide is Gaussian there. A subsample of houses needs --objective trace_elbo, and its noise needs more steps."
    ),
    training=Training(steps=2000, lr=3e-2, decay=0.0, objective="elbo:8"),
)
def radon(data, *, subsample=0):
    """Radon in Minnesota's houses: an intercept for each of 85 counties, explained in part by its uranium.

    ``subsample`` houses are drawn for each step of training, all of them by default.
    """
    from .guides import Structured
    from .zoo import VaryingIntercept

    if not 0 <= subsample <= len(data.train[0]):
        raise ValueError(f"subsample: {subsample} given; between 1 and {len(data.train[0])} houses, or 0 for all")
    model = VaryingIntercept(int(data.train[2].max()) + 1, subsample_size=subsample or None)
    return model, Structured(model, *_arguments(data))


@pair(
    "rats",
    model="GrowthCurves",
    guide="Structured",
    density=(
        "mu_alpha ~ N(250, 100);  mu_beta ~ N(6, 5);  sigma_alpha, sigma_beta, sigma_weight ~ HalfNormal(50, 2, 20);  "
        "alpha_i ~ N(mu_alpha, sigma_alpha);  beta_i ~ N(mu_beta, sigma_beta);  "
        "weight_ij ~ N(alpha_i + beta_i (age_ij - 22), sigma_weight)"
    ),
    data="rats",
    likelihood="own",
    source=GELFAND_1990,
    differs="independent intercepts and slopes, ages centred at 22 days, half-normal priors on the scales",
    training=Training(steps=3000, lr=5e-2, decay=0.0, objective="elbo:16"),
)
def rats(data):
    """Growth curves of 30 rats: a line for each, drawn from a population of lines."""
    from .guides import Structured
    from .zoo import GrowthCurves

    model = GrowthCurves()
    return model, Structured(model, *_arguments(data))
