"""Rows of hierarchies of bits."""

from .registry import Source, Training, pair


@pair(
    "sigmoid_belief",
    model="SigmoidBelief",
    guide="BottomUpBits",
    density="zL ~ Bernoulli(sigmoid(b));  zi | zi+1 ~ Bernoulli(sigmoid(W zi+1 + b));  "
    "x | z1 ~ Bernoulli(sigmoid(W z1 + b));  q(z1 | x) q(z2 | z1)",
    data="bars",
    training=Training(objective="iwae:10", estimator="vimco", epochs=150, batch_size=50, lr=5e-3, decay=0.05),
    source=Source(
        "Mnih, Andriy and Rezende, Danilo J.",
        2016,
        "Variational inference for Monte Carlo objectives",
        "https://arxiv.org/abs/1602.06725",
    ),
    differs="15 and 7 bits, so that log p(x) can be enumerated, and 5 x 5 bars in place of MNIST",
    caution="Bits that explain the same pixels depend on each other given x, which this guide cannot say: its gap is what "
    "the enumerated log p(x) shows. The density that made the bars has log p(x) = -6.36 held out, well above this fit.",
)
def sigmoid_belief(data, *, z_dims=(15, 7), hidden=(32, 16)):
    """A sigmoid belief network with an amortised bottom-up guide; its log p(x) is enumerated."""
    from .guides import BottomUpBits
    from .zoo import SigmoidBelief

    model = SigmoidBelief(data.dim, z_dims, data.mean)
    return model, BottomUpBits(data.dim, z_dims, tuple((h,) for h in hidden), data.mean)
