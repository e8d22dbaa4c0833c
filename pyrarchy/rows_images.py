"""Rows of the deep pairs for images. The default sizes suit the 8 x 8 digits; the docs give the papers' for MNIST."""

from .registry import Source, Training, pair

KINGMA_2014 = Source(
    "Kingma, Diederik P. and Welling, Max", 2014, "Auto-encoding variational Bayes", "https://arxiv.org/abs/1312.6114"
)
KINGMA_2016 = Source(
    "Kingma, Diederik P. and Salimans, Tim and Jozefowicz, Rafal and Chen, Xi and Sutskever, Ilya and Welling, Max",
    2016,
    "Improved variational inference with inverse autoregressive flow",
    "https://arxiv.org/abs/1606.04934",
)
BURDA_2015 = Source(
    "Burda, Yuri and Grosse, Roger and Salakhutdinov, Ruslan",
    2015,
    "Importance weighted autoencoders",
    "https://arxiv.org/abs/1509.00519",
)
REZENDE_2014 = Source(
    "Rezende, Danilo Jimenez and Mohamed, Shakir and Wierstra, Daan",
    2014,
    "Stochastic backpropagation and approximate inference in deep generative models",
    "https://arxiv.org/abs/1401.4082",
)
SONDERBY_2016 = Source(
    "Sonderby, Casper Kaae and Raiko, Tapani and Maaloe, Lars and Sonderby, Soren Kaae and Winther, Ole",
    2016,
    "Ladder variational autoencoders",
    "https://arxiv.org/abs/1602.02282",
)
ONE_LAYER = "z1 ~ N(0, I);  x | z1 ~ Bernoulli(sigmoid(f(z1)))"
CHAIN = "zL ~ N(0, I);  zi | zi+1 ~ N(mu_i(zi+1), sigma_i(zi+1)^2);  x | z1 ~ Bernoulli(sigmoid(f(z1)))"


@pair(
    "vae",
    model="VAE",
    guide="Amortized",
    density=ONE_LAYER,
    source=KINGMA_2014,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1),
    caution="Samples from the prior look worse than reconstructions where the average posterior is not the prior.",
)
def vae(data, *, z_dim=16, hidden=(128, 128)):
    """The variational autoencoder with Bernoulli pixels."""
    from torch import nn

    from .guides import Amortized, Encoder
    from .zoo import VAE

    model = VAE(data.dim, z_dim, hidden, data.mean)
    return model, Amortized(model, Encoder(data.dim, (z_dim,), (hidden[::-1],), data.mean, nn.Tanh))


@pair(
    "vae_gaussian",
    model="GaussianVAE",
    guide="Amortized",
    density="z1 ~ N(0, I);  x | z1 ~ N(mu(z1), sigma(z1)^2), sigma >= floor",
    source=KINGMA_2014,
    likelihood="gaussian",
    training=Training(epochs=100, batch_size=50, lr=2e-3, decay=0.1),
    caution="Without a floor on the decoder's scale the likelihood has no maximum; compare only fits with one floor.",
)
def vae_gaussian(data, *, z_dim=10, hidden=(128, 128), floor=0.05):
    """A variational autoencoder for continuous data, with decoder mean and scale."""
    from torch import nn

    from .guides import Amortized, Encoder
    from .zoo import GaussianVAE

    model = GaussianVAE(data.dim, z_dim, hidden, floor)
    return model, Amortized(model, Encoder(data.dim, (z_dim,), (hidden[::-1],), data.mean, nn.Tanh))


@pair(
    "vae_iaf",
    model="VAE",
    guide="IAF",
    density=ONE_LAYER + ";  q(z1 | x) a Gaussian through gated autoregressive steps with context h(x)",
    source=KINGMA_2016,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1),
    differs="fully connected, and one stochastic layer",
)
def vae_iaf(data, *, z_dim=16, hidden=(128, 128), steps=2, width=96):
    """The VAE with an inverse autoregressive flow as its guide."""
    from torch import nn

    from .guides import IAF, Encoder
    from .zoo import VAE

    model = VAE(data.dim, z_dim, hidden, data.mean)
    encoder = Encoder(data.dim, (z_dim,), (hidden[::-1],), data.mean, nn.Tanh)
    return model, IAF(model, encoder, steps, (width,))


@pair(
    "iwae2",
    model="MarkovHVAE",
    guide="BottomUp",
    density=CHAIN + " with L = 2;  q(z1 | x) q(z2 | z1)",
    source=BURDA_2015,
    training=Training(objective="iwae:5", epochs=100, batch_size=50, lr=2e-3, decay=0.1),
    caution="The tighter the bound, the less signal its gradient carries for the guide (Rainforth et al. 2018).",
)
def iwae2(data, *, z_dims=(24, 12), hidden=(128, 64)):
    """Two stochastic layers with a bottom-up guide, trained on importance weights."""
    from torch import nn

    from .guides import BottomUp
    from .zoo import MarkovHVAE

    model = MarkovHVAE(data.dim, z_dims, hidden, data.mean, nn.Tanh)
    return model, BottomUp(data.dim, z_dims, tuple((h, h) for h in hidden), data.mean)


@pair(
    "hvae",
    model="MarkovHVAE",
    guide="Amortized",
    density=CHAIN,
    source=REZENDE_2014,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1, warm_up=0.5),
    caution="Its upper layers collapse to the prior: the rates say so.",
)
def hvae(data, *, z_dims=(16, 8, 4), hidden=(128, 64, 32)):
    """A Markov hierarchy of Gaussian layers with an amortised guide that ignores the samples above."""
    from torch import nn

    from .guides import Amortized, Encoder
    from .zoo import MarkovHVAE

    model = MarkovHVAE(data.dim, z_dims, hidden, data.mean, nn.Tanh)
    return model, Amortized(model, Encoder(data.dim, z_dims, hidden, data.mean, nn.Tanh))


@pair(
    "ladder_vae",
    model="MarkovHVAE",
    guide="Ladder",
    density=CHAIN,
    source=SONDERBY_2016,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1, warm_up=0.5),
    differs="tanh in place of leaky ReLU, no batch normalisation, sizes for 8 x 8 images",
)
def ladder_vae(data, *, z_dims=(16, 8, 4), hidden=(128, 64, 32)):
    """The ladder VAE: a Markov hierarchy whose guide multiplies bottom-up evidence into the model's own prior."""
    from torch import nn

    from .guides import Encoder, Ladder
    from .zoo import MarkovHVAE

    model = MarkovHVAE(data.dim, z_dims, hidden, data.mean, nn.Tanh)
    return model, Ladder(model, Encoder(data.dim, z_dims, hidden, data.mean, nn.Tanh))
