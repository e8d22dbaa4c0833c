# %% [markdown]
# # Finding bugs with Bayes' loop
#
# **Question.** A guide trains, its bound rises, its samples look right. Does it draw from the posterior? Where the posterior
# is known one can look; elsewhere there is a loop that closes without it. Draw z from the prior and x from p(x | z), infer z
# from x, and compare what was inferred with what was drawn. If q is the posterior, then
# 1. the truth is one more draw: its rank among the guide's draws is uniform, in *any* quantity f(z, x);
# 2. the average posterior over data sets is the prior, in location and in scale.
#
# **Measured here:** one bug planted at a time, which statistic finds it, and which must stay silent.
# 1. No bug: nothing is flagged, and what the statistics are.
# 2. Seven bugs in a model of one latent, and how many data sets each needs.
# 3. Two bugs in a hierarchy: a layer that p ignores, a layer that q ignores.
# 4. Correlations left out: coverage of the joint posterior.
# 5. A bug that the loop cannot see: the model is wrong. Replicated data see it.
# 6. Global latents: a full-rank Gaussian on eight schools, refitted to each data set.
#
# **Sources.** Talts et al. (2018), https://arxiv.org/abs/1804.06788; Geweke (2004),
# https://doi.org/10.1198/016214504000001132; Modrak et al. (2023), https://arxiv.org/abs/2211.02383 (why the log-likelihood
# is among the quantities); Lemos et al. (2023), https://arxiv.org/abs/2302.03026; Sailynoja et al. (2022),
# https://arxiv.org/abs/2103.10522. Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import os

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import Exact, FullRank, Guide
from pyrarchy.inference import bayes_loop, evaluate, fit, nearest_truth, predictive_check, tarp
from pyrarchy.plots import rank_ecdf, replicates
from pyrarchy.zoo import PPCA, EightSchoolsNonCentred, GaussianTree

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))
torch.manual_seed(0)

# %% [markdown]
# ## 1. A model of one latent
#
# $z \sim N(0, 1)$, and four readings $x_j \sim N(z, .8)$ of it. The posterior is Gaussian, with precision
# $1 + 4 / .64$. Rows are data sets: one pass of the guide answers for a thousand of them.


# %%
class Readings(PyroModule):
    """z1 ~ N(0, prior), x_j ~ N(z1, noise) for the first ``used`` of the columns of x."""

    def __init__(self, prior=1.0, noise=0.8, used=4):
        super().__init__("model")
        self.prior, self.noise, self.used = prior, noise, used

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z1", dist.Normal(x.new_zeros(1), self.prior).to_event(1))
            mean = z.expand(*z.shape[:-1], self.used)
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x[:, : self.used])

    def moments(self, x):
        precision = 1 / self.prior**2 + self.used / self.noise**2
        return x[:, : self.used].sum(-1, keepdim=True) / self.noise**2 / precision, precision**-0.5

    def posterior(self, x):
        return dist.Normal(*self.moments(x)).to_event(1)


x = torch.zeros(3, 4)  # only the shape matters: the loop simulates its own
right = Readings()
loops = {"no bug": bayes_loop(right, Exact(right), x)}
print(loops["no bug"].table())

# %% [markdown]
# The rows are quantities f: the latent, and always log p(x | z) and log p(x, z). Under *p of ranks*: chi-square of the
# histogram and Kolmogorov-Smirnov. Under *z of ranks*: are ranks too high on average (the draws lie too low), and are they
# too far out (the draws too narrow). Under *z of average*: does the average posterior lie above the prior, and is it wider.
# A star is a p below the false-alarm rate, one in a thousand for the whole table, shared out over all of it.
#
# ## 2. One bug at a time
#
# Three sit in the guide, three in the model that the guide was derived from (its posterior is right for the wrong model: the
# loop simulates from the right one), and the last guide does nothing at all.


# %%
class Altered(Guide):
    """The exact posterior with its mean moved by ``shift`` scales and its scale passed through ``scale``."""

    def __init__(self, model, shift=0.0, scale=lambda s: s):
        super().__init__(model)
        self.shift, self.scale = shift, scale

    def encode(self, x):
        mean, scale = self.model.moments(x)
        return dist.Normal(mean + self.shift * scale, self.scale(scale)).to_event(1)

    def posterior(self, name, prior):
        return self.evidence


class ReturnsPrior(Guide):
    """The model's prior at each site, whatever the data."""

    def posterior(self, name, prior):
        return prior


noisy, flat, short = Readings(noise=0.8**2), Readings(prior=1000.0), Readings(used=2)
BUGS = {
    "biased by .4 scales": (right, Altered(right, shift=0.4)),
    "overconfident by .7": (right, Altered(right, scale=lambda s: 0.7 * s)),
    "q: variance as scale": (right, Altered(right, scale=lambda s: s**2)),
    "p: variance as scale": (noisy, Exact(noisy)),
    "p: missing prior term": (flat, Exact(flat)),
    "p: ignores 2 columns": (short, Exact(short)),
    "q: returns the prior": (right, ReturnsPrior(right)),
}
SIZES = (50, 200, 1000)
first = {}
print(f"{'bug':24s}{'data sets':>10s}  {'flagged in z1':44s}in log p(x | z), log p(x, z)")
for bug, (model, guide) in BUGS.items():
    for num in SIZES:
        found = bayes_loop(model, guide, x, simulator=right, num=num)
        if found.flagged:
            first.setdefault(bug, num)
    loops[bug], flags = found, found.flagged_by()
    words = ", ".join(flags.get("z1", ["-"]))
    others = ", ".join(n for n in ("log_lik", "log_joint") if n in flags) or "-"
    print(f"{bug:24s}{first.get(bug, '-'):>10}  {words:44s}{others}")


def z_score(bug, statistic, quantity="z1"):
    return float(loops[bug].tests[statistic][0][loops[bug].names.index(quantity)])


# %% [markdown]
# `data sets` is the least of 50, 200 and 1000 at which anything is flagged. Two rows are worth a thought.
#
# *Missing prior.* Under a flat prior q = N(mean(x), .8 / 2), and z - mean(x) has exactly that law whatever z is: the ranks
# of z1 are uniform. What is wrong is the average posterior: its variance is that of z + two errors, 1.32 in place of 1.
#
# *Ignoring columns, or all data.* The posterior given half of the data is a right posterior, of less data. Its average is
# the prior; its ranks in z are uniform. The log-likelihood of *all* data is what it gets wrong: the truth fits the
# unread columns better than the draws do.
#
# The picture is the ECDF of the ranks less the uniform's, with a band that holds 95 % of all right lines from end to end.

# %%
rank_ecdf({bug: loop.ranks[:, 0] for bug, loop in loops.items()}, 99)

# %%
rank_ecdf({bug: loop.ranks[:, 1] for bug, loop in loops.items() if "q:" not in bug}, 99)

# %% [markdown]
# ## 3. Layers that are not used
#
# A tree z2 -> z1 -> x, whose exact posterior is known. First p ignores the top layer (a = 0: z1 does not depend on z2), as a
# trained hierarchy may end up doing: its posterior is its prior, a guide that returns it is *right*, and no
# test of inference can object. Rates do. Then p uses z2, z1 comes from its exact posterior, and only q(z2) has collapsed.


# %%
class CollapsedTop(GaussianTree):
    """``posterior`` has the exact p(z1 | x), and the prior for z2."""

    def posterior(self, x):
        t2, s2, d = self.z1_scale**2, self.x_scale**2, self.x_dim
        prior = t2 * torch.eye(d) + self.a**2 * torch.ones(d, d)
        covariance = (prior.inverse() + torch.eye(d) / s2).inverse()
        z1 = dist.MultivariateNormal(x @ covariance / s2, covariance)
        return {"z2": dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1), "z1": z1}


leaves = torch.zeros(3, 3)
trees = {"no bug": GaussianTree(3), "p ignores z2": GaussianTree(3, a=0.0), "q ignores z2": CollapsedTop(3)}
top = {}
for label, tree in trees.items():
    loops[label + " (tree)"] = loop = bayes_loop(tree, Exact(tree), leaves)
    data = torch.from_numpy(loop.data[:300]).float()
    graded = evaluate(tree, Exact(tree), data, num_samples=100)
    top[label] = graded.rates["z2"], graded.active_units()["z2"][0]
    words = ", ".join(f"{name} ({', '.join(found)})" for name, found in loop.flagged_by().items()) or "nothing"
    print(f"{label:14s} rate of z2 {top[label][0]:6.3f} nats, active units {top[label][1]} of 1, flagged: {words}")

# %% [markdown]
# ## 4. Correlations left out
#
# PPCA with two loadings that nearly agree: the posterior is strongly correlated. The guide below has both exact marginals
# and no correlation. Each unit's ranks are uniform. TARP counts, for a random reference point, the draws that lie nearer to
# it than the truth does: a rank of the joint posterior. A reference that is blind to the data passes a guide that
# returns the prior, as every f(z) does; one that has seen data like these does not.


# %%
class Marginals(Guide):
    """The exact marginals of each unit, as if independent."""

    def encode(self, x):
        q = self.model.posterior(x)
        return dist.Normal(q.mean, q.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()).to_event(1)

    def posterior(self, name, prior):
        return self.evidence


pair = PPCA(4, 2)
with torch.no_grad():
    pair.loadings.copy_(torch.tensor([[2.0, 1.8], [2.0, 2.0], [1.0, 1.4], [0.6, -0.2]]))
q = pair.posterior(torch.zeros(1, 4)).covariance_matrix[0].detach()
print(f"posterior correlation {float(q[0, 1] / (q[0, 0] * q[1, 1]) ** 0.5):.2f}")
coverage = {}
for label, guide in (("exact", Exact(pair)), ("marginals", Marginals(pair)), ("prior", ReturnsPrior(pair))):
    loops[label + " (PPCA)"] = loop = bayes_loop(pair, guide, x, num=2000)
    coverage[label] = tarp(loop)
    coverage[label + ", nearest"] = tarp(loop, references=nearest_truth)
    print(f"{label}: units flagged {sorted({'z1[0]', 'z1[1]'} & set(loop.flagged_by()))}")
print("joint posterior          coverage at 50 %, 90 %   flagged")
for label, found in coverage.items():
    words = ", ".join(flag.statistic for flag in found.flagged) or "nothing"
    print(f"{label:24s}{found.coverage(0.5):13.3f}{found.coverage(0.9):9.3f}    {words}")

# %%
rank_ecdf({label: found.ranks for label, found in coverage.items()}, 99, xlabel="credibility of the ball")

# %% [markdown]
# ## 5. The model is wrong
#
# The loop simulates from the model: the data are right by construction. Here the data come with Student noise, PPCA is
# fitted by maximum likelihood with its exact posterior, and its loop is clean. Replicated data are not like these.

# %%
clean = pair.mean.new_zeros(300, 2).normal_() @ pair.loadings.detach().mT
outcome = {}
for label, noise in (("Gaussian", torch.randn(300, 4)), ("Student", dist.StudentT(2.0).sample((300, 4)))):
    y = clean + noise
    model = PPCA(4, 2)
    model.maximize_likelihood(model.statistics(y))
    closed = bayes_loop(model, Exact(model), y)
    check = predictive_check(model, Exact(model), y)
    outcome[label] = closed, check
    print(f"{label} noise: the loop flags {len(closed.flagged)}, replicated data {check.flagged or 'nothing'}")
    print(check.table())

# %%
replicates(outcome["Student"][1].tables())

# %% [markdown]
# ## 6. Eight schools: a fit for every data set
#
# With global latents there is one posterior per data set, so the guide is trained anew on each: a full-rank Gaussian on the
# non-centred form, 300 steps. That is a second each; tests of sixty ranks see large errors only.

# %%
schools = EightSchoolsNonCentred()
errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def trained(y, sigma):
    guide = FullRank(schools, y, sigma)
    fit(schools, guide, (y, sigma), steps=30 if SMOKE else 300, optimizer=0.03)
    return guide


refits = bayes_loop(schools, None, (torch.zeros(8), errors), fit=trained, num=20 if SMOKE else 60)
print(refits.table(8))
tau = refits.names.index("tau")
tau_scale, tau_average = (float(refits.tests[name][0][tau]) for name in ("rank scale", "scale"))

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


def flagged(loop, quantity):
    return loops[loop].flagged_by().get(quantity, [])


exact = ("no bug", "no bug (tree)", "exact (PPCA)")
count = sum(len(loops[name].flagged) for name in exact)
verdict(count == 0, f"exact posteriors are not flagged ({count} flags in {len(exact)} loops)")
found = sum(bool(loops[bug].flagged) for bug in BUGS)
verdict(found == len(BUGS), f"1,000 data sets find every bug in q or in its p ({found} of {len(BUGS)})")
early = sum(num == 50 for num in first.values())
verdict(early == len(BUGS), f"so do 50 ({early} of {len(BUGS)})")
names = ("biased by .4 scales", "overconfident by .7", "q: variance as scale", "p: variance as scale")
seen = sum(bool(flagged(bug, "z1")) for bug in names)
verdict(seen == 4, f"bias and wrong widths show in the ranks of the latent ({seen} of 4)")
bug = "overconfident by .7"
location, scale = z_score(bug, "rank mean"), z_score(bug, "rank scale")
verdict(
    abs(location) < 4 < scale,
    f"an overconfident guide widens the ranks and leaves their mean (z {scale:+.1f}, {location:+.1f})",
)
bug = "p: missing prior term"
location, scale = z_score(bug, "rank scale"), z_score(bug, "scale")
verdict(
    "rank scale" in flagged(bug, "z1"),
    f"a missing prior term shows in the ranks of the latent (z {location:+.1f})",
)
verdict("scale" in flagged(bug, "z1"), f"it shows in the scale of the average posterior (z {scale:+.1f})")
for bug in ("p: ignores 2 columns", "q: returns the prior"):
    worst = loops[bug].least_p()[0]
    verdict(bool(flagged(bug, "z1")), f"{bug[3:]}: some function of the latent alone shows it (least p {worst:.3f})")
    score = z_score(bug, "rank mean", "log_lik")
    verdict(bool(flagged(bug, "log_lik")), f"{bug[3:]}: the log-likelihood shows it (z of its ranks {score:+.1f})")
rate, active = top["p ignores z2"]
number = len(loops["p ignores z2 (tree)"].flagged)
verdict(number > 0, f"the loop shows a layer that p ignores ({number} flags)")
verdict(abs(rate) < 0.01 and active == 0, f"its rate and active units do ({abs(rate):.3f} nats, {active})")
others = set(loops["q ignores z2 (tree)"].flagged_by())
score = z_score("q ignores z2 (tree)", "rank mean", "log_joint")
verdict(
    others == {"log_joint"}, f"a layer that q alone ignores shows in log p(x, z), and nowhere else (z {score:+.1f})"
)
missed = sorted({"z1[0]", "z1[1]"} & set(loops["marginals (PPCA)"].flagged_by()))
verdict(bool(missed), f"correlations left out show in the ranks of single units ({len(missed)} of 2)")
score = coverage["marginals"].tests["rank scale"][0]
verdict(
    bool(coverage["marginals"].flagged),
    f"they show in the coverage of the joint posterior (z {score:+.1f})",
)
blind, near = (coverage[name].tests["rank mean"][1] for name in ("prior", "prior, nearest"))
verdict(bool(coverage["prior"].flagged), f"coverage tells the prior from a posterior (p {blind:.2g})")
verdict(bool(coverage["prior, nearest"].flagged), f"it does with references that saw the data (p {near:.2g})")
closed, check = outcome["Student"]
verdict(bool(closed.flagged), f"the loop shows that the likelihood is wrong ({len(closed.flagged)} flags)")
verdict(bool(check.flagged), f"replicated data show it ({len(check.flagged)} of 8 statistics)")
number = len(outcome["Gaussian"][1].flagged)
verdict(number == 0, f"they are silent where it is right ({number} flags)")
verdict(
    tau_scale > 3 and tau_average < -2,
    f"eight schools' full-rank guide is too narrow in tau (z of ranks {tau_scale:+.1f}, of average {tau_average:+.1f})",
)
