"""Rows of spins and bits: small enough for an exact answer, and discrete, or nearly so."""

from .registry import Source, Training, pair

CRITICAL = 2.269185314213022  # 2 / ln(1 + sqrt 2), the infinite lattice's transition
LI_2018 = Source(
    "Li, Shuo-Hui and Wang, Lei", 2018, "Neural network renormalization group", "https://arxiv.org/abs/1802.02840"
)
SHU_2016 = Source("Shu, Rui", 2016, "One bit VAE", "https://github.com/RuiShu/one-bit-vae")
LATTICE = "s_i = +-1 on an L x L torus;  p(s) = exp(sum over bonds s_i s_j / T) / Z"
SPINS = Training(objective="elbo:500", estimator="score", steps=600, lr=1e-2, decay=0.01)
NO_LATENT_LOST = "The loss cannot be below ln 2 = 0.693; with one latent it stays above its own exact optimum."


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


def first_columns(data, options):
    """As many bits as asked for."""
    import numpy as np

    if options["bits"] > data.dim:
        raise ValueError(f"option bits={options['bits']}: {data.name} has {data.dim} columns")
    return np.arange(options["bits"])


@pair(
    "one_bit",
    model="OneBit",
    guide="Amortized",
    density="z1 ~ N(0, 1);  x_d | z1 ~ Bernoulli(sigmoid(f_d(z1))), d = 1 ... n",
    data="one_bit",
    source=SHU_2016,
    training=Training(objective="elbo:500", steps=5000, lr=5e-3, decay=0.02),
    differs="the learning rate falls by a cosine",
    caution=NO_LATENT_LOST,
    picks=first_columns,
)
def one_bit(data, *, bits=10, width=10):
    """One bit in n dimensions, encoded by one Gaussian latent: exact by quadrature."""
    from torch import nn

    from .guides import Amortized, Encoder
    from .zoo import OneBit

    model = OneBit(data.dim, 1, width)
    return model, Amortized(model, Encoder(data.dim, (1,), ((width,) * 3,), activation=nn.ELU))


@pair(
    "one_bit_two",
    model="OneBit",
    guide="BottomUp",
    density="z2 ~ N(0, 1);  z1 | z2 ~ N(mu(z2), sigma(z2)^2);  x_d | z1 ~ Bernoulli(sigmoid(f_d(z1))), d = 1 ... n",
    data="one_bit",
    source=SHU_2016,
    training=Training(objective="elbo:500", steps=5000, lr=5e-3, decay=0.02),
    differs="the learning rate falls by a cosine",
    caution="With many bits some starts stay where one latent would end (of 100 bits, seed 0 does; 1 and 2 do not).",
    picks=first_columns,
)
def one_bit_two(data, *, bits=10, width=10):
    """One bit in n dimensions with a second latent, which brings the loss close to ln 2."""
    from torch import nn

    from .guides import BottomUp
    from .zoo import OneBit

    model = OneBit(data.dim, 2, width)
    return model, BottomUp(data.dim, (1, 1), ((width,) * 3, (width,) * 3), activation=nn.ELU)
