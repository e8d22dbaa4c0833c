# %% [markdown]
# # The ladder against the plain hierarchy
#
# **Question.** A deep hierarchy of latent layers is easily written down; its upper layers are said to collapse to the
# prior unless inference runs top-down, as in the ladder VAE. Does it come out so, and what is it worth in log p(x)?
#
# **Measured here:**
# 1. On a linear-Gaussian tree whose answers are exact: the ladder has gap 0, the best diagonal bottom-up guide .436995
#    nats, the best mean-field guide 1.004215. Do *trained* guides reach these numbers?
# 2. On binarised 8 x 8 digits, at equal budget, with and without a warm-up of the temperature: rates per layer and
#    held-out log p(x), over seeds, with the standard error of the paired difference over the test data.
#
# **Sources.** Sonderby et al. (2016), https://arxiv.org/abs/1602.02282; Burda et al. (2015),
# https://arxiv.org/abs/1509.00519 (bottom-up); Rezende et al. (2014), https://arxiv.org/abs/1401.4082 (the hierarchy).
# Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import os

import numpy as np
import torch

import pyrarchy
from pyrarchy.binarize import binarization
from pyrarchy.guides import Amortized, BottomUp, Encoder, Ladder
from pyrarchy.inference import ELBO, AnalyticELBO, Batches, Temper, evaluate, fit, sample
from pyrarchy.plots import image_grid, loss_curves, rate_bars
from pyrarchy.zoo import GaussianTree

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))

# %% [markdown]
# ## 1. Where the answer is exact
#
# One cause, two effects: $z_2 \sim N(0, 1)$, $z_1 \mid z_2 \sim N(z_2 1, .1 I_2)$, $x \mid z_1 \sim N(z_1, I_2)$. Given
# x alone the two entries of z1 are correlated (they share z2); given z2 *and* x they are not. So a diagonal guide
# must go top-down to be exact. The three guides below have linear networks and differ in nothing but the order. (The
# learning rate of .1 was chosen for them: the bound is flat in the evidence for z1, whose prior is narrow, and at a tenth
# of it they stop far from their optimum.)

# %%
tree_data = torch.from_numpy(pyrarchy.load_data("gaussian_tree").train)
tree = GaussianTree(2)


def linear_encoder():
    return Encoder(2, (2, 1), ((), ()))


contestants = {
    "ladder (top-down)": (lambda: Ladder(tree, linear_encoder()), AnalyticELBO(), 0.0),
    "bottom-up": (lambda: BottomUp(2, (2, 1), ((), ())), ELBO(), 0.436995),
    "mean-field": (lambda: Amortized(tree, linear_encoder()), AnalyticELBO(), 1.004215),
}
steps = 300 if SMOKE else 2000
gaps = {}
print("guide               gap of the trained guide     best possible")
for name, (make, objective, exact) in contestants.items():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = make()
    schedule = lambda step: min(1.0, 0.01 ** (2 * step / steps - 1))  # constant for one half, then decay  # noqa: E731
    fit(tree, guide, tree_data, objective=objective, optimizer=0.1, steps=steps, schedule=schedule)
    with torch.no_grad():
        truth = tree.log_marginal(tree_data).double().numpy()
    found = truth - evaluate(tree, guide, tree_data, num_samples=100 if SMOKE else 400).elbo
    gaps[name] = found.mean(), found.std(ddof=1) / len(found) ** 0.5, exact
    print(f"{name:18s}{gaps[name][0]:11.4f} +- {gaps[name][1]:.4f}{exact:19.6f}")

# %% [markdown]
# ## 2. Digits
#
# The rows `hvae` and `ladder_vae` hold the *same* model, three layers of 16, 8 and 4 units, the same encoder and the
# same first parameters. They differ in how the guide uses the encoder: alone, or multiplied into the model's own prior
# at each layer below the top. Pixels are drawn anew at every use for training and once for testing.

# %%
digits = pyrarchy.load_data("digits")
binary = binarization("dynamic")
prepared = binary.prepare(digits)
train, test = torch.from_numpy(prepared.train), torch.from_numpy(prepared.test)
if SMOKE:
    test = test[:100]
epochs, seeds = (3, (0, 1)) if SMOKE else (40, (0, 1, 2))


def run(row, warm_up, seed):
    """Train a row at the common budget; returns its held-out evaluation, its curve and the pair."""
    model, guide = pyrarchy.get_pair(row)(digits, seed=seed)
    batches = Batches(train, 50, seed=seed, transform=binary.draw)
    total = epochs * len(batches)
    record = fit(
        model,
        guide,
        batches,
        optimizer=2e-3,
        steps=total,
        schedule=lambda step: 0.1 ** (step / total),
        temper=Temper(steps=round(warm_up * total)) if warm_up else None,
        seed=seed,
    )
    return evaluate(model, guide, test, num_samples=50 if SMOKE else 200), record.values, (model, guide)


results, curves, pairs = {}, {}, {}
for warm_up in (0.0, 0.5):
    for row in ("hvae", "ladder_vae"):
        for seed in seeds:
            results[row, warm_up, seed], values, pairs[row, warm_up, seed] = run(row, warm_up, seed)
            if seed == seeds[0]:
                label = f"{row}, {'warm-up' if warm_up else 'no warm-up'}"
                curves[label] = np.arange(1, len(values) + 1), values
print("pair        warm-up  seed   log p(x)    ELBO   rates z1 / z2 / z3      active units   k-hat > .7")
for (row, warm_up, seed), found in results.items():
    rates = " / ".join(f"{found.rates[site]:.2f}" for site in ("z1", "z2", "z3"))
    units = "+".join(str(found.active_units()[site][0]) for site in ("z1", "z2", "z3"))
    share = float((found.k_hat > 0.7).mean())
    print(f"{row:12s}{'yes' if warm_up else 'no':>7s}{seed:6d}{found.mean_log_p:11.3f}{found.mean_elbo:8.3f}", end="")
    print(f"{rates:>22s}{units:>17s}{share:13.0%}")

# %% [markdown]
# The difference of log p(x) on the same test images, per seed, with its standard error over those images; then the mean
# over seeds, with the standard error over seeds. (The first says how sure one is of *these two fits*, the second of the
# two *methods*. Three seeds make a rough error bar.)


# %%
def difference(warm_up):
    """Ladder minus plain: per-seed means and standard errors over data, their mean and its standard error over seeds."""
    paired = [results["ladder_vae", warm_up, s].log_p - results["hvae", warm_up, s].log_p for s in seeds]
    means = np.array([p.mean() for p in paired])
    errors = np.array([p.std(ddof=1) / len(p) ** 0.5 for p in paired])
    return means, errors, means.mean(), means.std(ddof=1) / len(seeds) ** 0.5


def upper(row, warm_up):
    """Rate of the layers above z1, nats per datum, mean over seeds."""
    return np.mean([sum(results[row, warm_up, s].rates[site] for site in ("z2", "z3")) for s in seeds])


for warm_up in (0.0, 0.5):
    means, errors, mean, error = difference(warm_up)
    per_seed = ", ".join(f"{m:+.3f} +- {e:.3f}" for m, e in zip(means, errors, strict=True))
    print(f"{'with' if warm_up else 'without'} warm-up, ladder minus plain: {mean:+.3f} +- {error:.3f} ({per_seed})")
    print(
        f"  rate above z1: ladder {upper('ladder_vae', warm_up):.2f}, plain {upper('hvae', warm_up):.2f} nats per datum"
    )

# %%
first = seeds[0]
names = {("hvae", 0.0): "hvae", ("hvae", 0.5): "hvae, warm-up"}
names |= {("ladder_vae", 0.0): "ladder_vae", ("ladder_vae", 0.5): "ladder_vae, warm-up"}
rate_bars(
    {label: results[*key, first].rates for key, label in names.items()},
    {label: results[*key, first].active_units() for key, label in names.items()},
)

# %%
loss_curves(curves, ylabel="ELBO at temperature one (nats)")

# %%
model, guide = pairs["ladder_vae", 0.5, first]
plain = pairs["hvae", 0.5, first][0]
image_grid(
    {
        "test images": prepared.test[:10],
        "samples of hvae, warm-up (mean of x given z)": sample(plain, (test[:1],), 10, mean=True)["x"],
        "samples of ladder_vae, warm-up": sample(model, (test[:1],), 10, mean=True)["x"],
    },
    (8, 8),
)

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


for name, (value, error, exact) in gaps.items():
    verdict(
        abs(value - exact) < 4 * error + 0.01,
        f"the trained {name} guide reaches its exact gap ({value:.4f} +- {error:.4f} against {exact:.6f} nats)",
    )
verdict(
    upper("hvae", 0.0) < 0.1,
    f"the plain hierarchy's upper layers collapse without warm-up (rate above z1 {upper('hvae', 0.0):.3f} nats)",
)
ladder = {w: upper("ladder_vae", w) for w in (0.0, 0.5)}
alive = [w for w in ladder if ladder[w] > 0.5]
words = {2: "holds", 1: "holds only with warm-up" if 0.5 in alive else "holds only without warm-up", 0: "does not hold"}
print(
    f"* {words[len(alive)]}: the ladder keeps its upper layers in use "
    f"(rate above z1 {ladder[0.0]:.3f} nats without warm-up, {ladder[0.5]:.3f} with)"
)
for warm_up in (0.0, 0.5):
    means, errors, mean, error = difference(warm_up)
    verdict(
        mean > 2 * error and (means > 2 * errors).all(),
        f"the ladder has the better held-out log p(x) {'with' if warm_up else 'without'} warm-up "
        f"({mean:+.3f} +- {error:.3f} nats over seeds)",
    )
