# %% [markdown]
# # Inference against generation
#
# **Question.** A VAE's reconstructions look like data and its samples do not, or both are blurred. Is the prior missed, the
# guide too simple, the likelihood to blame, or the KL? ELBO surgery says which term holds what.
#
# **Measured here:**
# 1. One bit in n dimensions, where the best loss is known: when z is used, and what the loss above ln 2 pays for.
# 2. ELBO surgery along training on 8 x 8 digits: average KL = information + marginal KL.
# 3. Samples against reconstructions: energy distance to held-out data.
# 4. Blurriness: three explanations (likelihood, guide, KL), three likelihoods, three guides, and no KL at all.
#
# **Sources.** Hoffman & Johnson (2016), ELBO surgery; Rosca, Lakshminarayanan & Mohamed (2018),
# https://arxiv.org/abs/1802.06847; Rui Shu, one-bit VAE, https://github.com/RuiShu/one-bit-vae. Set `PYRARCHY_SMOKE=1` for a
# run of a few seconds with the same text.

# %%
import math
import os

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import pyrarchy
from pyrarchy.guides import IAF, Amortized, Encoder
from pyrarchy.inference import (
    ELBO,
    Batches,
    ImportanceWeighted,
    Temper,
    fit,
    sample,
    sample_from_average,
    side_by_side,
    surgery,
)
from pyrarchy.inference.from_codes import seen_again
from pyrarchy.zoo.likelihoods import Bits, GaussianPixels, LaplacePixels
from pyrarchy.zoo.networks import mlp
from pyrarchy.zoo.one_bit import OneBit, one_bit_optimum

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))

# %% [markdown]
# ## 1. One bit, exactly
#
# x is n zeros or n ones. Its entropy is ln 2 = .6931; one Gaussian latent with a Gaussian guide cannot reach that, and the
# best that it can do is a two-dimensional integral (`one_bit_optimum`). Surgery, with the two data as N, says what
# is paid above ln 2: codes of two data know ln 2 nats at most, and whatever else the average KL costs is the marginal's.


# %%
def one_bit(n, rate=5e-3):
    """Train on the two data by a falling rate; the pair, its loss and the surgery."""
    steps = 150 if SMOKE else 1500
    x = torch.stack([torch.zeros(n), torch.ones(n)])
    torch.manual_seed(1)
    model = OneBit(n)
    guide = Amortized(model, Encoder(n, (1,), ((10,) * 3,), activation=nn.ELU))
    fit(model, guide, x, objective=ELBO(50), optimizer=rate, steps=steps, schedule=lambda step: 0.02 ** (step / steps))
    with torch.no_grad():
        draws = torch.stack([-ELBO(2000).value(model, guide, x).mean() for _ in range(10)]).double()
    return draws.mean().item(), draws.std().item() / 10**0.5, surgery(model, guide, x, num_samples=5000)


bits = {}
print(" n   exact loss   trained            average KL   information   marginal KL")
for n in (1, 2, 5, 10):
    loss, error, cut = bits[n] = one_bit(n)
    print(f"{n:2d}{one_bit_optimum(n)[0]:12.5f}{loss:11.4f} +- {error:.4f}", end="")
    print(f"{cut.average_kl:11.4f}{cut.information:14.4f}{cut.marginal_kl:14.4f} +- {cut.errors[2]:.4f}")
slow = one_bit(10, rate=1e-6)
print(f"10, rate 1e-6: {slow[0]:.3f} (no training would be 10 ln 2 = {10 * math.log(2):.3f})")

# %% [markdown]
# ## 2. Surgery along training
#
# Digits, 10 latents, bits drawn from the grey values. Where the information is near ln N each code already tells its datum
# apart from all others; what is spent beyond that goes to the marginal KL, that is, to codes off the prior.

# %%
digits = pyrarchy.load_data("digits")
grey = {"train": torch.from_numpy(digits.train), "test": torch.from_numpy(digits.test)}
if SMOKE:
    grey = {"train": grey["train"][:300], "test": grey["test"][:60]}
epochs, long = (3, 3) if SMOKE else (80, 200)


class PixelVAE(PyroModule):
    """N(0, I) latents, a network, and a likelihood of the pixels: bits, Normal or Laplace with one learned scale."""

    def __init__(self, likelihood, z_dim):
        super().__init__("model")
        self.z_dim, self.likelihood = z_dim, likelihood
        self.decoder = nn.Sequential(mlp((z_dim, 64, 64)), nn.Linear(64, digits.dim))
        with torch.no_grad():
            self.decoder[1].bias.copy_(likelihood.location(torch.from_numpy(digits.mean)))

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(self.decoder(z1)), obs=x)


def to_bits(x):
    return torch.bernoulli(x)


def train(likelihood, guide_class=Amortized, objective=None, z_dim=10, callbacks=(), temper=None, epochs=epochs):
    """A pair trained on digits; bits are drawn anew in each batch."""
    torch.manual_seed(0)
    model = PixelVAE(likelihood(), z_dim)
    guide = guide_class(model, Encoder(digits.dim, (z_dim,), ((64, 64),), digits.mean))
    batches = Batches(grey["train"], 100, transform=to_bits if likelihood is Bits else None)
    steps = epochs * len(batches)
    fit(
        model, guide, batches, objective=objective or ELBO(), optimizer=4e-3, steps=steps, callbacks=callbacks,
        schedule=lambda step: 0.1 ** (step / steps), temper=temper,
    )  # fmt: skip
    return model, guide


torch.manual_seed(0)
binary = {name: torch.bernoulli(x) for name, x in grey.items()}
marks = (1, 3) if SMOKE else (1, 5, 25, 200)
cuts = {}


def cut_at_marks(step):
    epoch = step.step / math.ceil(len(grey["train"]) / 100)
    if epoch in marks:
        cuts[int(epoch)] = surgery(step.model, step.guide, binary["train"], num_samples=2)


wide = train(Bits, callbacks=[cut_at_marks], epochs=long)
narrow = train(Bits, z_dim=2, epochs=long)
cut_2 = surgery(*narrow, binary["train"], num_samples=2)
print(f"epoch   average KL   information   marginal KL   (ln N = {cut_2.cap:.2f})")
for epoch, cut in cuts.items():
    cells = zip((cut.average_kl, cut.information, cut.marginal_kl), cut.errors, strict=True)
    print(f"{epoch:5d}" + "".join(f"{value:9.2f} +- {error:.2f}" for value, error in cells))
print(f"z = 2, epoch {long}: {cut_2.average_kl:.2f} = {cut_2.information:.2f} + {cut_2.marginal_kl:.2f}")
last = cuts[max(cuts)]

# %% [markdown]
# ## 3. Samples against reconstructions
#
# Energy distance of draws to held-out data, in the units of x; zero (within its error) is the same distribution. The row
# between tells them apart: samples from the average posterior q(z) use the codes that the decoder was trained on.

# %%
pictures = {}
for label, pair in (("z = 2", narrow), ("z = 10", wide)):
    pictures[label] = side_by_side(*pair, binary["test"])
    print(f"{label}\n{pictures[label].table()}")

# %% [markdown]
# ## 4. Why are they blurred?
#
# Three explanations: the likelihood (independent pixels; a squared error), the guide (a diagonal Gaussian), the KL (codes
# are made to forget). Sharpness here is the mean squared difference of neighbouring pixels relative to that of held-out
# grey images: 1 is as sharp, less is blurred. *Means* are E[x | z], what papers show; *draws* add the likelihood's pixel
# noise (relative to binary images for bits), which is no sharpness. The last row of each is an autoencoder: KL weight 0.
# Reconstructions are from one draw of z: the average over many, which `reconstruct` gives, is smoother by itself.


# %%
def steepness(images):
    """Mean squared difference of neighbouring pixels of each image: (N,)."""
    images = np.asarray(images, np.float64).reshape(-1, *digits.image_shape)
    return np.concatenate([np.diff(images, axis=a).reshape(len(images), -1) ** 2 for a in (1, 2)], 1).mean(1)


def sharpness(images, reference):
    """Relative to the reference's, and its standard error over images."""
    found, unit = steepness(images), steepness(reference)
    value = found.mean() / unit.mean()
    spread = [v.std(ddof=1) / len(v) ** 0.5 / v.mean() for v in (found, unit)]
    return value, value * math.hypot(*spread)


likelihoods = {"Bernoulli": Bits, "Normal": GaussianPixels, "Laplace": LaplacePixels}
guides = {"diagonal": {}, "IAF": {"guide_class": IAF}, "IWAE, K = 5": {"objective": ImportanceWeighted(5)}}
guides["no KL"] = {"temper": Temper(stop=0.0)}
pairs, sharp, misses = {}, {}, {}
print("likelihood  guide          means: reconstructed    from q(z)         from the prior    draws, prior")
for name, likelihood in likelihoods.items():
    for label, how in guides.items():
        pair = pairs[name, label] = train(likelihood, **how)
        many = 60 if SMOKE else 500
        seen = (binary if likelihood is Bits else grey)["test"]
        row = {
            "reconstructed": (seen_again(*pair, seen, mean=True)["x"], grey["test"]),
            "q(z)": (sample_from_average(*pair, seen, many, mean=True)["x"], grey["test"]),
            "prior": (sample(pair[0], (seen,), many, mean=True)["x"], grey["test"]),
            "draws": (sample(pair[0], (seen,), many)["x"], seen),
        }
        misses[name, label] = ((row["reconstructed"][0] - grey["test"].numpy()) ** 2).mean(1)
        sharp[name, label] = {what: sharpness(*images) for what, images in row.items()}
        cells = "".join(f"{value:10.3f} +- {error:.3f}" for value, error in sharp[name, label].values())
        print(f"{name:12s}{label:12s}{cells}")

# %% [markdown]
# Sharper need not be nearer: without a KL the bits' own noise can be copied. So the squared error of reconstructed means to
# the held-out *grey* image is compared as well (of one draw of z, whose spread counts). Then surgery where codes say
# much: grey values under a Normal, and no KL.

# %%
for name in likelihoods:
    cells = "".join(f"{label:>12s} {misses[name, label].mean():.4f}" for label in guides)
    print(f"squared error to the grey image, {name:10s}{cells}")
codes = {}
for key in (("Normal", "diagonal"), ("Bernoulli", "no KL")):
    codes[key] = surgery(*pairs[key], (grey if key[0] == "Normal" else binary)["train"], num_samples=2)
    print("{}, {}".format(*key))
    print(codes[key].table())

pictures["grey"] = side_by_side(*pairs["Normal", "diagonal"], grey["test"])
print(pictures["grey"].table())

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    word = holds if isinstance(holds, str) else "holds" if holds else "does not hold"
    print(f"* {word}: {claim}")


worst = max(bits, key=lambda n: abs(bits[n][0] - one_bit_optimum(n)[0]))
gap = bits[worst][0] - one_bit_optimum(worst)[0]
verdict(
    abs(gap) < 0.01 + 4 * bits[worst][1],
    "one bit: training reaches the exact loss for n of 1, 2, 5 and 10 "
    f"(worst at n = {worst}: {gap:+.4f} +- {bits[worst][1]:.4f})",
)
ignored, used = (bits[n][2] for n in (1, 2))
verdict(
    ignored.information > 0.01,
    f"z is used at n = 1 (information {ignored.information:.4f} +- {ignored.errors[1]:.4f} nats)",
)
verdict(used.information > 0.1, f"z is used at n = 2 (information {used.information:.4f} +- {used.errors[1]:.4f} nats)")
verdict(slow[0] < 2, f"a learning rate of 1e-6 trains it (loss {slow[0]:.3f} +- {slow[1]:.3f})")
cut = bits[10][2]
verdict(
    cut.near_cap and cut.marginal_kl > 0.1,
    f"at n = 10 the code knows the bit and the rest of the KL is the marginal's "
    f"({cut.information:.4f} of {cut.cap:.4f} nats; marginal {cut.marginal_kl:.4f} +- {cut.errors[2]:.4f})",
)
first = cuts[min(cuts)]
verdict(
    last.near_cap,
    f"digits, z = 10: the information nears its cap ln N "
    f"({last.information:.2f} +- {last.errors[1]:.2f} of {last.cap:.2f} nats)",
)
verdict(
    codes["Normal", "diagonal"].near_cap,
    "grey digits under a Normal: the information nears its cap "
    "({0.information:.2f} +- {0.errors[1]:.2f} of {0.cap:.2f} nats; marginal KL {0.marginal_kl:.2f})".format(
        codes["Normal", "diagonal"]
    ),
)
verdict(
    codes["Bernoulli", "no KL"].near_cap and codes["Bernoulli", "no KL"].marginal_kl > 10,
    "without a KL the codes tell all data apart and miss the prior "
    "({0.information:.2f} +- {0.errors[1]:.2f} of {0.cap:.2f} nats; marginal KL {0.marginal_kl:.1f})".format(
        codes["Bernoulli", "no KL"]
    ),
)
verdict(
    last.marginal_kl > first.marginal_kl + 3 * math.hypot(last.errors[2], first.errors[2]),
    f"the marginal KL grows along training (from {first.marginal_kl:.2f} +- {first.errors[2]:.2f} to "
    f"{last.marginal_kl:.2f} +- {last.errors[2]:.2f} nats)",
)
verdict(
    last.marginal_kl > 3 * cut_2.marginal_kl,
    f"with 10 latents the prior is missed by more than with 2 "
    f"({last.marginal_kl:.2f} against {cut_2.marginal_kl:.2f} +- {cut_2.errors[2]:.2f} nats)",
)
rows = pictures["z = 10"].rows


def apart(rows, first, second):
    (a, b), (c, d) = rows[first], rows[second]
    return a - c > 2 * math.hypot(b, d), f"{a:.3f} +- {b:.3f} against {c:.3f} +- {d:.3f}"


holds, words = apart(rows, "samples from the prior", "reconstructions")
verdict(holds, f"z = 10: samples from the prior are further from data than reconstructions ({words})")
holds, words = apart(rows, "samples from the prior", "samples from q(z)")
verdict(holds, f"z = 10: sampling from q(z) in place of the prior mends it ({words})")


holds, words = apart(pictures["grey"].rows, "samples from the prior", "samples from q(z)")
verdict(holds, f"grey digits under a Normal: sampling from q(z) in place of the prior is nearer to data ({words})")


def change(what, other, base="diagonal"):
    """Other less base for each likelihood, in one line, and how many are above (below) zero by two errors."""
    found = []
    for name in likelihoods:
        (a, b), (c, d) = sharp[name, other][what], sharp[name, base][what]
        found.append((a - c, math.hypot(b, d)))
    words = ", ".join(f"{name} {v:+.3f} +- {e:.3f}" for name, (v, e) in zip(likelihoods, found, strict=True))
    return sum(v > 2 * e for v, e in found), words


def how_often(number):
    """One word for a claim over three likelihoods."""
    names = {0: "does not hold", 3: "holds"}
    return names.get(number, f"holds only for {number} of 3 likelihoods")


blurred = [v + 2 * e < 1 for v, e in (sharp[n, "diagonal"]["reconstructed"] for n in likelihoods)]
words = ", ".join("{} {:.3f} +- {:.3f}".format(n, *sharp[n, "diagonal"]["reconstructed"]) for n in likelihoods)
verdict(how_often(sum(blurred)), f"reconstructed means are blurred ({words})")
for guide in ("IAF", "IWAE, K = 5"):
    number, words = change("prior", guide)
    verdict(how_often(number), f"the guide is why: {guide} sharpens means of samples ({words})")
number, words = change("reconstructed", "no KL")
verdict(how_often(number), f"the KL is why: without it reconstructed means are sharper ({words})")
nearer, words = 0, []
for name in likelihoods:
    gain = misses[name, "diagonal"] - misses[name, "no KL"]
    value, error = gain.mean(), gain.std(ddof=1) / len(gain) ** 0.5
    nearer += value > 2 * error
    words.append(f"{name} {value:+.4f} +- {error:.4f}")
verdict(how_often(nearer), f"they are nearer to the grey image, too (squared error less by {', '.join(words)})")
number, words = change("q(z)", "no KL")
verdict(how_often(number), f"without the KL means of samples from q(z) are sharper, too ({words})")
(a, b), (c, d) = sharp["Laplace", "diagonal"]["prior"], sharp["Normal", "diagonal"]["prior"]
verdict(
    a - c > 2 * math.hypot(b, d),
    "the squared error is why: Laplace's means of samples are sharper than Normal's "
    f"({a:.3f} +- {b:.3f} against {c:.3f} +- {d:.3f})",
)
noisy = [sharp[n, "diagonal"]["draws"][0] > 1 for n in likelihoods]
words = ", ".join("{} {:.3f} +- {:.3f}".format(n, *sharp[n, "diagonal"]["draws"]) for n in likelihoods)
verdict(how_often(sum(noisy)), f"draws from the prior are steeper than data: pixel noise, not sharpness ({words})")
