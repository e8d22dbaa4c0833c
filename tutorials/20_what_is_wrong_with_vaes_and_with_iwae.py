# %% [markdown]
# # What is wrong with VAEs, and with IWAE
#
# **Question.** The ELBO prefers guides that are too narrow and models that suit them. The importance-weighted bound of K
# draws is tighter. Is tighter better? What does it cost the guide, and what repairs it?
#
# **Measured here:**
# 1. On a Gaussian toy with closed forms: the gap of L_K is chi2 / 2K, and K times it reaches its limit.
# 2. The signal-to-noise ratio (SNR) of the gradient grows as sqrt(K) for the model and falls as 1/sqrt(K) for the guide.
# 3. What repairs that: DReG (the guide's SNR grows as well), and the M of MIWAE.
# 4. On 8 x 8 digits: whose guide is wider, whose KL(q || p) and effective sample size larger; once with both networks
#    free, once with the model held.
# 5. On digits: the guide's SNR over training.
# 6. The distribution that L_K implies needs no guide at all: proposals from the prior, and a large K.
#
# **Sources.** Burda et al. (2015), https://arxiv.org/abs/1509.00519; Rainforth et al. (2018),
# https://arxiv.org/abs/1802.04537 (the drowning); Roeder et al. (2017), https://arxiv.org/abs/1703.09194 (STL); Tucker et
# al. (2018), https://arxiv.org/abs/1810.04152 (DReG); Cremer et al. (2017), https://arxiv.org/abs/1704.02916 (the implied
# distribution). Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import copy
import math
import os
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

import pyrarchy
from pyrarchy.binarize import binarization
from pyrarchy.guides import Amortized, Encoder, Guide
from pyrarchy.inference import (
    MIWAE,
    Batches,
    ImportanceWeighted,
    Resampled,
    evaluate,
    fit,
    gradient_snr,
    make_terms,
    trace_pair,
)
from pyrarchy.inference.gradient_snr import slope, standard_error_of_slope
from pyrarchy.plot_style import COLOURS, DASHES, MARKERS, legend_above, single, styled
from pyrarchy.zoo import VAE

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))
torch.manual_seed(0)

# %% [markdown]
# ## 1. The bound tightens
#
# The toy of Rainforth et al.: $z \sim N(\mu, I)$, $x \mid z \sim N(z, I)$, $q(z \mid x) = N(Ax + b, \tfrac23 I)$, whose
# posterior is $N((x + \mu)/2, \tfrac12 I)$. A stands at its optimum $I/2$; mu and b are moved off theirs by .4 N(0, 1). So
# the guide is too wide and off by the same d for every x, and
# $KL(q \| p)$ and the $\chi^2$ divergence of p from q have closed forms. Since the mean of K weights is p(x) times
# $1 + O(\sqrt{\chi^2 / K})$, a Taylor series gives $K (\log p(x) - L_K) \to \chi^2 / 2$.


# %%
class Toy(PyroModule):
    """z1 ~ N(mu, I), x | z1 ~ N(z1, I)."""

    def __init__(self, mu):
        super().__init__("model")
        self.mu = torch.nn.Parameter(mu)

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z1", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class ToyGuide(Guide):
    """q(z1 | x) = N(A x + b, 2/3 I)."""

    def __init__(self, model, A, b):
        super().__init__(model)
        self.A, self.b = torch.nn.Parameter(A), torch.nn.Parameter(b)

    def encode(self, x):
        return x @ self.A.mT + self.b

    def posterior(self, name, prior):
        return dist.Normal(self.evidence, (2 / 3) ** 0.5).to_event(1)


def toy(offset_of_slope=0.0, offset=0.4, dim=2, rows=32):
    """The pair near its optimum mu = mean(x), A = I / 2, b = mu / 2, and data drawn from the model."""
    g = torch.Generator().manual_seed(0)
    true_mu = torch.randn(dim, generator=g)
    x = true_mu + torch.randn(rows, dim, generator=g) + torch.randn(rows, dim, generator=g)
    model = Toy(x.mean(0) + offset * torch.randn(dim, generator=g))
    A = torch.eye(dim) / 2 + offset_of_slope * torch.randn(dim, dim, generator=g)
    return model, ToyGuide(model, A, x.mean(0) / 2 + offset * torch.randn(dim, generator=g)), x


def divergences(model, guide, x):
    """Exact KL(q || p) and chi2(p || q) per datum, (N,) each."""
    s, v, dim = 1 / 2, 2 / 3, x.shape[1]
    with torch.no_grad():
        d2 = ((guide.encode(x) - (x + model.mu) / 2).double() ** 2).sum(-1)
    kl = dim / 2 * (v / s - 1 - math.log(v / s)) + d2 / (2 * s)
    return kl.numpy(), ((v / math.sqrt(s * (2 * v - s))) ** dim * (d2 / (2 * v - s)).exp() - 1).numpy()


def gap(model, guide, x, k, repeats):
    """log p - L_K per datum and its standard error; the weights' known mean is a control variate."""
    with torch.no_grad():
        log_p = dist.Normal(model.mu, 2**0.5).to_event(1).log_prob(x)
        rows = x.repeat(repeats, 1)
        terms = make_terms(*trace_pair(model, guide, (rows,), num_particles=k), num_particles=k)
        mean_weight = (terms.log_w - log_p.repeat(repeats)).double().exp().mean(0)
        found = mean_weight - 1 - mean_weight.log()
    return found.mean().item(), found.std().item() / len(found) ** 0.5


model, guide, x = toy()
kl, chi2 = (float(value.mean()) for value in divergences(model, guide, x))
gaps = {}
print(f"exact: KL(q || p) = {kl:.4f}, chi2 = {chi2:.4f}, limit chi2 / 2 = {chi2 / 2:.4f}")
print("   K   log p - L_K             K (log p - L_K)")
for k in (1, 4, 16, 64, 256):
    gaps[k] = gap(model, guide, x, k, max(1, (20_000 if SMOKE else 400_000) // (k * len(x))))
    print(f"{k:4d}{gaps[k][0]:12.5f} +- {gaps[k][1]:.5f}{k * gaps[k][0]:13.4f} +- {k * gaps[k][1]:.4f}")

# %% [markdown]
# ## 2. The guide's signal drowns
#
# That is the trouble: as K grows the bound forgets its guide. The gradient of L_K with respect to the guide shrinks as
# 1/K, its standard deviation only as 1/sqrt(K). `gradient_snr` draws a gradient thousands of times; the table has the slope
# of log SNR against log K (median over the entries of mu, and of b). Theory: +.5 for the model, -.5 for the guide, as K goes
# to infinity. (Between K = 4 and 64 one is not there yet: the verdicts below allow .1.)
#
# ## 3. What repairs it
#
# DReG draws the same gradient's mean with the score of q taken out: +.5 for both. Or one spends draws on M independent
# bounds (MIWAE) rather than on K: +.5 in M for both. The last rows move A by .4 N(0, 1) as well: then the
# guide is wrong by more the further x lies from zero, and chi2 is so large that K = 64 draws are few: the theory, which is
# of K well above chi2, says nothing there.


# %%
def slopes(pair, sizes, bounds, draws):
    """Side -> (slope of the SNR against the size, its standard error, the SNRs)."""
    found = [gradient_snr(*pair, bound, draws=draws) for bound in bounds]
    out = {}
    for side, name in (("model", "model.mu"), ("guide", "guide.b")):
        ratios = [float(np.median(f.snr(name))) for f in found]
        errors = [
            np.median(f.snr_error(name)) / f.snr(name).size ** 0.5 / r for f, r in zip(found, ratios, strict=True)
        ]
        out[side] = slope(sizes, ratios), standard_error_of_slope(sizes, ratios, errors), ratios
    return out


draws = 500 if SMOKE else 4000
sizes, groups = (4, 8, 16, 32, 64), (1, 4, 16)
near, far = toy(), toy(offset_of_slope=0.4)
table = {
    "K, plain": slopes(near, sizes, [ImportanceWeighted(k) for k in sizes], draws),
    "K, STL (biased)": slopes(near, sizes, [ImportanceWeighted(k, estimator="stl") for k in sizes], draws),
    "K, DReG": slopes(near, sizes, [ImportanceWeighted(k, estimator="dreg") for k in sizes], draws),
    "M (K = 4), plain": slopes(near, groups, [MIWAE(m, 4) for m in groups], draws),
    "K, plain, A off": slopes(far, sizes, [ImportanceWeighted(k) for k in sizes], draws),
    "K, DReG, A off": slopes(far, sizes, [ImportanceWeighted(k, estimator="dreg") for k in sizes], draws),
}
print("in                    model                guide          SNR of the guide, smallest / largest size")
for label, row in table.items():
    cells = "".join(f"{row[side][0]:+11.2f} +- {row[side][1]:.2f}" for side in ("model", "guide"))
    print(f"{label:18s}{cells}{row['guide'][2][0]:20.3f} / {row['guide'][2][-1]:.3f}")
chi2_far = divergences(*far)[1]
print(f"chi2 with A off: median {np.median(chi2_far):.2f}, mean {chi2_far.mean():.2f}, largest {chi2_far.max():.1f}")

# %% [markdown]
# ## 4. Digits: whose guide is wider?
#
# The ELBO charges KL(q || p), which forbids q to lie where the posterior does not: q is too narrow. L_K for large K charges
# chi2 / 2K, which forbids the posterior to lie where q does not: q should be wide. Three small VAEs, K = 1 (the VAE), 8
# and 64 (IWAE), the same first parameters and steps. IWAE's *model* differs too: its posteriors need not suit a
# Gaussian. So the last two rows hold the VAE's model fixed and train its guide on, with K = 1 and with K = 64 (by DReG).
# KL(q || p) = log p - ELBO, log p by many importance samples.

# %%
digits = pyrarchy.load_data("digits")
binary = binarization("dynamic")
prepared = binary.prepare(digits)
train, test = torch.from_numpy(prepared.train), torch.from_numpy(prepared.test)
if SMOKE:
    train, test = train[:300], test[:60]
epochs = (1, 3) if SMOKE else (1, 3, 6, 12, 25, 50)
many = 100 if SMOKE else 1000


def small_vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(digits.dim, 8, (50,), torch.from_numpy(digits.mean))
        return model, Amortized(model, Encoder(digits.dim, (8,), ((50,),), digits.mean))


def width(guide):
    """Average posterior standard deviation on the test data."""
    with torch.no_grad():
        return guide.encoder(test)["z1"].stddev.mean().item()


def train_pair(model, guide, bound, total, callbacks=()):
    batches = Batches(train, 50, transform=binary.draw)
    steps = total * len(batches)
    schedule = lambda step: 0.1 ** (step / steps)  # noqa: E731
    fit(model, guide, batches, objective=bound, optimizer=3e-3, steps=steps, schedule=schedule, callbacks=callbacks)


class Snapshots:
    """Copies of the pair at the first step and at the end of each listed epoch."""

    def __init__(self):
        self.pairs = {}

    def __call__(self, step):
        epoch = step.step / math.ceil(len(train) / 50)
        if epoch in epochs:
            self.pairs[int(epoch)] = copy.deepcopy((step.model, step.guide))


history, contestants = {}, {}
for k in (1, 8, 64):
    pair, history[k] = small_vae(), Snapshots()
    train_pair(*pair, ImportanceWeighted(k), epochs[-1], [history[k]])
    contestants[f"K = {k}"] = pair
for k in (1, 64):
    held, guide = copy.deepcopy(contestants["K = 1"])
    held.requires_grad_(False)  # fit then leaves the model as it is
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*was not registered in the param store")  # Pyro tells of every frozen layer
        train_pair(held, guide, ImportanceWeighted(k, estimator="dreg"), epochs[-1])
    contestants[f"the VAE's model, guide by K = {k}"] = held, guide
graded = {label: evaluate(*pair, test, num_samples=many) for label, pair in contestants.items()}
widths = {label: width(guide) for label, (_, guide) in contestants.items()}


def kl_of(label):
    """KL(q || p) and its standard error over the data; an underestimate by what log p is."""
    found = graded[label].log_p - graded[label].elbo
    return found.mean(), found.std(ddof=1) / len(found) ** 0.5


print("                                log p(x)     ELBO   KL(q || p)         scale   ESS (mean share)   k-hat > .7")
for label, found in graded.items():
    value, error = kl_of(label)
    print(f"{label:30s}{found.mean_log_p:10.3f}{found.mean_elbo:9.3f}{value:9.3f} +- {error:.3f}", end="")
    print(f"{widths[label]:9.4f}{found.ess.mean() / many:14.1%}{(found.k_hat > 0.7).mean():17.0%}")


def difference(name, first, second):
    """Mean and standard error over the test data of a paired difference of a figure."""
    a, b = (
        getattr(graded[label], name) if name != "kl" else graded[label].log_p - graded[label].elbo
        for label in (first, second)
    )
    return (a - b).mean(), (a - b).std(ddof=1) / len(a) ** 0.5


# %% [markdown]
# ## 5. Digits: the guide's SNR over training
#
# At the end of some epochs, on one batch of 20 test images and each K's own pair. The SNR here is that of the whole
# vector, $|E\,g| / \sqrt{tr\,Var\,g}$, with the noise's share of $|\bar g|^2$ taken off (the mean of n noisy gradients
# is never zero). Plain and DReG are measured on the *same* pair, one that plain gradients trained: the picture tells
# the two estimators (dashed: DReG) apart, not their training. For K = 1
# DReG is STL.


# %%
def vector_snr(pair, bound, side, draws, repeats=4):
    """SNR of the gradient of one side as a vector, and its standard error over independent repeats."""
    signals, noises = [], []
    for seed in range(repeats):
        found = gradient_snr(*pair, test[:20], bound, draws=draws // repeats, seed=seed)
        names = [name for name in found.mean if name.startswith(side)]
        noises.append(sum(found.variance[name].sum() for name in names))
        signals.append(sum((found.mean[name] ** 2).sum() for name in names) - noises[-1] / found.draws)
    square = max(np.mean(signals) / np.mean(noises), 1e-8)
    error = np.std(signals, ddof=1) / repeats**0.5 / np.mean(noises)
    return square**0.5, error / (2 * square**0.5)


snr = {}
draws = 40 if SMOKE else 200
print("SNR of the guide's gradient    " + "".join(f"{f'epoch {e}':>18s}" for e in epochs))
for k in (1, 8, 64):
    for estimator in ("plain", "dreg"):
        bound = ImportanceWeighted(k, estimator=estimator)
        snr[k, estimator] = [vector_snr(history[k].pairs[e], bound, "guide", draws) for e in epochs]
        cells = "".join(f"{value:9.3f} +- {error:.3f}" for value, error in snr[k, estimator])
        print(f"K = {k:2d}, {estimator:24s}{cells}")


@styled
def snr_over_training():
    figure, axes = single(3.6)
    handles = []
    for i, values in enumerate(snr.values()):
        mean, error = np.array(values).T
        look = {"color": COLOURS[i // 2], "linestyle": DASHES[i % 2], "marker": MARKERS[i // 2], "markersize": 4}
        axes.errorbar(epochs, mean, yerr=np.minimum(error, 0.9 * mean), fmt="none", ecolor=COLOURS[i // 2])
        handles += axes.plot(epochs, mean, linewidth=1.5, **look)
    axes.set(xscale="log", yscale="log", xlabel="epoch", ylabel="SNR of the guide's gradient")
    axes.set_xticks(epochs, [str(e) for e in epochs])
    axes.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
    axes.minorticks_off()
    axes.grid(axis="y")
    names = [f"K = {k}, {'DReG' if name == 'dreg' else name}" for k, name in snr]
    legend_above(figure, handles, names)
    return figure


snr_over_training()

# %% [markdown]
# ## 6. The distribution that the bound implies
#
# L_K is the ELBO (from below) not of q but of what one gets by drawing K times from q and keeping one draw by its
# weight. `Resampled` is that distribution as an ordinary guide. The proposals here come from the *prior*: nothing was
# learnt. One x of the toy, and KL(q_IW || p(z | x)) by Monte Carlo.


# %%
def prior(x):
    """A guide that does not look at the data."""
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z1", dist.Normal(model.mu.detach(), 1.0).to_event(1))


far_x = x[(x - model.mu).square().sum(-1).argmax()].detach()
copies = far_x.expand(200 if SMOKE else 2000, -1)
posterior = dist.Normal((far_x + model.mu.detach()) / 2, 0.5**0.5).to_event(1)
print(f"x lies {(far_x - model.mu).norm().item():.2f} from mu, so that the posterior mean lies half of that")
print("   K   log p - L_K        KL(q_IW || p)          distance of the mean   mean scale (exact .7071)")
implied = {}
with torch.no_grad():
    log_p = dist.Normal(model.mu, 2**0.5).to_event(1).log_prob(far_x).item()
    for k in (1, 4, 16, 64) if SMOKE else (1, 4, 16, 64, 256):
        resampled = Resampled(model, prior, k)
        terms = make_terms(*trace_pair(model, resampled, (copies,)))
        z, gaps_k = terms.values["z1"].reshape(len(copies), -1), log_p - terms.log_w.reshape(-1).double().numpy()
        part = z[: 100 if SMOKE else 500]
        log_q = resampled.log_prob({"z1": part}, copies[: len(part)], num_estimates=50)
        kls = (log_q - posterior.log_prob(part)).double().numpy()
        implied[k] = [(a.mean(), a.std(ddof=1) / len(a) ** 0.5) for a in (gaps_k, kls)]
        off = (z.mean(0) - posterior.mean).norm().item()
        cells = "".join(f"{value:10.4f} +- {error:.4f}" for value, error in implied[k])
        print(f"{k:4d}{cells}{off:18.3f}{z.std(0).mean().item():23.3f}")

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


k = max(gaps)
verdict(
    abs(k * gaps[k][0] - chi2 / 2) < 4 * k * gaps[k][1] + chi2 / k,
    f"K (log p - L_K) reaches chi2 / 2 ({k * gaps[k][0]:.4f} +- {k * gaps[k][1]:.4f} at K = {k} against {chi2 / 2:.4f})",
)


def near_half(label, sign_of_guide):
    (a, ea, _), (b, eb, _) = table[label]["model"], table[label]["guide"]
    words = f"(model {a:+.3f} +- {ea:.3f}, guide {b:+.3f} +- {eb:.3f})"
    return abs(a - 0.5) < 0.1 + 2 * ea and abs(b - 0.5 * sign_of_guide) < 0.1 + 2 * eb, words


holds, words = near_half("K, plain", -1)
verdict(holds, f"with K the model's SNR grows and the guide's falls, slopes +.5 and -.5 {words}")
holds, words = near_half("K, DReG", +1)
verdict(holds, f"DReG makes both grow with K {words}")
holds, words = near_half("M (K = 4), plain", +1)
verdict(holds, f"so does the M of MIWAE {words}")
holds, words = near_half("K, plain, A off", -1)
verdict(holds, f"the slopes are the same with A off by .4 {words}")


def wider(first, second):
    return f"{widths[first]:.4f} against {widths[second]:.4f}"


held_1, held_64 = "the VAE's model, guide by K = 1", "the VAE's model, guide by K = 64"
verdict(widths["K = 64"] > widths["K = 1"], f"IWAE's guide is wider than the VAE's (scale {wider('K = 64', 'K = 1')})")
verdict(widths["K = 8"] > widths["K = 1"], f"so it is already with K of eight (scale {wider('K = 8', 'K = 1')})")
verdict(
    widths[held_64] > widths[held_1],
    f"the same model's guide is wider when L_64 trains it (scale {wider(held_64, held_1)})",
)
value, error = difference("kl", "K = 64", "K = 1")
verdict(
    value > 2 * error, f"IWAE's guide is further from its posterior, by KL(q || p) ({value:+.3f} +- {error:.3f} nats)"
)
value, error = difference("kl", held_64, held_1)
verdict(value > 2 * error, f"so is the same model's by L_64 ({value:+.3f} +- {error:.3f} nats)")
value, error = (v / many for v in difference("ess", held_64, held_1))
verdict(value > 2 * error, f"on the same model L_64 makes more samples effective ({value:+.1%} +- {error:.1%} of them)")
value, error = (v / many for v in difference("ess", "K = 64", "K = 1"))
verdict(value > 2 * error, f"IWAE has more effective samples than the VAE ({value:+.1%} +- {error:.1%} of them)")
value, error = difference("log_p", "K = 64", "K = 1")
verdict(value > 2 * error, f"IWAE has the better held-out log p(x) ({value:+.3f} +- {error:.3f} nats)")
plain_1, plain_64, dreg_64 = (np.array(snr[key])[-1] for key in ((1, "plain"), (64, "plain"), (64, "dreg")))
verdict(
    plain_64[0] + 2 * plain_64[1] < plain_1[0] - 2 * plain_1[1],
    f"after training the guide's plain SNR is lower for K = 64 than for K = 1 "
    f"({plain_64[0]:.3f} +- {plain_64[1]:.3f} against {plain_1[0]:.3f} +- {plain_1[1]:.3f})",
)
verdict(
    dreg_64[0] - 2 * dreg_64[1] > plain_64[0] + 2 * plain_64[1],
    f"DReG lifts it ({dreg_64[0]:.3f} +- {dreg_64[1]:.3f} for K = 64)",
)
left = {key: values[-1][0] / values[0][0] for key, values in snr.items()}
words = {name: ", ".join(f"{left[k, name]:.2f}" for k in (1, 8, 64)) for name in ("plain", "dreg")}
verdict(
    left[1, "plain"] < 1 and left[1, "plain"] > left[8, "plain"] > left[64, "plain"],
    f"training lowers the plain SNR, the more so the larger K is (last over first {words['plain']})",
)
verdict(
    all(left[k, "dreg"] > left[k, "plain"] for k in (1, 8, 64)),
    f"it lowers that of DReG less (last over first {words['dreg']})",
)
low, high = min(implied), max(implied)
verdict(
    all(kls[0] < bound[0] + 2 * math.hypot(kls[1], bound[1]) for bound, kls in implied.values()),
    "log p - L_K is at least the KL of what L_K implies "
    f"(K = {high}: {implied[high][0][0]:.4f} and {implied[high][1][0]:.4f})",
)
verdict(
    implied[high][1][0] + 2 * implied[high][1][1] < 0.05,
    f"with the prior as proposal it comes within .05 nats of the posterior "
    f"(K = {low}: {implied[low][1][0]:.3f}, K = {high}: {implied[high][1][0]:.4f} +- {implied[high][1][1]:.4f})",
)
