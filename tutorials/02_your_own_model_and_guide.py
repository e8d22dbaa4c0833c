# %% [markdown]
# # Your own model and guide in thirty lines
#
# **Question.** What does it take to add a model and a guide of one's own, and would one notice if the guide were wrong?
#
# The model: counts over five weeks of people who differ in their rate,
# $z_1 \sim \mathrm{Gamma}(a, b)$, $x_j \mid z_1 \sim \mathrm{Poisson}(z_1)$. It is chosen because all is known
# exactly: $p(z_1|x) = \mathrm{Gamma}(a + \sum_j x_j, b + 5)$ and $\log p(x)$ in closed form. The guide is a log-normal,
# its parameters a small network of x: close to the posterior, and not it.
#
# **Measured here:** the parameters found against the maximum likelihood; the bound and the importance-sampled log p(x)
# against the exact one; the posterior in ArviZ against the exact one; and six guides broken on purpose: which
# are caught, by what.
#
# **Sources.** The model is Greenwood and Yule (1920), https://doi.org/10.2307/2341080; k-hat: Yao et al. (2018),
# https://arxiv.org/abs/1802.02538. Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import os

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

import pyrarchy
from pyrarchy.guides import Guide
from pyrarchy.inference import check_pair, evaluate, fit, to_inference_data
from pyrarchy.plots import k_hat_histogram, loss_curves, profile_grid
from pyrarchy.zoo.networks import mlp

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))
WEEKS, PEOPLE, HELD_OUT = 5, 400, 200
rng = np.random.default_rng(0)
rates = rng.gamma(2.0, 1 / 0.5, PEOPLE + HELD_OUT)
counts = rng.poisson(rates[:, None], (PEOPLE + HELD_OUT, WEEKS)).astype(np.float32)
x, x_test = torch.from_numpy(counts[:PEOPLE]), torch.from_numpy(counts[PEOPLE:])
print(f"{PEOPLE} people to fit, {HELD_OUT} held out; mean count {x.mean():.2f}")

# %% [markdown]
# ## The thirty lines
#
# A model is a `PyroModule` with the root name "model": local latents and data sit in the plate `data`, vectors take
# `.to_event(1)`, and whatever is computed from a latent lets extra axes pass on the left (`unsqueeze(-1)`, not
# `[:, None]`), for particles. A guide overrides one method: at each latent site it is handed the model's prior and
# returns what is sampled instead. `encode` runs once per pass.


# %%
class GammaPoisson(PyroModule):
    """z1 ~ Gamma(shape, rate), x_j | z1 ~ Poisson(z1)."""

    def __init__(self):
        super().__init__("model")
        self.raw_shape, self.raw_rate = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Gamma(softplus(self.raw_shape), softplus(self.raw_rate)))
            pyro.sample("x", dist.Poisson(z1.unsqueeze(-1).expand(*z1.shape, x.shape[1])).to_event(1), obs=x)


class LogNormalGuide(Guide):
    """q(z1 | x) = LogNormal(m(x), s(x)), m and s by a network."""

    def __init__(self, model, x_dim):
        super().__init__(model)
        self.network = mlp((x_dim, 16, 2), last=False)

    def encode(self, x):
        return self.network(torch.log1p(x))

    def posterior(self, name, prior):
        loc, raw_scale = self.evidence.unbind(-1)
        return dist.LogNormal(loc, 0.01 + softplus(raw_scale))


def build(kind=LogNormalGuide):
    """A fresh pair from one seed, the generator outside left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GammaPoisson()
        return model, kind(model, WEEKS)


# %% [markdown]
# ## Checked before it is trusted
#
# `check_pair` runs the pair in every way that a driver will: sites, finite loss, a gradient for every parameter, shapes
# under particles, no datum leaning on another.

# %%
model, guide = build()
print(check_pair(model, guide, x[:7]))

# %% [markdown]
# ## Fitted

# %%
steps = 300 if SMOKE else 3000
decay = lambda step: 0.01 ** (step / steps)  # noqa: E731
record = fit(model, guide, x, optimizer=0.02, steps=steps, batch_size=100, schedule=decay)
loss_curves({"ELBO": (np.arange(1, steps + 1), record.values)}, ylabel="ELBO (nats per datum)")


# %% [markdown]
# ## Against the exact answer
#
# The closed form, in float64, and its maximum by a hundred steps of `torch.optim.LBFGS` on the two parameters.


# %%
def exact(shape, rate, x):
    """log p(x) per person, nats, and the posterior of z1."""
    x = x.double()
    total, posterior = x.sum(-1), dist.Gamma(shape + x.sum(-1), rate + x.shape[1])
    constant = shape * rate.log() - shape.lgamma() - (x + 1).lgamma().sum(-1)
    return constant + (shape + total).lgamma() - (shape + total) * (rate + x.shape[1]).log(), posterior


def parameters(model):
    return softplus(model.raw_shape.detach()).double(), softplus(model.raw_rate.detach()).double()


free = torch.zeros(2, dtype=torch.float64, requires_grad=True)
newton = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")


def loss():
    newton.zero_grad()
    value = -exact(*free.exp(), x)[0].mean()
    value.backward()
    return value


newton.step(loss)
best = exact(*free.detach().exp(), x)[0].mean().item()
fitted = exact(*parameters(model), x)[0].mean().item()
print("                     shape    rate   log p(train), nats per person")
print(f"maximum likelihood {free[0].exp().item():7.3f}{free[1].exp().item():8.3f}{best:12.4f}")
print(f"SVI with the guide {parameters(model)[0].item():7.3f}{parameters(model)[1].item():8.3f}{fitted:12.4f}")

# %% [markdown]
# Held out: the importance-sampled estimate against the exact value *of the fitted model*. Both are averages over the same
# people, so the error of the estimate is judged by the standard error of the paired difference.


# %%
def grade(model, guide):
    """Figures of a pair on the held-out people: gap, error of the estimated log p with standard errors, k-hat."""
    graded = evaluate(model, guide, x_test, num_samples=200 if SMOKE else 1000)
    truth = exact(*parameters(model), x_test)[0].numpy()
    gap, error = truth - graded.elbo, graded.log_p - truth
    bar = len(truth) ** 0.5
    return graded, truth, (gap.mean(), gap.std(ddof=1) / bar), (error.mean(), error.std(ddof=1) / bar)


graded, truth, gap, error = grade(model, guide)
print(f"exact log p(x)       {truth.mean():9.4f} nats per person")
print(f"importance-sampled   {graded.mean_log_p:9.4f}   error {error[0]:+.5f} +- {error[1]:.5f}")
print(f"ELBO                 {graded.mean_elbo:9.4f}   gap {gap[0]:.5f} +- {gap[1]:.5f}")
print(f"k-hat                median {np.median(graded.k_hat):.2f}, largest {graded.k_hat.max():.2f}")

# %% [markdown]
# ## In ArviZ

# %%
idata = to_inference_data(model, guide, (x_test[:20],), num_samples=300 if SMOKE else 2000, record=record)
draws = idata["posterior"]["z1"].values[0]
posterior = exact(*parameters(model), x_test[:20])[1]
mean_error = np.abs(draws.mean(0) - posterior.mean.numpy()) / posterior.stddev.numpy()
spread = draws.std(0) / posterior.stddev.numpy()
print("groups:", ", ".join(sorted(idata.children if hasattr(idata, "children") else idata.groups())))
print(f"means off by {mean_error.mean():.3f} posterior sd on average, sd off by a factor {spread.mean():.3f}")

# %% [markdown]
# ## Broken on purpose
#
# Six guides, each wrong in one way that happens in practice. The first four are errors before the first step, with the
# site or parameter named. The last two are *legal* guides: no check of shapes can refuse them, only the figures can.


# %%
class Typo(LogNormalGuide):
    """An ordinary Pyro guide that samples a site which the model does not have."""

    def __call__(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.LogNormal(torch.zeros(len(x)), 1.0))


class Unused(LogNormalGuide):
    """A network that nothing reads."""

    def __init__(self, model, x_dim):
        super().__init__(model, x_dim)
        self.forgotten = nn.Linear(x_dim, 1)


class Coupled(LogNormalGuide):
    """Reads the whole batch for each datum."""

    def encode(self, x):
        return self.network(torch.log1p(x - x.mean(0) + 5))


class WrongShape(LogNormalGuide):
    """Keeps an axis too many."""

    def posterior(self, name, prior):
        loc, raw_scale = self.evidence.unbind(-1)
        return dist.LogNormal(loc, 0.01 + softplus(raw_scale)).expand([WEEKS, len(loc)]).to_event(1)


class Overconfident(LogNormalGuide):
    """A third of the spread that it should have."""

    def posterior(self, name, prior):
        q = super().posterior(name, prior)
        return dist.LogNormal(q.loc, q.scale / 3)


class Deaf(LogNormalGuide):
    """Looks at the first week only."""

    def encode(self, x):
        return self.network(torch.log1p(x[:, :1]).expand(-1, WEEKS))


refused = {}
for kind in (Typo, Unused, Coupled, WrongShape, Overconfident, Deaf):
    pair = build(kind)
    plain = kind.__call__.__get__(pair[1]) if kind is Typo else pair[1]
    try:
        check_pair(pair[0], plain, x[:7])
        refused[kind.__name__] = ""
    except (ValueError, TypeError) as caught:
        refused[kind.__name__] = str(caught)
    print(f"{kind.__name__}: {refused[kind.__name__][:110] or 'passes the check'}")

# %% [markdown]
# The two legal ones, with the fitted model held fixed: `Overconfident` borrows the good guide's network as it is, `Deaf`
# trains its own. (The optimiser's factory is handed all tensors and picks the guide's: `requires_grad_(False)` is no way
# to hold a `PyroModule` fixed, because reading a parameter turns it on again.)

# %%
before = parameters(model)
broken = {"good": guide, "Overconfident": Overconfident(model, WEEKS), "Deaf": Deaf(model, WEEKS)}
broken["Overconfident"].network = guide.network
own = {id(parameter) for parameter in broken["Deaf"].parameters()}
only_own = lambda tensors: torch.optim.Adam([t for t in tensors if id(t) in own], lr=0.02)  # noqa: E731
fit(model, broken["Deaf"], x, optimizer=only_own, steps=steps, batch_size=100, schedule=decay)
print(f"model moved by {max(abs(a - b).item() for a, b in zip(before, parameters(model), strict=True)):.1f}")
figures = {}
print("guide            gap (nats)        error of log p        k-hat > .7   effective samples (median share)")
for name, other in broken.items():
    found, _, gap_of, error_of = grade(model, other)
    share = float((found.k_hat > 0.7).mean())
    figures[name] = found, gap_of, error_of, share
    gaps, errors = f"{gap_of[0]:.4f} +- {gap_of[1]:.4f}", f"{error_of[0]:+.4f} +- {error_of[1]:.4f}"
    print(f"{name:15s}{gaps:>18s}{errors:>20s}{share:13.0%}{np.median(found.ess) / found.num_samples:13.0%}")
found = figures["good"][0]
alarmed = found.k_hat > 0.7
ess_alarmed = float(np.median(found.ess[alarmed]) / found.num_samples) if alarmed.any() else float("nan")
print(f"good guide: of the {alarmed.sum()} people with k-hat above .7 the median effective share is {ess_alarmed:.0%}")

# %% [markdown]
# Mind the first line. A log-normal has too little mass near zero for a gamma, so that for infinitely many draws the weights
# are heavy-tailed and k-hat is right to be uneasy. But at this number of draws they hardly vary, and k-hat, which
# sees only the *shape* of the largest weights and not how much they vary, cries wolf. Read it beside the effective
# sample size, and with an exact log p(x) beside both, as here.

# %%
k_hat_histogram(figures["Overconfident"][0].k_hat)

# %% [markdown]
# ## As a row
#
# A decorated function makes the pair a row: it then has `pyrarchy check`, `pyrarchy fit`, a report, and the contract
# tests. Put it in a module of your own and name it `my_module:gamma_poisson` wherever a pair's name is asked for, or
# announce it to everyone with the entry-point group `pyrarchy.pairs` (`pyrarchy new gamma_poisson` writes the files).
# Counts are neither bits nor grey values, and "gaussian" here means no more than "real numbers, taken as they are".


# %%
@pyrarchy.pair(
    "gamma_poisson",
    model="GammaPoisson",
    guide="LogNormalGuide",
    density="z1 ~ Gamma(shape, rate);  x_j | z1 ~ Poisson(z1)",
    likelihood="gaussian",
    source=pyrarchy.Source(
        "Greenwood, Major and Yule, G. Udny", 1920, "Repeated events", "https://doi.org/10.2307/2341080"
    ),
    training=pyrarchy.Training(steps=3000, batch_size=100, lr=0.02, decay=0.01),
)
def gamma_poisson(data):
    """Counts of people who differ in their rate, with a log-normal guide."""
    model = GammaPoisson()
    return model, LogNormalGuide(model, data.dim)


people = pyrarchy.Dataset("people", counts[:PEOPLE], counts[PEOPLE:])
row_check = check_pair(*gamma_poisson(people, seed=3), x[:7])
print(f"{gamma_poisson.name}: {gamma_poisson.summary}")
print(f"source: {gamma_poisson.source.key}; {row_check.num_parameters} trainable numbers")

# %%
profile_grid({"counts, people as lines": counts[:40]}, names=[f"week {i + 1}" for i in range(WEEKS)], ylabel="person")

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


verdict(best - fitted < 0.01, f"SVI finds the maximum likelihood ({best - fitted:.5f} nats per person below it)")
verdict(
    abs(error[0]) < 4 * error[1] + 1e-3,
    f"importance sampling gives the exact log p (error {error[0]:+.5f} +- {error[1]:.5f} nats)",
)
verdict(
    gap[0] < 4 * gap[1],
    f"a log-normal guide is exact for a gamma posterior (gap {gap[0]:.5f} +- {gap[1]:.5f} nats)",
)
structural = [name for name in ("Typo", "Unused", "Coupled", "WrongShape") if refused[name]]
verdict(len(structural) == 4, f"guides wrong in structure are refused before training ({len(structural)} of 4)")
passed = [name for name in ("Overconfident", "Deaf") if not refused[name]]
verdict(not passed, f"so are guides wrong in value ({len(passed)} of 2 pass the check)")
good, bad, deaf = (figures[name] for name in ("good", "Overconfident", "Deaf"))
verdict(
    bad[3] > 0.5 and bad[3] > 2 * good[3],
    f"k-hat flags the overconfident guide ({bad[3]:.0%} of people above .7; the good guide {good[3]:.0%})",
)
verdict(
    not ess_alarmed > 0.5,
    "where k-hat is above .7 few samples are effective "
    f"(good guide: {ess_alarmed:.0%} effective in {good[3]:.0%} of people)",
)
verdict(
    deaf[3] > 0.5,
    f"k-hat flags the deaf guide ({deaf[3]:.0%} of people above .7)",
)
verdict(
    deaf[1][0] > 10 * good[1][0],
    f"the gap flags the deaf guide ({deaf[1][0]:.4f} +- {deaf[1][1]:.4f} nats against {good[1][0]:.4f})",
)
