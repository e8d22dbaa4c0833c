"""Rows whose guide is a flow over a hierarchy, or whose decoder is autoregressive. Sizes suit the 8 x 8 digits."""

from .registry import Training, pair
from .rows_images import KINGMA_2016
from .rows_priors import CHEN_2017

PATH = (
    "hL = 0;  zL ~ N(0, I);  zi | z>i ~ N(mu_i(hi), sigma_i(hi)^2);  hi-1 = hi + f_i(hi, zi);  "
    "x | z ~ Bernoulli(sigmoid(g(h0)));  q(zi | z>i, x) a Gaussian through gated autoregressive steps, context c(x, hi)"
)


@pair(
    "ladder_iaf",
    model="ResidualHVAE",
    guide="LadderIAF",
    density=PATH,
    source=KINGMA_2016,
    training=Training(epochs=80, batch_size=50, lr=2e-3, decay=0.1, warm_up=0.3),
    differs="fully connected, two layers, warm-up in place of free bits (--objective freebits:.25 brings them back)",
    caution="Every layer can explain x along the path, so that one of them may collapse: compare the rates.",
)
def ladder_iaf(data, *, z_dims=(16, 8), width=128, steps=2, hidden=(64,)):
    """Bidirectional inference with an inverse autoregressive flow at each layer of a top-down hierarchy."""
    from .guides import LadderIAF
    from .zoo import ResidualHVAE

    model = ResidualHVAE(data.dim, z_dims, width, data.mean)
    return model, LadderIAF(model, data.mean, steps, hidden)


@pair(
    "ladder_iaf_conv",
    model="ConvResidualHVAE",
    guide="ConvLadderIAF",
    density=PATH + "; maps in place of vectors, f and g convolutions",
    source=KINGMA_2016,
    training=Training(epochs=40, batch_size=50, lr=3e-3, decay=0.1, warm_up=0.3),
    differs="two layers at two resolutions, no weight normalisation, warm-up in place of free bits",
    caution="A density at a foreign z, as STL and DReG need it, takes one pass a dimension of the map.",
)
def ladder_iaf_conv(data, *, channels=(2, 4), width=24, steps=2, hidden=24):
    """The bidirectional ladder with convolutions, for images whose sides divide by four."""
    from .guides import ConvLadderIAF
    from .zoo import ConvResidualHVAE

    model = ConvResidualHVAE(data.image_shape, channels, width, data.mean)
    return model, ConvLadderIAF(model, data.mean, steps, hidden)


@pair(
    "lossy_vae",
    model="LossyVAE",
    guide="Amortized",
    density="z1 ~ N(0, I);  x_j | z1, x_<j ~ Bernoulli(sigmoid(f_j(z1) + g(x_W(j), c_j(z1)))), W(j) the window before j",
    source=CHEN_2017,
    training=Training(epochs=80, batch_size=50, lr=2e-3, decay=0.1),
    differs="a single window convolution in place of a PixelCNN, a normal prior, sizes for 8 x 8 images",
    caution="The wider the window, the less goes through z: its rate falls with r (see the page on lossy rates).",
)
def lossy_vae(data, *, field=1, z_dim=16, hidden=(128, 128), channels=16):
    """The lossy VAE: pixels read z and a causal window of reach r, so that z keeps what the window cannot tell."""
    from torch import nn

    from .guides import Amortized, Encoder
    from .zoo import LossyVAE

    model = LossyVAE(data.image_shape, z_dim, hidden, field, channels, data.mean)
    return model, Amortized(model, Encoder(data.dim, (z_dim,), (hidden[::-1],), data.mean, nn.Tanh))
