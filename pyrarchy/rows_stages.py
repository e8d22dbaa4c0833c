"""Rows of the pairs that paint an image from coarse to fine: rungs of a ladder, steps, or stages."""

from .registry import Source, Training, pair

ZHAO_2017_LADDER = Source(
    "Zhao, Shengjia and Song, Jiaming and Ermon, Stefano",
    2017,
    "Learning hierarchical features from generative models",
    "https://arxiv.org/abs/1702.08396",
    letter="b",
)
ZHAO_2017_STEPS = Source(
    "Zhao, Shengjia and Song, Jiaming and Ermon, Stefano",
    2017,
    "Towards deeper understanding of variational autoencoding models",
    "https://arxiv.org/abs/1702.08658",
    letter="a",
)
CAI_2017 = Source(
    "Cai, Lei and Gao, Hongyang and Ji, Shuiwang",
    2017,
    "Multi-stage variational auto-encoders for coarse-to-fine image generation",
    "https://arxiv.org/abs/1705.07202",
)
STEPS = "zt ~ N(0, I) for each step;  lt = gt lt-1 + (1 - gt) f{}(zt, mean image t-1);  x | z ~ Bernoulli(sigmoid(lT))"
STEPS_DIFFER = (
    "Bernoulli pixels in place of a squared error; fully connected; a learned gate per pixel; the gradient of the whole "
    "objective, where the authors' code stops it between steps; guides on a shared trunk; sites count from the data, so "
    "that the last step draws z1"
)
AUXILIARY = (
    "log p(x) is that of the last image; the likelihoods of the earlier ones are in the gradient alone. The guide follows "
    "them too and becomes narrower than the posterior, so k-hat is high and log p(x) is underestimated: before grading, "
    "refit the guide alone under AuxiliaryWeight(0)."
)


@pair(
    "vlae",
    model="VLAE",
    guide="Amortized",
    density="zi ~ N(0, I), independent;  hi = fi(ui(hi+1) + gi vi(zi)), hL = fL(zL);  x | z ~ Bernoulli(sigmoid(W h1 + b))",
    source=ZHAO_2017_LADDER,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1, warm_up=0.3),
    differs="Bernoulli pixels in place of a weighted absolute error; fully connected, without batch normalisation",
    caution="A bottom rung wide enough for the image (here 8 units) leaves the others at the prior: the rates say so.",
)
def vlae(data, *, z_dims=(2, 2, 2), hidden=(128, 64, 32)):
    """The variational ladder autoencoder: independent latents that enter one decoder at different depths."""
    from .guides import Amortized, Encoder
    from .zoo import VLAE

    model = VLAE(data.dim, z_dims, hidden, data.mean)
    return model, Amortized(model, Encoder(data.dim, z_dims, hidden, data.mean))


@pair(
    "sequential_vae",
    model="SequentialVAE",
    guide="Amortized",
    density=STEPS.format("t"),
    source=ZHAO_2017_STEPS,
    training=Training(epochs=60, batch_size=50, lr=2e-3, decay=0.1, warm_up=0.3),
    differs=STEPS_DIFFER,
    caution=AUXILIARY,
)
def sequential_vae(data, *, z_dim=4, steps=4, hidden=(128,), encoder=(128, 128)):
    """The sequential VAE: each step repaints the image of the step before, with a latent and a network of its own."""
    from .zoo import SequentialVAE

    return _steps(SequentialVAE, data, z_dim, steps, hidden, encoder)


@pair(
    "sequential_vae_shared",
    model="SharedSequentialVAE",
    guide="Amortized",
    density=STEPS.format(""),
    source=ZHAO_2017_STEPS,
    training=Training(epochs=60, batch_size=50, lr=2e-3, decay=0.1, warm_up=0.3),
    differs=STEPS_DIFFER + "; the first step shares the network too, and starts from the mean image",
    caution=AUXILIARY,
)
def sequential_vae_shared(data, *, z_dim=4, steps=4, hidden=(128,), encoder=(128, 128)):
    """The sequential VAE as a homogeneous chain: one network for all steps."""
    from .zoo import SharedSequentialVAE

    return _steps(SharedSequentialVAE, data, z_dim, steps, hidden, encoder)


def _steps(kind, data, z_dim, steps, hidden, encoder):
    """A sequential VAE, and a guide whose heads of all steps read the data through one trunk."""
    from .guides import Amortized, Encoder

    z_dims = (z_dim,) * steps
    model = kind(data.dim, z_dims, hidden, data.mean)
    trunk = (encoder, *[()] * (steps - 1))
    return model, Amortized(model, Encoder(data.dim, z_dims, trunk, data.mean))


@pair(
    "multi_stage_vae",
    model="MultiStageVAE",
    guide="Amortized",
    density="z1 ~ N(0, I);  c = f(z1);  x | z1 ~ Bernoulli(sigmoid(c + r(sigmoid(c))))",
    source=CAI_2017,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1),
    differs="Bernoulli pixels at both stages; fully connected",
    caution=AUXILIARY,
)
def multi_stage_vae(data, *, z_dim=16, hidden=(128, 128), refiner=(128,)):
    """The multi-stage VAE: a coarse image with its own likelihood, then a refiner that adds a residual."""
    from .zoo.likelihoods import Bits

    return _stages(data, z_dim, hidden, refiner, (Bits, Bits))


@pair(
    "multi_stage_vae_gaussian",
    model="MultiStageVAE",
    guide="Amortized",
    density="z1 ~ N(0, I);  c = f(z1);  x | z1 ~ Laplace(c + r(c), s)  (coarse image: N(c, s'^2))",
    source=CAI_2017,
    likelihood="gaussian",
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1),
    differs="the scales of the squared (coarse) and the absolute error (fine) are learned; fully connected",
    caution=AUXILIARY + " Densities of continuous pixels: compare only with others of the same data.",
)
def multi_stage_vae_gaussian(data, *, z_dim=16, hidden=(128, 128), refiner=(128,)):
    """The multi-stage VAE with the paper's losses: a squared error of the coarse image, an absolute one of the fine."""
    from .zoo.likelihoods import GaussianPixels, LaplacePixels

    return _stages(data, z_dim, hidden, refiner, (GaussianPixels, LaplacePixels))


def _stages(data, z_dim, hidden, refiner, likelihoods):
    from .guides import Amortized, Encoder
    from .zoo import MultiStageVAE

    model = MultiStageVAE(data.dim, z_dim, (hidden, refiner), data.mean, likelihoods)
    return model, Amortized(model, Encoder(data.dim, (z_dim,), (hidden[::-1],), data.mean))
