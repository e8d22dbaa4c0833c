"""Rows with a learned prior on the top layer: the encoder's answers to pseudo-inputs, or a flow."""

from .registry import Source, Training, pair

TOMCZAK_2018 = Source(
    "Tomczak, Jakub M. and Welling, Max", 2018, "VAE with a VampPrior", "https://arxiv.org/abs/1705.07120"
)
CHEN_2017 = Source(
    "Chen, Xi and Kingma, Diederik P. and Salimans, Tim and Duan, Yan and Dhariwal, Prafulla and Schulman, John and "
    "Sutskever, Ilya and Abbeel, Pieter",
    2017,
    "Variational lossy autoencoder",
    "https://arxiv.org/abs/1611.02731",
)
CLAMPED = (
    "A pseudo-input's pixel that training moves out of [0, 1] gets no gradient and stays at the bound. The encoder is the "
    "model's: training the guide alone moves the prior too."
)


def _starts(data, count):
    """Pseudo-inputs to start from: ``count`` training rows drawn at random, with replacement where there are fewer."""
    import torch

    rows = torch.from_numpy(data.train)
    picked = torch.randperm(len(rows))[:count] if count <= len(rows) else torch.randint(len(rows), (count,))
    return rows[picked]


@pair(
    "vae_vamp",
    model="VAE",
    guide="Amortized",
    density="z1 ~ (1/K) sum_k q(z1 | u_k);  x | z1 ~ Bernoulli(sigmoid(f(z1)))",
    source=TOMCZAK_2018,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1),
    differs="tanh layers in place of gated ones, no warm-up, pseudo-inputs started at training rows",
    caution=CLAMPED,
)
def vae_vamp(data, *, z_dim=16, hidden=(128, 128), pseudo_inputs=100):
    """The VAE with a VampPrior: the encoder's average answer to learned pseudo-inputs."""
    from torch import nn

    from .guides import Amortized, Encoder
    from .zoo import VAE, VampPrior

    encoder = Encoder(data.dim, (z_dim,), (hidden[::-1],), data.mean, nn.Tanh)
    top = VampPrior(encoder, _starts(data, pseudo_inputs), "z1")
    model = VAE(data.dim, z_dim, hidden, data.mean, top)
    return model, Amortized(model, model.top.encode)


@pair(
    "hvae_vamp",
    model="MarkovHVAE",
    guide="Ladder",
    density="z2 ~ (1/K) sum_k q(z2 | u_k);  z1 | z2 ~ N(mu_1(z2), sigma_1(z2)^2);  x | z1 ~ Bernoulli(sigmoid(f(z1)))",
    source=TOMCZAK_2018,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1, warm_up=0.5),
    differs="x depends on z1 alone, q(z1 | z2, x) is a ladder's, tanh layers in place of gated ones",
    caution=CLAMPED,
)
def hvae_vamp(data, *, z_dims=(16, 8), hidden=(128, 64), pseudo_inputs=100):
    """Two stochastic layers with a VampPrior on the upper one."""
    from torch import nn

    from .guides import Encoder, Ladder
    from .zoo import MarkovHVAE, VampPrior

    encoder = Encoder(data.dim, z_dims, hidden, data.mean, nn.Tanh)
    top = VampPrior(encoder, _starts(data, pseudo_inputs), f"z{len(z_dims)}")
    model = MarkovHVAE(data.dim, z_dims, hidden, data.mean, nn.Tanh, top)
    return model, Ladder(model, model.top.encode)


@pair(
    "vae_flow_prior",
    model="VAE",
    guide="Amortized",
    density="eps ~ N(0, I), eps = g(z1) by a masked autoregressive flow g;  x | z1 ~ Bernoulli(sigmoid(f(z1)))",
    source=CHEN_2017,
    training=Training(epochs=150, batch_size=50, lr=2e-3, decay=0.1),
    differs="fully connected decoder with independent pixels, so that nothing but z1 can carry the image",
)
def vae_flow_prior(data, *, z_dim=16, hidden=(128, 128), steps=2, width=64):
    """The VAE with a masked autoregressive flow as its prior."""
    from torch import nn

    from .guides import Amortized, Encoder
    from .zoo import VAE, FlowPrior

    model = VAE(data.dim, z_dim, hidden, data.mean, FlowPrior(z_dim, steps, (width,)))
    return model, Amortized(model, Encoder(data.dim, (z_dim,), (hidden[::-1],), data.mean, nn.Tanh))
