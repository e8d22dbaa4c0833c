"""Rows whose guide is a flow over a hierarchy, or whose decoder is autoregressive. Sizes suit the 8 x 8 digits."""

from .registry import Training, pair
from .rows_images import KINGMA_2016

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
