"""Rows of deep hierarchies beyond the Markov chain and its plain ladder.

All take ``z_dims`` and ``hidden`` of one length, bottom first; ``z_dims=64,32,16,8,4 hidden=512,256,128,64,32`` are the
sizes of Sonderby et al. (2016) for MNIST.
"""

from .registry import Source, Training, pair
from .rows_images import CHAIN, SONDERBY_2016

TOMCZAK_2018 = Source(
    "Tomczak, Jakub M. and Welling, Max", 2018, "VAE with a VampPrior", "https://arxiv.org/abs/1705.07120"
)
BACHMAN_2016 = Source(
    "Bachman, Philip",
    2016,
    "An architecture for deep, hierarchical generative models",
    "https://arxiv.org/abs/1612.04739",
)
DENSE = (
    "zL ~ N(0, I);  hi = f_i(hi+1, zi+1);  zi | z>i ~ N(mu_i(hi), sigma_i(hi)^2);  x | z ~ Bernoulli(sigmoid(W h0 + b))"
)
PLAN = Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1, warm_up=0.5)


@pair(
    "dense_hvae",
    model="DenseHVAE",
    guide="TopDown",
    density=DENSE + ";  q(zi | z>i, x) reads features of x and all samples above",
    source=TOMCZAK_2018,
    training=PLAN,
    differs="any depth, plain dense layers without gates, and a standard Gaussian prior at the top",
    caution="The lowest layer sees x best and may leave nothing to those above: the rates say so.",
)
def dense_hvae(data, *, z_dims=(16, 8, 4), hidden=(128, 64, 32)):
    """A hierarchy in which every layer and the image depend on all layers above, with a top-down guide."""
    from torch import nn

    from .guides import Features, TopDown
    from .zoo import DenseHVAE

    model = DenseHVAE(data.dim, z_dims, hidden, data.mean, nn.LeakyReLU)
    return model, TopDown(model, Features(data.dim, hidden, data.mean), z_dims, hidden)


@pair(
    "lateral_hvae",
    model="DenseHVAE",
    guide="Lateral",
    density=DENSE + ";  q(zi | z>i, x) reads features of x and hi",
    source=BACHMAN_2016,
    training=PLAN,
    differs="fully connected, no autoregressive likelihood, and merged features are not handed down from layer to layer",
    caution="The guide's gradient also trains the model's top-down path, which serves both.",
)
def lateral_hvae(data, *, z_dims=(16, 8, 4), hidden=(128, 64, 32)):
    """The dense hierarchy with lateral connections: the guide reads the model's own top-down state."""
    from torch import nn

    from .guides import Features, Lateral
    from .zoo import DenseHVAE

    model = DenseHVAE(data.dim, z_dims, hidden, data.mean, nn.LeakyReLU)
    return model, Lateral(model, Features(data.dim, hidden, data.mean), hidden)


@pair(
    "ladder_vae_bn",
    model="MarkovHVAE",
    guide="Ladder",
    density=CHAIN,
    source=SONDERBY_2016,
    training=Training(epochs=150, batch_size=64, lr=2e-3, decay=0.1, warm_up=0.5),
    differs="sizes and budget for 8 x 8 images; batch normalisation on the hidden layers, not on mean and scale",
    caution="The value in training depends on the batch and bounds nothing; statistics are measured anew to evaluate. At "
    "this budget on the digits the upper layers hold next to nothing: the rates say so.",
)
def ladder_vae_bn(data, *, z_dims=(16, 8, 4), hidden=(128, 64, 32)):
    """The ladder VAE as its paper trains it: batch normalisation, leaky rectifiers, warm-up."""
    from torch import nn

    from .guides import Encoder, Ladder
    from .zoo import MarkovHVAE, Normalised

    part = Normalised(nn.LeakyReLU)
    model = MarkovHVAE(data.dim, z_dims, hidden, data.mean, part)
    return model, Ladder(model, Encoder(data.dim, z_dims, hidden, data.mean, part))


@pair(
    "ladder_vae_untied",
    model="MarkovHVAE",
    guide="UntiedLadder",
    density=CHAIN,
    source=SONDERBY_2016,
    training=PLAN,
    differs="no batch normalisation, sizes for 8 x 8 images; the guide has top-down networks of its own, as in the "
    "authors' published commands and not as in the paper",
    caution="What the guide's networks learn of the prior they learn apart from it: more parameters, slower at first.",
)
def ladder_vae_untied(data, *, z_dims=(16, 8, 4), hidden=(128, 64, 32)):
    """The ladder VAE whose guide has its own top-down networks in place of the model's prior."""
    from .guides import Encoder, UntiedLadder
    from .zoo import MarkovHVAE

    model = MarkovHVAE(data.dim, z_dims, hidden, data.mean)
    return model, UntiedLadder(model, Encoder(data.dim, z_dims, hidden, data.mean), z_dims, hidden[1:])
