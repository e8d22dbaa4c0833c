"""Rows of multilevel regression: groups of real data, partially pooled, with exact answers by quadrature over the scales."""

from .registry import Source, Training, pair

EFRON_1975 = Source(
    "Efron, Bradley and Morris, Carl",
    1975,
    "Data analysis using Stein's estimator and its generalizations",
    "https://doi.org/10.1080/01621459.1975.10479864",
)


def _arguments(data):
    from .fit_command import to_tensors

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
