# %% [markdown]
# # The coarse-to-fine family side by side
#
# **Question.** Many models paint an image from coarse to fine: a Markov hierarchy with a plain or a ladder guide, denser
# hierarchies, the variational ladder, sequential and multi-stage autoencoders. Side by side, at one budget: what does each
# level hold, what do warm-up and batch normalisation do for the upper ones, and are the upper ones needed at all?
#
# **Measured here** on the 8 x 8 digits, over seeds:
# 1. Rates per layer and held-out log p(x), with and without warm-up, batch normalisation, tanh and leaky ReLU.
# 2. The nats that each level holds of the label and of the width of the strokes.
# 3. The chain x -> z1 -> x of Zhao et al., in closed form on a linear-Gaussian tree: its stationary law and its mixing.
# 4. The same chain on digits, from the model's own samples and from noise, with the guide and with the exact posterior.
# 5. Ablations: the lower rungs removed, untied inference networks, real pixels, shared steps, absolute errors alone.
#
# **Sources.** Sonderby et al. (2016), https://arxiv.org/abs/1602.02282 (ladder, warm-up, batch normalisation); Zhao et al.
# (2017), https://arxiv.org/abs/1702.08396 (the chain, the variational ladder) and https://arxiv.org/abs/1702.08658 (the
# sequential VAE); Cai et al. (2017), https://arxiv.org/abs/1705.07202 (stages); Tomczak & Welling (2018),
# https://arxiv.org/abs/1705.07120 (dense); Bachman (2016), https://arxiv.org/abs/1612.04739 (lateral).
# Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import math
import os

import numpy as np
import torch
from pyro import poutine
from torch import nn

import pyrarchy
from pyrarchy.binarize import binarization
from pyrarchy.guides import Amortized, Encoder, Ladder
from pyrarchy.inference import (
    AuxiliaryWeight,
    Batches,
    Temper,
    decode,
    encode,
    evaluate,
    fit,
    label_information,
    log_prob,
    make_terms,
    number_information,
    reestimate_statistics,
    sample,
    trace_pair,
)
from pyrarchy.plots import image_grid, rate_bars, traversals
from pyrarchy.stroke_width import stroke_width
from pyrarchy.zoo import VAE, GaussianTree, MarkovHVAE, MultiStageVAE, Normalised
from pyrarchy.zoo.likelihoods import GaussianPixels, LaplacePixels, start_at
from pyrarchy.zoo.networks import BernoulliHead, mlp

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))

# %% [markdown]
# ## 1. One budget for all
#
# Every pair is trained for 40 epochs in batches of 50, by Adam with a rate that falls from 2e-3 to 2e-4, with and without a
# warm-up of the temperature over the first half. Pixels are drawn anew at every use for training, and once for testing.
# Batch normalisation is measured anew on the training data before a pair is graded. A sequential or multi-stage model has
# likelihoods of its earlier images in its objective, which log p(x) has not: there the guide alone is trained for another
# 10 epochs on the bound itself, or importance sampling would underestimate log p(x). A row of the registry brings its own
# activation, `ladder_vae` tanh, the other hierarchies leaky ReLU, so whoever compares rows compares that too: hence the
# recipes below.

# %%
digits = pyrarchy.load_data("digits")
binary = binarization("dynamic")
bits = torch.from_numpy(digits.train), torch.from_numpy(binary.prepare(digits).test)
greys = torch.from_numpy(digits.train), torch.from_numpy(digits.test)
if SMOKE:
    bits, greys = ((train[:500], test[:60]) for train, test in (bits, greys))
epochs, few, more = (1, (0, 1), (0, 1)) if SMOKE else (40, (0, 1), (0, 1, 2))
Z_DIMS, HIDDEN = (16, 8, 4), (128, 64, 32)


class RealHVAE(MarkovHVAE):
    """The Markov hierarchy under real pixels, which share one learned scale."""

    def __init__(self, x_dim, z_dims, hidden, x_mean, activation):
        super().__init__(x_dim, z_dims, hidden, x_mean, activation)
        pixels = GaussianPixels()
        last = start_at(mlp((hidden[0], x_dim), activation, last=False), pixels, x_mean)
        self.decoder = nn.Sequential(mlp((z_dims[0], hidden[0], hidden[0]), activation), last, pixels)


def hierarchy(activation, kind=MarkovHVAE, guide=Ladder, z_dims=Z_DIMS):
    """A Markov hierarchy and a guide on its encoder, all of one activation."""
    hidden = HIDDEN[: len(z_dims)]
    model = kind(digits.dim, z_dims, hidden, digits.mean, activation)
    return model, guide(model, Encoder(digits.dim, z_dims, hidden, digits.mean, activation))


def one_rung(widths):
    """Six units that enter the VLAE's decoder at one depth alone: ``widths`` are what is left of it below them."""
    model = VAE(digits.dim, 6, widths, digits.mean)
    model.decoder = nn.Sequential(mlp((6, *widths), nn.LeakyReLU), BernoulliHead(widths[-1], digits.dim, digits.mean))
    return model, Amortized(model, Encoder(digits.dim, (6,), (widths[::-1],), digits.mean))


def stages(*likelihoods):
    """The row multi_stage_vae_gaussian with other likelihoods of the coarse and the fine image."""
    model = MultiStageVAE(digits.dim, 16, ((128, 128), (128,)), digits.mean, likelihoods)
    return model, Amortized(model, Encoder(digits.dim, (16,), ((128, 128),), digits.mean))


def build(name, seed):
    """The pair of a row of the registry, or of a recipe of this page."""
    if name not in recipes:
        return pyrarchy.get_pair(name)(digits, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return recipes[name]()


recipes = {
    "ladder, leaky": lambda: hierarchy(nn.LeakyReLU),
    "ladder, tanh, BN": lambda: hierarchy(Normalised(nn.Tanh)),
    "ladder, leaky, BN": lambda: hierarchy(
        Normalised(nn.LeakyReLU)
    ),  # the row ladder_vae_bn, at this page's batch size
    "six at the top": lambda: one_rung((32, 32, 64, 64, 128, 128)),
    "six at the bottom": lambda: one_rung((128, 128)),
    "real: one layer": lambda: hierarchy(nn.Tanh, RealHVAE, Amortized, Z_DIMS[:1]),
    "real: plain": lambda: hierarchy(nn.Tanh, RealHVAE, Amortized),
    "real: ladder": lambda: hierarchy(nn.Tanh, RealHVAE),
    "stages: l2, l1": lambda: stages(GaussianPixels, LaplacePixels),
    "stages: l1, l1": lambda: stages(LaplacePixels, LaplacePixels),
    "stages: l1 only": lambda: stages(LaplacePixels, LaplacePixels),
}
stage_rows = ("sequential_vae", "sequential_vae_shared", "multi_stage_vae")
staged = (*stage_rows, *(name for name in recipes if name.startswith("stages")))


def train(name, warm_up, seed):
    """Train at the common budget; a held-out evaluation and the pair."""
    real = name.startswith(("real", "stages"))
    data, held_out = greys if real else bits
    model, guide = build(name, seed)
    batches = Batches(data, 50, seed=seed, transform=None if real else binary.draw)
    total = epochs * len(batches)
    temper = Temper(steps=total // 2) if warm_up else None
    with AuxiliaryWeight(0.0 if name == "stages: l1 only" else 1.0):
        fit(
            model,
            guide,
            batches,
            optimizer=2e-3,
            steps=total,
            schedule=lambda step: 0.1 ** (step / total),
            temper=temper,
            seed=seed,
        )
    if name in staged:  # their guide followed the earlier images too: for the grade it follows the bound alone
        groups = [{"params": list(guide.parameters())}, {"params": list(model.parameters()), "lr": 0.0}]
        with AuxiliaryWeight(0.0):
            fit(
                model,
                guide,
                batches,
                optimizer=lambda _: torch.optim.Adam(groups, lr=1e-3),
                steps=total // 4,
                seed=seed,
            )
    reestimate_statistics(model, guide, batches)
    return evaluate(model, guide, held_out, num_samples=50 if SMOKE else 200), (model, guide)


ladders = ("hvae", "ladder_vae", "ladder, leaky", "ladder, tanh, BN", "ladder, leaky, BN")
others = ("ladder_vae_untied", "dense_hvae", "lateral_hvae")
plan = {(name, warm): more for name in ladders for warm in (True, False)}
plan |= {(name, warm): few for name in others for warm in (True, False)}
plan |= {("vae", True): few, ("vlae", True): more, ("vlae", False): more}
plan |= {(name, True): few for name in ("six at the top", "six at the bottom")}
plan |= {(name, True): few for name in stage_rows}
plan |= {(name, True): few for name in recipes if name.startswith(("real", "stages"))}
found, pairs = {}, {}
for (name, warm_up), seeds in plan.items():
    for seed in seeds:
        found[name, warm_up, seed], pairs[name, warm_up, seed] = train(name, warm_up, seed)


def layers(name):
    return [f"z{i}" for i in range(1, 1 + len(found[name, True, 0].rates))]


def rates(name, warm_up):
    """Nats per datum in each layer, bottom first: (seeds, layers)."""
    seeds = plan[name, warm_up]
    return np.array([[found[name, warm_up, s].rates[site] for site in layers(name)] for s in seeds])


print("pair                   warm-up   log p(x) over seeds        rates z1 / z2 / ... (mean over seeds)  k-hat > .7")
for (name, warm_up), seeds in plan.items():
    values = np.array([found[name, warm_up, s].mean_log_p for s in seeds])
    shares = np.mean([(found[name, warm_up, s].k_hat > 0.7).mean() for s in seeds])
    spread = values.std(ddof=1) / len(values) ** 0.5
    words = " / ".join(f"{r:.2f}" for r in rates(name, warm_up).mean(0))
    print(f"{name:24s}{'yes' if warm_up else 'no':>5s}{values.mean():12.3f} +- {spread:.3f}{words:>38s}{shares:12.0%}")

# %%
shown = ("vae", "hvae", "ladder_vae", "ladder, leaky, BN", "ladder_vae_untied", "dense_hvae", "lateral_hvae", "vlae")
rate_bars({name: dict(zip(layers(name), rates(name, True).mean(0), strict=True)) for name in shown})

# %% [markdown]
# Without warm-up every pair with leaky rectifiers ends where it began, at the log p(x) of independent pixels, and not only
# its upper layers are empty but z1 too: at this budget they have not come off that plateau. A likely reason (a longer run
# was not made) is the start: with Glorot's weights a leaky network passes on half of what a tanh network does, so its
# decoder listens less to z1 while the KL is at full price. Batch normalisation raises that scale for both:

# %%
held_out = bits[1].double().numpy()
chances = digits.mean.astype(float).clip(1e-3, 1 - 1e-3)
plateau = (held_out * np.log(chances) + (1 - held_out) * np.log1p(-chances)).sum(1).mean()
print(f"log p(x) of independent pixels: {plateau:.3f}")
started = {}
for name in ladders[1:]:
    decoder = build(name, 0)[0].decoder
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        started[name] = decoder(torch.randn(2000, Z_DIMS[0])).base_dist.logits.std(0).mean().item()
    print(f"{name:18s} standard deviation of a pixel's logit over z1 ~ N(0, I), before training: {started[name]:.2f}")

# %% [markdown]
# With warm-up all come off the plateau, and tanh, not the ladder by itself, is what keeps z3: the leaky ladder, its untied
# form, the dense and the lateral hierarchy empty it, as does the plain guide with tanh. Log p(x) does not follow the rates:
# the leaky ladder is not behind. Batch normalisation does little for the tanh ladder that the warm-up has not done, but
# without a warm-up it alone keeps the upper layers in use.


# %%
def difference(first, second):
    """First minus second in held-out log p(x): per-seed means, their errors over data, their mean and its error."""
    seeds = plan[first][: len(plan[second])]
    paired = [found[*first, s].log_p - found[*second, s].log_p for s in seeds]
    means = np.array([p.mean() for p in paired])
    errors = np.array([p.std(ddof=1) / len(p) ** 0.5 for p in paired])
    # of data and of seeds: the larger, for a few seeds can agree by accident
    error = max(means.std(ddof=1), np.hypot.reduce(errors) / len(errors) ** 0.5) / len(means) ** 0.5
    return means, errors, means.mean(), error


def said(first, second):
    """The difference in words."""
    means, errors, mean, error = difference(first, second)
    return f"{mean:+.3f} +- {error:.3f} nats; by seed " + ", ".join(
        f"{m:+.3f} +- {e:.3f}" for m, e in zip(means, errors, strict=True)
    )


print("with warm-up minus without: held-out log p(x), and the rate of the layers above z1")
warmed = [name for name in (*ladders, *others, "vlae")]
for name in warmed:
    without, with_it = (rates(name, w)[:, 1:].sum(1) for w in (False, True))
    print(f"{name:18s}{said((name, True), (name, False))}")
    print(f"{'':18s}{without.round(3).tolist()} without, {with_it.round(3).tolist()} with")

# %% [markdown]
# ## 2. What each level holds
#
# One draw from the guide per image, all layers; a Gaussian classifier on each layer alone, graded on the fifth of the
# images that it did not see. Its error is a lower bound on the mutual information (a negative one says nothing), and the
# poorer the wider the layer is: compare rungs of equal width, as the VLAE's are. Digits of both parts of the data are
# used, since neither the label nor the width was ever shown to a model.
#
# The VLAE whose picture follows uses three of its six units, two at the bottom and one at the top, and in every seed the
# bottom holds more of the label as well as of the width, of which there is little anywhere: style and identity do not
# part by rung. The sequential VAE's first step (z4) is the one that knows the label. In the Markov ladder z1 holds most of
# it, though it is the widest, whose bound is the poorest.

# %%
images = np.concatenate([digits.train, digits.test])
labels = np.concatenate([digits.train_labels, digits.test_labels])
widths = stroke_width(images, digits.image_shape)
with torch.random.fork_rng():
    torch.manual_seed(0)
    inked = binary.draw(torch.from_numpy(images))


def holds(name, seed):
    """Nats of the label and of the stroke's width in one draw of each layer."""
    codes = encode(*pairs[name, True, seed], inked, draws=1, seed=0)
    return {
        site: (label_information(codes[site][0], labels), number_information(codes[site][0], widths))
        for site in layers(name)
    }


levels = ("vlae", "ladder_vae", "dense_hvae", "lateral_hvae", "sequential_vae")
information = {(name, s): holds(name, s) for name in levels for s in plan[name, True]}
entropy = information["vlae", 0]["z1"][0].entropy
print(f"nats of the label (of {entropy:.2f}) and of the stroke's width (of {math.log(10):.2f}), error over images")
for (name, seed), table in information.items():
    for site, (label, stroke) in table.items():
        print(
            f"{name:16s} seed {seed}  {site}{label.nats:8.3f} +- {label.error:.3f}{stroke.nats:10.3f} +- {stroke.error:.3f}"
        )

# %%
steps = 9
moved, titles = [], []
for site in ("z3", "z2", "z1"):
    for unit in range(2):
        codes = {s: torch.zeros(steps, 2) for s in ("z1", "z2", "z3")}
        codes[site][:, unit] = torch.linspace(-2.5, 2.5, steps)
        moved.append(decode(pairs["vlae", True, 0][0], (inked[:1],), codes)["x"])
        titles.append(f"{site}[{unit}]")
traversals(np.stack(moved), (8, 8), titles)

# %% [markdown]
# ## 3. The chain x -> z1 -> x, where its law is known
#
# Zhao et al. (2017) observe of a hierarchy in which x depends on z1 alone: if q(z1 | x) is the posterior, then going to and
# fro between q(z1 | x) and p(x | z1) has p(x) as its stationary law, whatever is above z1; so the upper layers add nothing
# that the bottom one cannot represent. On the tree of tutorial 3 all of it is linear and Gaussian. With
# $\Sigma = a^2 1 1^T + t^2 I$ the covariance of z1 under its hierarchical prior,
#
# $x' = G x + \epsilon, \quad G = \Sigma (\Sigma + s^2 I)^{-1}, \quad \mathrm{cov}\, \epsilon = C = (\Sigma^{-1} +
# I / s^2)^{-1} + s^2 I$
#
# and the stationary covariance solves $S = G S G^T + C$. Beside the exact kernel stand two that are nearly right: the best
# diagonal q(z1 | x), and the exact posterior under a prior of z1 with the right variances that knows of no z2.

# %%
a, t2, s2, d = 1.0, 0.1, 1.0, 2
eye, ones = np.eye(d), np.ones((d, d))
inner = a * a * ones + t2 * eye  # of z1
law = inner + s2 * eye  # of x


def chain(prior, diagonal=False):
    """Of the chain whose z1 is drawn given x as under N(0, prior): x' = G x + noise of covariance C."""
    precision = np.linalg.inv(prior) + eye / s2
    gain = np.linalg.inv(precision) / s2
    scatter = np.diag(1 / precision.diagonal()) if diagonal else np.linalg.inv(precision)
    return gain, scatter + s2 * eye


def stationary(gain, noise):
    """The covariance S that solves S = G S G' + C."""
    size = len(gain)
    return np.linalg.solve(np.eye(size**2) - np.kron(gain, gain), noise.reshape(-1)).reshape(size, size)


def divergence(covariance):
    """KL(N(0, covariance) || p(x)) in nats."""
    ratio = np.linalg.solve(law, covariance)
    return 0.5 * (np.trace(ratio) - d - np.linalg.slogdet(ratio)[1])


kernels = {
    "p(z1|x) of the tree": chain(inner),
    "the best diagonal q(z1|x)": chain(inner, diagonal=True),
    "p(z1|x) under z1 ~ N(0, 1.1 I)": chain((a * a + t2) * eye),
}
exact = {}
print("z1 given x as in                  KL of its stationary law from p(x)   largest eigenvalue   steps to 1/e")
for name, (gain, noise) in kernels.items():
    top = np.linalg.eigvalsh(gain).max()
    exact[name] = divergence(stationary(gain, noise)), top, -1 / math.log(top)
    print(f"{name:34s}{abs(exact[name][0]):20.6f}{exact[name][1]:31.4f}{exact[name][2]:15.2f}")

# %%
tree = GaussianTree(d, a, t2**0.5, s2**0.5)
many = 2000 if SMOKE else 20000
torch.manual_seed(0)
x = torch.zeros(many, d)
gain, noise = kernels["p(z1|x) of the tree"]
expected = np.zeros((d, d))
worst = 0.0
print("steps   KL of the law from p(x)   covariance over chains minus the closed form, in standard errors")
for step in range(1, 21):
    before, posterior = x, tree.posterior(x)
    z1 = posterior["z1"]({"z2": posterior["z2"].sample()}).sample()  # by way of the upper layer
    x = z1 + s2**0.5 * torch.randn(many, d)
    expected = gain @ expected @ gain.T + noise
    error = np.sqrt((expected**2 + np.outer(expected.diagonal(), expected.diagonal())) / many)
    off = np.abs((x.T @ x).double().numpy() / many - expected) / error
    worst = max(worst, off.max())
    if step in (1, 2, 3, 5, 10, 20):
        print(f"{step:5d}{divergence(expected):22.2e}{off.max():30.2f}")
top_of_tree = exact["p(z1|x) of the tree"][1]
left_after = divergence(expected)
lag = np.corrcoef(before.sum(1).numpy(), x.sum(1).numpy())[0, 1]
print(f"correlation of the leaves' sum with that of the step before: {lag:.4f}, in closed form {top_of_tree:.4f}")

# %% [markdown]
# So what Zhao et al. say is true, of the chain. The kernel must be p(z1 | x), though, and that contains the upper layers,
# through the prior of z1. With a prior that lacks them the chain is exact for *another* p(x) (here the independent leaves
# with variance 2.1), and a q(z1 | x) that lacks the correlations they cause has a stationary law that is off, too. They are
# redundant in a second sense: in a linear-Gaussian hierarchy a single layer has the same p(x), because the map from z1 to x
# can absorb the covariance of z1.

# %%
one_layer = torch.from_numpy(np.linalg.cholesky(inner)).float()  # x = L z1 + noise, z1 ~ N(0, I): no upper layer
flat = torch.distributions.MultivariateNormal(torch.zeros(d), one_layer @ one_layer.T + s2 * torch.eye(d))
absorbed = (flat.log_prob(x) - tree.log_marginal(x)).abs().max().item()
print(f"log p(x) of the tree and of one layer z1 ~ N(0, I) with x = L z1 + noise differ by {absorbed:.1e} at the most")

# %% [markdown]
# ## 4. The chain on digits
#
# The chain is run on the pair trained with warm-up. "q(z1|x)" draws z1 from the guide, "p(z1|x)" makes it exact: sixteen
# draws of the guide stand beside the present z, and one is kept by its importance weight, which leaves p(z | x) as it is
# (Andrieu, Doucet & Holenstein 2010, https://doi.org/10.1111/j.1467-9868.2009.00736.x) even where the guide is wrong. The
# guide `hvae` reads x alone; a `ladder_vae` must walk down from z3 to draw z1. The images of 600 chains are compared with
# as many samples of the model: by log p(x) under the model, by the energy distance (zero in expectation for samples of one
# law) and by the means of the pixels. (Log p(x) of the model's own samples is averaged over five times as many.)
# "z1 ~ one Gaussian" replaces the layers above z1 by a Gaussian with the mean and covariance that z1 has under them.

# %%
wide, sweeps, proposals = (100, 5, 4) if SMOKE else (600, 100, 16)


def by_guide(model, guide, x, z):
    """z drawn from the guide as it is."""
    return make_terms(*trace_pair(model, guide, (x,))).values


def by_posterior(model, guide, x, z):
    """A draw that leaves p(z | x) as it is: the present z beside K of the guide's, one kept by its weight."""
    fresh = make_terms(*trace_pair(model, guide, (x,), num_particles=proposals), num_particles=proposals)
    held = poutine.trace(poutine.condition(model, data=z)).get_trace(x)
    held.compute_log_prob()
    here = sum(held.nodes[site]["log_prob"] for site in (*z, "x")) - sum(log_prob(guide, z, x).values())
    choice = torch.distributions.Categorical(logits=torch.cat([fresh.log_w, here[None]]).T).sample()
    rows = torch.arange(len(x))
    return {site: torch.cat([fresh.values[site], value[None]])[choice, rows] for site, value in z.items()}


def run_chain(pair, kernel, start, seed=0):
    """Images (N, 64) after 0, 1, ... steps of z ~ kernel(x), x ~ p(x | z1), and the means they were drawn from."""
    model, guide = pair
    out, means = [start], [start]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        z = by_guide(model, guide, start, None)
        for _ in range(sweeps):
            z = kernel(model, guide, out[-1], z)
            pixels = model.decoder(z["z1"])
            out.append(pixels.sample())
            means.append(pixels.mean)
    return out, means


def energy(first, second, blocks=10):
    """Energy distance of two samples with its error: the mean over blocks of the unbiased estimate."""
    values = []
    for u, v in zip(first.chunk(blocks), second.chunk(blocks), strict=True):
        cross = torch.cdist(u, v).mean()
        within = sum(torch.cdist(w, w).sum() / (len(w) * (len(w) - 1)) for w in (u, v))
        values.append((2 * cross - within).item())
    return np.mean(values), np.std(values, ddof=1) / blocks**0.5


def nearest_label(x):
    """Label of the nearest grey training image."""
    return digits.train_labels[torch.cdist(x, torch.from_numpy(digits.train)).argmin(1).numpy()]


def drawn(pair, seed, times=1):
    return torch.from_numpy(sample(pair[0], (inked[:1],), times * wide, seed=seed)["x"])


report, kept = {}, {}
for name in ("hvae", "ladder_vae"):
    pair = pairs[name, True, 0]
    reference, start = drawn(pair, 1, 5), drawn(pair, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noise_images = torch.bernoulli(torch.full((wide, digits.dim), 0.5))
        z1 = torch.from_numpy(sample(pair[0], (inked[:1],), 20 * wide, seed=3)["z1"])
        gaussian = torch.distributions.MultivariateNormal(z1.mean(0), z1.T.cov())
        with torch.no_grad():
            no_upper = pair[0].decoder(gaussian.sample((5 * wide,))).sample()
    runs = {
        (kind, origin): run_chain(pair, kernel, images_0, seed=i)
        for i, (kind, origin, kernel, images_0) in enumerate(
            [
                ("q(z1|x)", "model", by_guide, start),
                ("p(z1|x)", "model", by_posterior, start),
                ("q(z1|x)", "noise", by_guide, noise_images),
                ("p(z1|x)", "noise", by_posterior, noise_images),
            ]
        )
    }
    kept[name] = runs
    shown_at = [t for t in (1, 3, 10, 30, 100) if t <= sweeps]
    rows = {"the model again": start, "z1 ~ one Gaussian": no_upper, "training images": binary.draw(greys[0][:wide])}
    rows |= {f"{k} from {o}, step {t}": r[t] for (k, o), (r, _) in runs.items() for t in shown_at}
    base = evaluate(*pair, reference, num_samples=50 if SMOKE else 100).log_p
    for label, x in rows.items():
        log_p = evaluate(*pair, x, num_samples=50 if SMOKE else 100).log_p
        gain = log_p.mean() - base.mean()
        report[name, label] = (
            gain,
            math.hypot(log_p.std(ddof=1) / len(log_p) ** 0.5, base.std(ddof=1) / len(base) ** 0.5),
            *energy(x[:wide], reference[:wide]),
            (x.mean(0) - reference.mean(0)).square().mean().sqrt().item(),
        )
    print(f"{name}                         log p - that of the model's own     energy distance      pixel means, rms")
    for (which, label), (gain, error, far, spread, pixels) in report.items():
        if which == name:
            print(f"{label:28s}{gain:12.3f} +- {error:.3f}{far:24.4f} +- {spread:.4f}{pixels:16.4f}")

# %%
persistence = {}
print("share of chains whose nearest training image has the label it had at the start, less what chance gives")
for name, runs in kept.items():
    for kind in ("q(z1|x)", "p(z1|x)"):
        run, _ = runs[kind, "model"]
        first = nearest_label(run[0])
        excess = []
        for x in run:
            now = nearest_label(x)
            chance = sum((first == c).mean() * (now == c).mean() for c in range(10))
            excess.append(((now == first).mean() - chance) / (1 - chance))
        below = [t for t, e in enumerate(excess) if e < math.exp(-1)]
        persistence[name, kind] = below[0] if below else math.inf
        words = "  ".join(f"{t}: {excess[t]:.2f}" for t in (1, 2, 5, 10, 20, 50, 100) if t <= sweeps)
        print(f"{name:12s}{kind}   {words}   below 1/e after {persistence[name, kind]} steps")

# %% [markdown]
# With the exact posterior the chain stays with p(x), and comes to it from noise in ten to thirty steps; one forgets two
# labels in three. With the guide as it is, the plain hierarchy's images drift half a nat above those of the model: its guide
# is not its posterior, and the chain's law is another. The ladder's stays within the errors. What the upper layers give to
# the prior of z1 is little here: one Gaussian in their place costs the ladder's samples about .3 nats, and the plain
# hierarchy's, whose upper layers are all but empty, nothing. Below, five chains from noise, by the mean image of each step.

# %%
_, means = kept["ladder_vae"]["p(z1|x)", "noise"]
image_grid({f"chain {i + 1}": np.stack([image[i].numpy() for image in means[:10]]) for i in range(5)}, (8, 8))

# %% [markdown]
# ## 5. Ablations
#
# Each is one change, all else equal. Rungs: six units that enter the VLAE's decoder at one depth, in place of two at each of
# three. Top-down networks: the guide's own against the model's. Real pixels: grey digits under a Normal with one learned
# scale. Steps: one network for all against one each. Stages: the coarse image under an absolute error in place of a squared
# one, or not at all. Importance sampling is not to be trusted where k-hat is above .7: of the stages' images that is nine in
# ten, of the real hierarchies' four in ten or more, of the shared steps' as many, so there the differences are of bounds.

# %%
comparisons = {
    "VLAE minus six units at the top": (("vlae", True), ("six at the top", True)),
    "VLAE minus six units at the bottom": (("vlae", True), ("six at the bottom", True)),
    "untied minus tied (both leaky)": (("ladder_vae_untied", True), ("ladder, leaky", True)),
    "lateral minus dense": (("lateral_hvae", True), ("dense_hvae", True)),
    "real pixels: ladder minus plain": (("real: ladder", True), ("real: plain", True)),
    "real pixels: ladder minus one layer": (("real: ladder", True), ("real: one layer", True)),
    "shared minus unshared steps": (("sequential_vae_shared", True), ("sequential_vae", True)),
    "stages: coarse l1 minus coarse l2": (("stages: l1, l1", True), ("stages: l2, l1", True)),
    "stages: l1 alone minus coarse l2": (("stages: l1 only", True), ("stages: l2, l1", True)),
}
for label, (first, second) in comparisons.items():
    print(f"{label:38s}{said(first, second)}")
sizes = {}
for name in ("sequential_vae", "sequential_vae_shared", "ladder, leaky", "ladder_vae_untied"):
    sizes[name] = sum(p.numel() for root in pairs[name, True, 0] for p in root.parameters())
    print(f"{name:24s}{sizes[name]:10,d} parameters")

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


def verdict_of(flags, claim):
    """One verdict on several: for all, for none, or only for those named."""
    kept_by = [name for name, flag in flags.items() if flag]
    only = f"holds only for {'; '.join(kept_by)}"
    print(f"* {'holds' if len(kept_by) == len(flags) else only if kept_by else 'does not hold'}: {claim}")


def surely(first, second):
    """Whether the first has the better log p(x) by two errors, for every seed and on average."""
    means, errors, mean, error = difference(first, second)
    return bool((means > 2 * errors).all() and mean > 2 * error)


def brief(first, second):
    *_, mean, error = difference(first, second)
    return f"{mean:+.3f} +- {error:.3f}"


def upper(name, warm_up):
    return rates(name, warm_up)[:, 1:].sum(1)


for nats, rung, claim in (
    (1, "z1", "the VLAE's bottom rung holds the stroke's width"),
    (0, "z3", "its top rung holds the label"),
):
    table = {s: {site: information["vlae", s][site][nats] for site in layers("vlae")} for s in plan["vlae", True]}
    most = all(
        table[s][rung].nats - table[s][site].nats > 2 * math.hypot(table[s][rung].error, table[s][site].error)
        for s in table
        for site in table[s]
        if site != rung
    )
    words = "; ".join(" / ".join(f"{v.nats:.2f}" for v in row.values()) for row in table.values())
    error = max(v.error for row in table.values() for v in row.values())
    verdict(most, f"{claim} more than any other (nats in z1 / z2 / z3, by seed {words}; errors below {error:.3f})")

for warm_up in (True, False):
    words = ", ".join(f"{name} {'/'.join(f'{v:.2f}' for v in upper(name, warm_up))}" for name in warmed)
    verdict_of(
        {name: upper(name, warm_up).min() > 0.5 for name in warmed},
        f"{'with' if warm_up else 'without'} warm-up the layers above z1 hold half a nat in every seed ({words})",
    )
words = ", ".join(f"{name} {brief((name, True), (name, False))}" for name in warmed)
verdict_of(
    {name: surely((name, True), (name, False)) for name in warmed}, f"warm-up raises held-out log p(x) ({words})"
)

for warm_up in (True, False):
    when = "with" if warm_up else "without"
    for plain, normal in (("ladder_vae", "ladder, tanh, BN"), ("ladder, leaky", "ladder, leaky, BN")):
        kind = "tanh" if plain == "ladder_vae" else "leaky"
        off, on = upper(plain, warm_up), upper(normal, warm_up)
        words = "{} against {}".format(*("/".join(f"{v:.2f}" for v in r) for r in (on, off)))
        claim = f"{when} warm-up batch normalisation fills the {kind} ladder above z1"
        verdict(on.min() > off.max(), f"{claim} (nats {words})")
        verdict(
            surely((normal, warm_up), (plain, warm_up)),
            f"{when} warm-up it raises the {kind} ladder's log p(x) ({brief((normal, warm_up), (plain, warm_up))} nats)",
        )
top_tanh, top_leaky = (rates(name, True)[:, 2] for name in ("ladder_vae", "ladder, leaky"))
words = "{} against {}".format(*("/".join(f"{v:.2f}" for v in r) for r in (top_tanh, top_leaky)))
verdict(top_tanh.min() > top_leaky.max(), f"tanh keeps z3 in use where leaky ReLU loses it (nats {words})")
verdict(
    surely(("ladder_vae", True), ("ladder, leaky", True)),
    f"and has the better log p(x) ({brief(('ladder_vae', True), ('ladder, leaky', True))} nats)",
)

verdict(
    left_after < 1e-6 and worst < 5,
    f"on the tree the chain with p(z1|x) has p(x) as its stationary law (KL {left_after:.0e} nats after 20 steps; "
    f"its covariances off by {worst:.1f} standard errors at the most)",
)
verdict(
    abs(lag - top_of_tree) < 4 * (1 - top_of_tree**2) / many**0.5,
    f"its correlation from step to step is v / (v + s2), v = d a2 + t2 ({lag:.4f} against {top_of_tree:.4f})",
)
for name, claim in (
    ("the best diagonal q(z1|x)", "the best diagonal q(z1|x) will do there"),
    ("p(z1|x) under z1 ~ N(0, 1.1 I)", "so will a posterior that knows of no z2"),
):
    verdict(exact[name][0] < 1e-3, f"{claim} (stationary law off by {exact[name][0]:.4f} nats)")
verdict(
    absorbed > 1e-4,
    f"layers above a linear-Gaussian z1 add to what p(x) can be (log p differ by {absorbed:.0e} at the most)",
)

last = shown_at[-1]


def same_law(rows):
    """Whether log p(x) and energy distance are within three errors of those of the model's own samples."""
    return {name: abs(g) < 3 * e and abs(far) < 3 * spread for name, (g, e, far, spread, _) in rows.items()}


def figures(rows):
    return ", ".join(
        f"{name} log p {g:+.2f} +- {e:.2f} and energy {far:.3f} +- {spread:.3f}"
        for name, (g, e, far, spread, _) in rows.items()
    )


for label, claim in (
    (f"p(z1|x) from model, step {last}", "on digits the chain with p(z1|x) stays with p(x)"),
    (f"q(z1|x) from model, step {last}", "so does the chain with the guide as it is"),
    (f"p(z1|x) from noise, step {last}", "the chain with p(z1|x) comes to p(x) from noise"),
    (f"q(z1|x) from noise, step {last}", "the guide's comes to p(x) from noise"),
    ("z1 ~ one Gaussian", "one Gaussian serves z1 as well as the layers above it"),
):
    rows = {name: report[name, label] for name in kept}
    verdict_of(same_law(rows), f"{claim} ({figures(rows)})")
words = ", ".join(f"{name} {persistence[name, 'p(z1|x)']}" for name in kept)
verdict_of(
    {name: persistence[name, "p(z1|x)"] <= 10 for name in kept},
    f"it has forgotten the label in ten steps, but for a share 1/e (steps, {words})",
)

claims = {
    "VLAE minus six units at the top": "three rungs of two have the better log p(x) than six units at the top",
    "VLAE minus six units at the bottom": "and than six units at the bottom",
    "untied minus tied (both leaky)": "a guide with top-down networks of its own has the better log p(x)",
    "lateral minus dense": "lateral connections beat the dense guide in log p(x)",
    "real pixels: ladder minus plain": "for real pixels the ladder has the better log p(x) than the plain guide",
    "real pixels: ladder minus one layer": "and than one layer",
    "shared minus unshared steps": "one network for all steps has the better log p(x)",
    "stages: coarse l1 minus coarse l2": "an absolute error of the coarse image has the better log p(x) than a squared",
    "stages: l1 alone minus coarse l2": "the absolute error of the fine image alone has the better log p(x) than both",
}
for label, claim in claims.items():
    verdict(surely(*comparisons[label]), f"{claim} ({brief(*comparisons[label])} nats)")
real = {name: upper(f"real: {name}", True) for name in ("plain", "ladder")}
words = ", ".join(f"{name} {'/'.join(f'{v:.2f}' for v in r)}" for name, r in real.items())
verdict_of(
    {n: r.min() > 0.5 for n, r in real.items()}, f"for real pixels the layers above z1 hold half a nat ({words})"
)
