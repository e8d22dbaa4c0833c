# %% [markdown]
# # Factor analysis: EM is coordinate ascent on the ELBO
#
# **Question.** What does the EM algorithm of 1977 have to do with the evidence lower bound of the variational
# autoencoder, and where does factor analysis itself go wrong?
#
# **Measured here**, with exact answers on the 8 x 8 digits and on a small simulated table:
# 1. After every E step the bound is tight (gap 0 to rounding); after every M step it is not, and the gap is
#    exactly KL(q || posterior of the new parameters). The log-likelihood never falls.
# 2. The likelihood has several maxima, and a column can lose all of its noise (a Heywood case). Is the likelihood then
#    unbounded, as is often said?
# 3. A linear VAE, trained by stochastic gradients, finds PPCA's likelihood, and picks the principal axes.
# 4. The posterior opens in ArviZ.
#
# **Sources.** Dempster, Laird and Rubin (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; Rubin and Thayer
# (1982), https://doi.org/10.1007/BF02293851; Neal and Hinton (1998), https://doi.org/10.1007/978-94-011-5014-9_12 (EM as
# coordinate ascent); Tipping and Bishop (1999), https://doi.org/10.1111/1467-9868.00196; Lucas et al. (2019),
# https://arxiv.org/abs/1911.02469. Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import math
import os
import warnings

import numpy as np
import torch
from torch.distributions import kl_divergence

import pyrarchy
from pyrarchy.guides import Exact
from pyrarchy.inference import ELBO, AnalyticELBO, Batches, evaluate, exact_em, fit, fit_em, to_inference_data
from pyrarchy.plots import image_grid, latent_scatter, loss_curves
from pyrarchy.zoo import PPCA, FactorAnalysis

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))
torch.manual_seed(0)
digits = pyrarchy.load_data("digits")
varying = digits.train.std(0) > 0  # factor analysis has no likelihood for a pixel that never changes
x = torch.from_numpy(digits.train[:, varying]).double()
print(f"digits: {len(x)} images, {x.shape[1]} of {digits.dim} pixels vary")

# %% [markdown]
# ## 1. The two steps
#
# For any Gaussian q(z|x) and any parameters the bound has a closed form,
# $\mathcal L(q, \theta) = E_q \log p_\theta(x, z) + H(q)$, and $\log p_\theta(x) - \mathcal L = KL(q \,\|\, p_\theta(z|x))$.
# It is written out here without the model's own `log_marginal`, so that the two can disagree.


# %%
def elbo(model, x, q):
    """Mean over the data of E_q[log p(x, z)] + entropy of q, in nats; q is a MultivariateNormal with batch (N,)."""
    spread = q.covariance_matrix
    residual = x - model.mean - q.mean @ model.loadings.mT
    noise = model.scale**2
    square = residual**2 + torch.einsum("dk,nkl,dl->nd", model.loadings, spread, model.loadings)
    log_lik = -0.5 * (math.log(2 * math.pi) + noise.log() + square / noise).sum(-1)
    trace = spread.diagonal(dim1=-2, dim2=-1).sum(-1)
    log_prior = -0.5 * (q.mean.shape[-1] * math.log(2 * math.pi) + (q.mean**2).sum(-1) + trace)
    return (log_lik + log_prior + q.entropy()).mean().item()


model = FactorAnalysis(x.shape[1], 8).double()
model.mean.data = x.mean(0)
steps = 20 if SMOKE else 100
likelihoods, bounds, after_e, after_m, kls = [], [], [], [], []
with torch.no_grad():
    for _ in range(steps):
        q = model.posterior(x)  # E step
        likelihoods.append(model.log_marginal(x).mean().item())
        bounds.append(elbo(model, x, q))
        after_e.append(likelihoods[-1] - bounds[-1])
        model.maximize(x, q)  # M step: the parameters move, q stays
        bounds.append(elbo(model, x, q))
        after_m.append(model.log_marginal(x).mean().item() - bounds[-1])
        kls.append(kl_divergence(q, model.posterior(x)).mean().item())
print("step   log p(x)   gap after E   gap after M   KL(q || new posterior)")
for i in [i for i in (0, 1, 2, 5, 10, 19, 50, 99) if i < steps]:
    print(f"{i + 1:4d}{likelihoods[i]:11.4f}{after_e[i]:14.1e}{after_m[i]:14.3e}{kls[i]:16.3e}")
gap_e, gap_m, kl_error = np.abs(after_e).max(), min(after_m), np.abs(np.subtract(after_m, kls)).max()
least_rise, least_climb = np.diff(bounds).min(), np.diff(likelihoods).min()
print(f"least change of the bound over a half step {least_rise:.1e}, of log p(x) over a step {least_climb:.1e}")

# %% [markdown]
# Each half step raises the bound (an E step in q, an M step in the parameters): that is coordinate ascent, and since
# the bound touches log p(x) after each E step, log p(x) cannot fall. `exact_em` is this loop and raises
# `LikelihoodFellError` should it ever do.

# %%
curve = np.arange(1, steps + 1)
loss_curves(
    {"log p(x) after the M step": (curve, np.add(bounds[1::2], after_m)), "bound": (curve, bounds[1::2])},
    ylabel="nats per datum",
    xlabel="EM step",
    log_x=True,
)

# %% [markdown]
# The library's own bound says the same of its exact guide: every importance weight is p(x), so that one sample is enough.

# %%
record = exact_em(model, x, steps=20 if SMOKE else 400)
graded = evaluate(model, Exact(model), x[:200], num_samples=30)
with torch.no_grad():
    exact_error = np.abs(graded.elbo - model.log_marginal(x[:200]).numpy()).max()
print(f"log p(x) = {record.log_likelihood:.4f} nats per datum after {record.steps} more steps")
print(f"ELBO of the exact guide against log p(x): largest error {exact_error:.1e} nats; k-hat {graded.k_hat.max():.1f}")

# %% [markdown]
# ## 2. Several maxima, and a column without noise
#
# `fit_em` climbs from several starts on the sufficient statistics alone. The table counts where they end (rounded to a
# thousandth of a nat), for two numbers of factors.


# %%
def maxima(values):
    """Distinct final values, best first, with the number of starts at each."""
    ends, counts = np.unique(np.round(values, 3), return_counts=True)
    return list(zip(ends[::-1].tolist(), counts[::-1].tolist(), strict=True))


number = {}
for factors in (2, 12):
    record = fit_em(FactorAnalysis(x.shape[1], factors), x, starts=6 if SMOKE else 16)
    number[factors] = len(maxima(record.start_values))
    ends = ", ".join(f"{value:.3f} ({count} starts)" for value, count in maxima(record.start_values))
    print(f"digits, {factors:2d} factors: {ends}")

# %% [markdown]
# Now a small table (60 rows, 6 columns, two factors), as in many a questionnaire. Watch two things: the second
# maximum, and the warning. (The seed was picked to show both: of the first six, one does.)

# %%
rng = np.random.default_rng(5)
loadings = np.array([[0.8, 0], [0.7, 0], [0.6, 0], [0.5, 0.5], [0, 0.9], [0, 0.3]])
noise = np.sqrt(np.maximum(1 - (loadings**2).sum(1), 0.05))
table = rng.standard_normal((60, 2)) @ loadings.T + noise * rng.standard_normal((60, 6))
covariance = np.cov(table.T, bias=True)
saturated = -0.5 * (6 * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + 6)
print("noise floor   log p(x)   second maximum   least noise (share of the column's variance)")
floors, best = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6), []
for floor in floors:
    small = FactorAnalysis(6, 2, noise_floor=floor)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = fit_em(small, table, starts=8 if SMOKE else 16).start_values
    best.append(max(values))
    second = next((value for value, _ in maxima(values)[1:] if best[-1] - value > 0.01), math.nan)
    least = (small.scale.detach().numpy() ** 2 / covariance.diagonal()).min()
    print(f"{floor:11.0e}{best[-1]:11.4f}{second:17.4f}{least:15.1e}")
heywood = str(caught[0].message) if caught else "none"
print("warning:", heywood)
print(f"the full covariance, which no factor model can beat: {saturated:.4f}")

# %% [markdown]
# The noise of one column runs into whatever floor it is given: the column *is* a factor. Yet the likelihood settles. It
# has to: no factor model beats the Gaussian with the sample covariance, so that as long as this is not singular (more
# rows than columns, no column a sum of others) the likelihood is bounded with no floor at all. The floor is needed where
# the covariance *is* singular, and for arithmetic.
#
# ## 3. The linear VAE: the same answer by stochastic gradients
#
# `PPCA` (one noise scale for all pixels) is solved in closed form, up to a rotation of the factors. The pair
# `linear_vae` trains the same model by SVI with q(z|x) linear in x and *diagonal*. The exact posterior is diagonal only
# where W'W is, so the bound should choose the principal axes. The control trains with the exact guide, which
# is as good at every rotation.

# %%
images = torch.from_numpy(digits.train)
closed = PPCA(digits.dim, 8)
optimum = closed.maximize_likelihood(closed.statistics(images)).log_likelihood


def off_diagonal(model):
    """Largest correlation between two columns of W: 0 where W'W is diagonal."""
    w = model.loadings.detach().double()
    w = w / w.norm(dim=0)
    return (w.mT @ w - torch.eye(w.shape[1])).abs().max().item()


def alignment(model):
    """How well the columns of W point along the principal axes: mean over columns of the largest |cosine|."""
    w, axes = model.loadings.detach().double(), closed.loadings.detach().double()
    return (w / w.norm(dim=0)).mT.matmul(axes / axes.norm(dim=0)).abs().amax(1).mean().item()


steps = 600 if SMOKE else 9000
pairs = {"diagonal guide": pyrarchy.get_pair("linear_vae")(digits, z_dim=8)}
control = pyrarchy.get_pair("linear_vae")(digits, z_dim=8)[0]  # the same first parameters
pairs["exact guide"] = (control, Exact(control))
rows, curves = {}, {}
print("guide              log p(x)   below PPCA   ELBO gap   off-diagonal before / after   alignment")
for name, (vae, guide) in pairs.items():
    before = off_diagonal(vae)
    count = steps if name == "diagonal guide" else steps // 3
    record = fit(
        vae,
        guide,
        Batches(images),
        objective=AnalyticELBO() if vae is not control else ELBO(),  # KL in closed form: for a diagonal q
        optimizer=0.03,
        steps=count,
        schedule=lambda step, count=count: 0.01 ** (step / count),
    )
    with torch.no_grad():
        value = vae.log_marginal(images).double().mean().item()
    gap = value - evaluate(vae, guide, images, num_samples=20).mean_elbo
    rows[name] = optimum - value, gap, before, off_diagonal(vae), alignment(vae)
    curves[name] = np.arange(1, count + 1), record.values
    below, gap, before, after, aligned = rows[name]
    print(f"{name:16s}{value:11.4f}{below:13.4f}{gap:11.4f}{before:16.3f} / {after:.3f}{aligned:18.3f}")
print(f"PPCA, closed form{optimum:10.4f}{0:13.4f}{0:11.4f}{'':13s}-- / {off_diagonal(closed):.3f}{1:18.3f}")

# %% [markdown]
# Both reach the likelihood, and only the diagonal guide finds the axes. The rotation is the slow part: the likelihood
# does not depend on it, only the last hundredths of the gap do.

# %%
loss_curves(curves, ylabel="ELBO (nats per datum)")


# %%
def columns(model):
    """The columns of W as images, the longest first."""
    w = model.loadings.detach().numpy()
    return w[:, np.argsort(-np.linalg.norm(w, axis=0))].T


image_grid(
    {
        "PPCA's principal axes": columns(closed),
        "linear VAE, diagonal guide": columns(pairs["diagonal guide"][0]),
        "the same model, exact guide": columns(pairs["exact guide"][0]),
    },
    (8, 8),
    columns=8,
    limits=None,
)

# %% [markdown]
# ## 4. In ArviZ
#
# Any pair opens in ArviZ: draws of q, posterior predictive, prior, log-likelihood, and the importance weights with their
# k-hat (below .7: the posterior can be trusted). `idata.to_netcdf("posterior.nc")` keeps it; `arviz.summary(idata)` and
# all of ArviZ's plots take it. The draws are independent, so `r_hat` and `ess` say nothing here.

# %%
vae, guide = pairs["diagonal guide"]
idata = to_inference_data(vae, guide, (images[:40],), num_samples=100 if SMOKE else 500)
draws = idata["posterior"]["z1"]
with torch.no_grad():
    exact = vae.posterior(images[:40])
z_error = np.abs(draws.values.mean((0, 1)) - exact.mean.numpy()) / exact.stddev.numpy()
k_hat = idata["sample_stats"]["k_hat"].values
print("z1:", dict(draws.sizes))
print(f"posterior means against the exact ones: {z_error.mean():.3f} posterior standard deviations on average")
print(f"k-hat: median {np.median(k_hat):.2f}, largest {k_hat.max():.2f}")

# %%
with torch.no_grad():
    codes = closed.posterior(images).mean.numpy()
latent_scatter(codes, digits.train_labels, name="z1")

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


verdict(gap_e < 1e-9, f"the bound is tight after every E step (largest gap {gap_e:.1e} nats)")
verdict(
    gap_m > 0 and kl_error < 1e-9,
    f"after an M step the gap is KL(q || p) > 0 (least {gap_m:.1e}, error {kl_error:.1e})",
)
verdict(least_climb > -1e-9, f"the log-likelihood never falls (least change {least_climb:.1e} nats)")
verdict(
    min(number.values()) > 1, f"digits have several maxima at any number of factors ({number[2]} found for 2 factors)"
)
verdict(number[12] > 1, f"digits have several maxima for many factors ({number[12]} found for 12 factors)")
verdict(
    best[-1] > saturated or best[-1] - best[-2] > 0.01,
    "a Heywood case has no finite maximum "
    f"(from floor {floors[-2]:.0e} to {floors[-1]:.0e}: +{best[-1] - best[-2]:.1e} nats)",
)
below, gap, before, after, aligned = rows["diagonal guide"]
verdict(below < 0.05, f"the linear VAE reaches PPCA's likelihood within .05 nats per datum (below it by {below:.4f})")
verdict(
    after < 0.1,
    f"the diagonal guide picks the principal axes (off-diagonal {before:.3f} -> {after:.3f}, alignment {aligned:.3f})",
)
_, _, before, after, aligned = rows["exact guide"]
verdict(
    after < 0.1,
    f"any good guide picks them (exact guide: off-diagonal {before:.3f} -> {after:.3f}, alignment {aligned:.3f})",
)
