"""Rows of spins and bits: small enough for an exact answer, and discrete, or nearly so."""

from .registry import Source, Training, pair

CRITICAL = 2.269185314213022  # 2 / ln(1 + sqrt 2), the infinite lattice's transition
LI_2018 = Source(
    "Li, Shuo-Hui and Wang, Lei", 2018, "Neural network renormalization group", "https://arxiv.org/abs/1802.02840"
)
LATTICE = "s_i = +-1 on an L x L torus;  p(s) = exp(sum over bonds s_i s_j / T) / Z"
SPINS = Training(objective="elbo:500", estimator="score", steps=600, lr=1e-2, decay=0.01)


@pair(
    "ising",
    model="Ising",
    guide="CoarseToFine",
    density=LATTICE + ";  q(s) = product over levels, coarse to fine, of q(level | all above), autoregressive within",
    data="no_data",
    likelihood="own",
    source=LI_2018,
    training=SPINS,
    differs="discrete spins on sublattices in place of a flow, autoregressive within a level as in Wu et al. (2019)",
    caution="What is bounded is ln Z - L^2 ln 2; the variational free energy is -T ln Z.",
)
def ising(data, *, size=8, temperature=CRITICAL, width=16):
    """The Ising model from a coarse lattice to a fine one, by the variational free energy."""
    from .guides import CoarseToFine
    from .zoo import Ising

    model = Ising(size, temperature)
    return model, CoarseToFine(model, width)


@pair(
    "ising_factorised",
    model="Ising",
    guide="FactorisedCoarseToFine",
    density=LATTICE + ";  q(s) = product over levels, coarse to fine, of q(level | all above), factorised within",
    data="no_data",
    likelihood="own",
    source=LI_2018,
    training=SPINS,
    differs="discrete spins on sublattices in place of a flow",
    caution="Blind to correlations within a level that the levels above do not explain.",
)
def ising_factorised(data, *, size=8, temperature=CRITICAL, width=16):
    """The Ising model from a coarse lattice to a fine one, every level factorised given those above it."""
    from .guides import FactorisedCoarseToFine
    from .zoo import Ising

    model = Ising(size, temperature)
    return model, FactorisedCoarseToFine(model, width)
