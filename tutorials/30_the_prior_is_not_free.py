# %% [markdown]
# # The prior is not free
#
# **Question.** It is often said that a model flexible enough makes its prior a matter of taste, that codes follow the prior
# anyway, that a rich posterior does what a rich prior does, and that mutual information says how good a code is. Which of it
# can be measured?
#
# **Measured here:**
# 1. Linear images with a Laplace, Cauchy or Gaussian prior, the noise scale swept from informative to uninformative.
# 2. Mutual information: what N does to it.
# 3. A complicated prior with a simple posterior, and the reverse, on a VAE of digits.
# 4. A self-consistent prior, refitted to the average posterior, and the three ways it goes wrong.
#
# **Sources.** Olshausen & Field (1997), https://doi.org/10.1016/S0042-6989(97)00169-7; Hoffman & Johnson (2016), ELBO
# surgery; Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120; Chen et al. (2017),
# https://arxiv.org/abs/1611.02731. Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import math
import os

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

import pyrarchy
from pyrarchy.binarize import binarization
from pyrarchy.guides import IAF, Amortized, Encoder, Ridge
from pyrarchy.inference import (
    AggregatePosterior,
    Batches,
    average_posterior,
    evaluate,
    fit,
    refit_prior,
    self_consistent,
    stein_matrix,
    surgery,
)
from pyrarchy.plots import average_marginals
from pyrarchy.zoo import VAE, FixedScale, FlowPrior, GaussianPrior, MixturePrior, SparseLinear

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))


def train(model, guide, x, epochs, rate, batch=100, transform=None):
    """Maximise the ELBO, the rate falling to a tenth."""
    batches = Batches(x, batch, transform=transform)
    steps = epochs * len(batches)
    fit(model, guide, batches, optimizer=rate, steps=steps, schedule=lambda step: 0.1 ** (step / steps))


# %% [markdown]
# ## 1. The prior against the noise
#
# 6 x 6 corners of whitened photographs, as many atoms as pixels, the noise scale *given*: .3 is little, 3 is
# more than the pixels' own deviation of about 1. For a Laplace prior of scale 1, W free, Stein's identity fixes E|z| = 1 for
# *any* data; the excess kurtosis (3 for a Laplace, 0 for a Gaussian) is free and says whether the prior was believed. (Where
# scikit-learn or Pillow is missing, the simulated dictionary stands in.) At noise 3 the guide has the prior's own family:
# where the data say little a Normal q would pay .07 nats a code for its shape alone. Surgery is on the first 500 data.

# %%
try:
    images = pyrarchy.load_data("patches")
except pyrarchy.files.DataError:
    images = pyrarchy.load_data("sparse_dictionary")
corner = (np.arange(6)[:, None] * 12 + np.arange(6)).ravel()
x, held_out = (torch.from_numpy(part[:, corner]) for part in (images.train[: 400 if SMOKE else 2000], images.test))
some = x[:500]
priors = {"Laplace": dist.Laplace, "Cauchy": dist.Cauchy, "Gaussian": dist.Normal}
noises = (0.3, 1.0, 3.0)
fits, cuts, averages, means, elbos = {}, {}, {}, {}, {}
print(f"{images.name}: {len(x)} data of {len(corner)} pixels, sd {x.std():.2f}; ln N = {math.log(len(some)):.2f}")
print("prior      noise    held-out ELBO     average KL   information   marginal KL   mean E|z|        excess kurtosis")
for name, prior in priors.items():
    for noise in noises:
        torch.manual_seed(0)
        model = SparseLinear(len(corner), len(corner), prior, noise=FixedScale(noise), mean=x.mean(0))
        guide = Ridge(model, 32, prior if noise == 3.0 else dist.Normal)
        train(model, guide, x, 3 if SMOKE else 40, 1e-2)
        key = name, noise
        fits[key], cuts[key] = (model, guide), surgery(model, guide, some, num_samples=4)
        averages[key] = average_posterior(model, guide, x, num_samples=10)
        elbos[key] = evaluate(model, guide, held_out, num_samples=20).elbo
        size = np.abs(averages[key].draws).mean((0, 2))  # of each datum
        means[key] = size.mean(), size.std(ddof=1) / len(size) ** 0.5
        cut, kurtosis = cuts[key], averages[key].posterior.kurtosis
        print(
            f"{name:10s}{noise:5.1f}{elbos[key].mean():11.2f} +- {elbos[key].std() / len(held_out) ** 0.5:.2f}", end=""
        )
        print(f"{cut.average_kl:12.2f}{cut.information:13.2f}{cut.marginal_kl:14.2f}", end="")
        print(f"{means[key][0]:14.3f} +- {means[key][1]:.3f}{np.median(kurtosis):14.2f} (median)")
stein = {noise: stein_matrix(*fits["Laplace", noise], x, num_samples=20) for noise in noises}
average_marginals(averages["Gaussian", 0.3].draws[:2], averages["Gaussian", 0.3].prior_draws)

# %% [markdown]
# ## 2. Mutual information is inflated, or capped
#
# I_q(n; z) is capped at ln N. With little noise every code names its datum, whatever the prior: the number is then ln N, and
# grows with N. With much noise it is a property of the code.

# %%
sizes = (50, 200, len(some))
growth = {
    noise: [surgery(*fits["Laplace", noise], x[:n], num_samples=max(2, 4000 // n)) for n in sizes]
    for noise in (0.3, 3.0)
}
for noise, found in growth.items():
    cells = "".join(f"   N = {n}: {cut.information:.3f} of {cut.cap:.3f}" for n, cut in zip(sizes, found, strict=True))
    print(f"noise {noise}:{cells}")

# %% [markdown]
# ## 3. A rich prior or a rich posterior?
#
# The VAE of digits with a flow as prior and a diagonal guide, with N(0, I) and a flow as guide (IAF), with neither,
# and with both; equal steps. A flow on z in p and the inverse of it in q look like one thing (Chen et al.), but they are
# so only without the guide's dependence on x.

# %%
digits = pyrarchy.load_data("digits")
binary = binarization("dynamic")
prepared = binary.prepare(digits)
rows, test = torch.from_numpy(prepared.train), torch.from_numpy(prepared.test)
if SMOKE:
    rows, test = rows[:300], test[:60]
fixed = torch.bernoulli(rows, generator=torch.Generator().manual_seed(0)) if rows.unique().numel() > 2 else rows
vaes, graded, cut_of = {}, {}, {}
for rich_prior in (False, True):
    for rich_guide in (False, True):
        torch.manual_seed(0)
        model = VAE(digits.dim, 8, (64,), digits.mean, FlowPrior(8, 2, (32,)) if rich_prior else None)
        guide = (IAF if rich_guide else Amortized)(model, Encoder(digits.dim, (8,), ((64,),), digits.mean))
        train(model, guide, rows, 2 if SMOKE else 60, 4e-3, transform=binary.draw)
        label = f"{'flow' if rich_prior else 'normal'} prior, {'flow' if rich_guide else 'diagonal'} guide"
        vaes[label], graded[label] = (model, guide), evaluate(model, guide, test, num_samples=50)
        print(f"{label:30s} held-out ELBO {graded[label].mean_elbo:.3f}, log p {graded[label].mean_log_p:.3f}", end="")
        if not rich_guide:
            cut_of[label] = surgery(model, guide, fixed, num_samples=2)
            print("; {0.average_kl:.3f} = {0.information:.3f} + {0.marginal_kl:.3f}".format(cut_of[label]), end="")
        print()

# %% [markdown]
# ## 4. A prior that follows the codes
#
# Refit the prior to q(z), and again. On the plain VAE, its guide held, one refit is all there is: what is left of the
# marginal KL is the family's. (Refits to one half of the draws would be fairer: q(z) is of these data.) Then one dimension
# where everything is known, x = z + noise: with the exact posterior the rounds are EM; with codes that are points they
# shrink the prior by $v \leftarrow (v / (v + s^2))^2 V$, to zero wherever the data's variance V is below $4 s^2$.


# %%
class Line(PyroModule):
    """z1 from top, x = z1 + N(0, 1)."""

    def __init__(self, floor):
        super().__init__("model")
        self.top, self.z_dims = GaussianPrior(1, floor), (1,)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", self.top(x))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def line_guide(model, exact):
    """The exact posterior, or its mean with hardly any width."""

    def guide(x):
        m, v = model.top.loc, model.top.scale_tril**2
        gain = (v / (v + 1)).squeeze()
        with pyro.plate("data", len(x)):
            width = gain.sqrt() if exact else gain.new_tensor(1e-3)
            pyro.sample("z1", dist.Normal(m + gain * (x - m), width).to_event(1))

    return guide


u = dist.Normal(0.0, 1.0).icdf((torch.arange(300.0) + 0.5) / 300).unsqueeze(1)
line_x = 3**0.5 * u / u.std(correction=0)  # V = 3, so that the prior's variance should be 2
ends = {}
for label, exact, floor in (("exact", True, 0.0), ("points", False, 0.0), ("points, floor .5", False, 0.5)):
    model = Line(floor)
    self_consistent(model, line_guide(model, exact), line_x, rounds=15, tolerance=-1, draws=20_000)
    ends[label] = model.top.scale_tril.item() ** 2
    print(f"x = z + noise, {label:18s}prior's variance after 15 rounds {ends[label]:.2e}")

model, guide = vaes["normal prior, diagonal guide"]
left = {"N(0, I)": cut_of["normal prior, diagonal guide"]}
torch.manual_seed(1)
draws = AggregatePosterior(model, guide, fixed).sample((2000 if SMOKE else 10_000,))
for label, top in (
    ("Gaussian", GaussianPrior(8)),
    ("mixture of 30", MixturePrior(8, 30, iterations=10 if SMOKE else 50)),
    ("flow", FlowPrior(8, 2, (32,))),
):
    refit_prior(top, draws, steps=20 if SMOKE else 600, lr=1e-2)
    model.top = top
    left[label] = surgery(model, guide, fixed, num_samples=2)
    print(f"refitted {label:16s} marginal KL {left[label].marginal_kl:.3f} +- {left[label].errors[2]:.3f}")
model.top = None

# %% [markdown]
# Interpretability: data from 36 known atoms at random directions, with Laplace codes and noise .1. A Gaussian prior is
# self-consistent from the start (its second moments agree at the maximum), and says nothing about which atoms they are.
# (60 epochs do not bring the Laplace fit to its maximum: its codes' variance is still below 2. Only the difference counts.)

# %%
torch.manual_seed(2)
truth = torch.nn.functional.normalize(torch.randn(36, 36), dim=1)
codes = dist.Laplace(0.0, 1.0).sample((400 if SMOKE else 4000, 36))
known_x = codes @ truth + 0.1 * torch.randn(len(codes), 36)
recovered = {}
for name in ("Laplace", "Gaussian"):
    torch.manual_seed(0)
    model = SparseLinear(36, 36, priors[name])
    guide = Ridge(model, 32)
    train(model, guide, known_x, 2 if SMOKE else 60, 1e-2)
    atoms = model.atoms.detach().numpy()
    best = np.abs(truth.numpy() @ (atoms / np.linalg.norm(atoms, axis=0))).max(1)
    average = average_posterior(model, guide, known_x[:1000], num_samples=5, prior_samples=100).posterior
    off = np.abs(average.correlation[np.triu_indices(36, 1)]).mean()
    recovered[name] = best.mean(), best.std(ddof=1) / len(best) ** 0.5, average.covariance.diagonal().mean(), off
    print(f"{name:10s}best |cosine| with a true atom {best.mean():.3f} +- {recovered[name][1]:.3f}", end="")
    print(f"; average posterior: mean variance {recovered[name][2]:.3f}, mean |correlation| {off:.3f}")

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    word = holds if isinstance(holds, str) else "holds" if holds else "does not hold"
    print(f"* {word}: {claim}")


def gain(first, second):
    """Mean of a paired difference, and its error over data."""
    d = first - second
    return d.mean(), d.std(ddof=1) / len(d) ** 0.5


small, large = (gain(elbos["Laplace", noise], elbos["Gaussian", noise]) for noise in (0.3, 3.0))
free = [abs(value) < 2 * error for value, error in (small, large)]
verdict(
    "holds" if all(free) else "does not hold" if not any(free) else "holds only for one of the two noises",
    "the prior does not matter to the held-out ELBO "
    f"(Laplace less Gaussian: {small[0]:+.2f} +- {small[1]:.2f} nats at noise .3, {large[0]:+.3f} +- {large[1]:.3f} at 3)",
)
value, error = means["Laplace", 0.3]
verdict(
    abs(value - 1) < 0.05 + 2 * error,
    f"E|z| of a Laplace's average posterior is the prior's, little noise ({value:.3f} +- {error:.3f} against 1)",
)
average = averages["Laplace", 0.3].posterior
surely = np.abs(average.kurtosis - 3) > 3 * average.kurtosis_error
verdict(
    not surely.any(),
    f"so is its kurtosis (excess {np.median(average.kurtosis):.2f} against 3 in the median; "
    f"{surely.mean():.0%} of units differ by 3 errors)",
)
average = averages["Gaussian", 0.3].posterior
surely = np.abs(average.kurtosis) > 3 * average.kurtosis_error
verdict(
    surely.mean() < 0.05,
    f"codes under a Gaussian prior are Gaussian (excess kurtosis {np.median(average.kurtosis):.2f} in the median; "
    f"{surely.mean():.0%} of units differ from 0 by 3 errors)",
)
matrix = stein[0.3]
off = ~torch.eye(len(corner), dtype=torch.bool)
z = (matrix.value / matrix.error)[off].abs()
verdict(
    (z > 4).double().mean() < 0.01,
    f"the trained diagonal guide is unbiased by Stein's identity ({(z > 4).double().mean():.0%} of the off-diagonal "
    f"entries are 4 errors from zero; the diagonal is {matrix.value.diagonal().mean():.3f} on average)",
)
cut = cuts["Laplace", 3.0]
verdict(
    cut.marginal_kl < 0.1 * cuts["Laplace", 0.3].marginal_kl,
    f"with much noise average posterior and prior agree (marginal KL {cut.marginal_kl:.3f} +- {cut.errors[2]:.3f} nats "
    f"against {cuts['Laplace', 0.3].marginal_kl:.3f} at little noise)",
)
near, far = growth[0.3], growth[3.0]
verdict(
    near[-1].information - near[1].information < 0.2,
    f"with little noise the information is a property of the code ({near[0].information:.2f} nats for {sizes[0]} data, "
    f"{near[-1].information:.2f} for {sizes[-1]}, caps {near[0].cap:.2f} and {near[-1].cap:.2f})",
)
verdict(
    far[-1].information - far[1].information < 0.2,
    f"with much noise it is ({far[0].information:.3f}, {far[1].information:.3f}, {far[-1].information:.3f} nats)",
)
inform = [cuts[name, 0.3].information for name in priors]
verdict(
    max(inform) - min(inform) > 0.1,
    "with little noise it tells the priors apart ({:.3f}, {:.3f}, {:.3f} nats for Laplace, Cauchy, Gaussian)".format(
        *inform
    ),
)
rich_p, rich_q = (graded[k] for k in ("flow prior, diagonal guide", "normal prior, flow guide"))
plain = graded["normal prior, diagonal guide"]
value, error = gain(rich_p.elbo, plain.elbo)
verdict(value > 2 * error, f"a flow as prior raises the VAE's held-out ELBO ({value:+.3f} +- {error:.3f} nats)")
value, error = gain(rich_q.elbo, plain.elbo)
verdict(value > 2 * error, f"a flow as guide raises it ({value:+.3f} +- {error:.3f} nats)")
value, error = gain(rich_p.elbo, rich_q.elbo)
verdict(abs(value) < 2 * error, f"a rich prior and a rich guide are worth the same ({value:+.3f} +- {error:.3f} nats)")
a, b = (cut_of[f"{name} prior, diagonal guide"] for name in ("flow", "normal"))
value, error = a.information - b.information, math.hypot(a.errors[1], b.errors[1])
verdict(
    value > 3 * error,
    f"the flow prior raises the information ({value:+.3f} +- {error:.3f} nats, to {a.information:.3f} of {a.cap:.3f})",
)
verdict(
    a.marginal_kl < b.marginal_kl - 3 * math.hypot(a.errors[2], b.errors[2]),
    f"and lowers the marginal KL ({a.marginal_kl:.3f} +- {a.errors[2]:.3f} against {b.marginal_kl:.3f} nats)",
)
verdict(
    abs(ends["exact"] - 2) < 0.3,
    "with the exact posterior a self-consistent prior is that of maximum likelihood "
    f"(variance {ends['exact']:.3f}, exact 2)",
)
verdict(
    ends["points"] > 1e-3,
    f"codes that are points have a self-consistent prior, too (variance {ends['points']:.1e} after 15 rounds)",
)
verdict(
    abs(ends["points, floor .5"] - 0.25) < 0.01,
    f"a floor alone holds it, at the floor (variance {ends['points, floor .5']:.3f} of .25)",
)
best = min(left, key=lambda k: left[k].marginal_kl)
gaussian = left["Gaussian"]
verdict(
    gaussian.marginal_kl < 0.05,
    "a refitted Gaussian agrees with the VAE's codes "
    f"(marginal KL {gaussian.marginal_kl:.3f} +- {gaussian.errors[2]:.3f} nats "
    f"left of {left['N(0, I)'].marginal_kl:.3f}; the best family, {best}, leaves {left[best].marginal_kl:.3f})",
)
(a, ea, *_), (b, eb, variance, off) = recovered["Laplace"], recovered["Gaussian"]
verdict(
    abs(variance - 1) < 0.1 and off < 0.1,
    f"a Gaussian prior's second moments agree with its codes' (mean variance {variance:.3f}, mean |correlation| {off:.3f})",
)
verdict(
    b > a - 2 * math.hypot(ea, eb),
    "and its units mean what a Laplace's do "
    f"(best |cosine| with a true atom {b:.3f} +- {eb:.3f} against {a:.3f} +- {ea:.3f})",
)
