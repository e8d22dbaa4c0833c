# %% [markdown]
# # Can I trust this posterior?
#
# **Question.** A guide was fitted and its intervals look fine. Are they the posterior's? What can be repaired afterwards,
# and which checks can be fooled? Eight schools has an answer by quadrature, so every check below is itself checked.
#
# **Measured here**, on four guides of one model:
# 1. k-hat of the whole guide: 10,000 draws, five seeds, median and range.
# 2. Intervals of the guide's own draws and of its draws resampled by smoothed weights (PSIS), against the exact ones.
# 3. Leave-one-out: the plain one, which takes the guide's draws for the posterior's, and the corrected one.
# 4. NUTS, where no guide will do.
#
# **Sources.** Rubin (1981), https://doi.org/10.3102/10769986006004377 (the data); Yao et al. (2018),
# https://arxiv.org/abs/1802.02538 (k-hat of a guide); Vehtari et al. (2024), https://jmlr.org/papers/v25/19-556.html (PSIS);
# Magnusson et al. (2019), https://arxiv.org/abs/1904.10679 (leave-one-out from a guide); Hoffman & Gelman (2014),
# https://arxiv.org/abs/1111.4246 (NUTS). Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import math
import os
import warnings

import numpy as np
import pyro
import torch

import pyrarchy
from pyrarchy.inference import (
    ELBO,
    UntrustedGuideError,
    fit,
    global_k_hat,
    loo,
    mcmc_inference_data,
    psis_posterior,
    rank_elpd,
    run_nuts,
    summary,
    to_inference_data,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))
args = tuple(torch.from_numpy(part) for part in pyrarchy.load_data("eight_schools").train)
y, sigma = (part.double().numpy() for part in args)

# %% [markdown]
# ## 1. The exact answer
#
# Given tau everything is Gaussian: mu given tau and y, and each theta given mu, tau and y. What is left is one integral.
# Under a half-Cauchy of scale 5, tau = 5 tan(angle) with a uniform angle, so that a grid of angles covers the long tail.

# %%
angle, step = np.linspace(1e-4, math.pi / 2 - 1e-4, 20_001, retstep=True)
tau = 5 * np.tan(angle)


def given_tau(keep):
    """log p(y of the kept schools | tau) on the grid, and mean and variance of mu there."""
    variance = tau[:, None] ** 2 + sigma[keep] ** 2
    precision, linear = 1 / 25 + (1 / variance).sum(1), (y[keep] / variance).sum(1)
    square = (y[keep] ** 2 / variance).sum(1) - linear**2 / precision
    log_p = -0.5 * (np.log(2 * math.pi * variance).sum(1) + square + np.log(25 * precision))
    return log_p, linear / precision, 1 / precision


everything = np.full(8, True)
log_p, mu_mean, mu_variance = given_tau(everything)
weight = np.exp(log_p - log_p.max())
weight /= weight.sum()
evidence = math.log(np.exp(log_p).sum() * step * 2 / math.pi)
mu = weight @ mu_mean
exact = {
    "mu": (mu, math.sqrt(weight @ (mu_variance + mu_mean**2) - mu**2)),
    "tau": (weight @ tau, math.sqrt(weight @ tau**2 - (weight @ tau) ** 2)),
}
shrink = tau[:, None] ** 2 / (tau[:, None] ** 2 + sigma**2)
theta = weight @ (shrink * y + (1 - shrink) * mu_mean[:, None])
left_out = [evidence - math.log(np.exp(given_tau(np.arange(8) != j)[0]).sum() * step * 2 / math.pi) for j in range(8)]
exact_elpd = sum(left_out)
print(f"log p(y) = {evidence:.4f}; leave-one-out log score {exact_elpd:.4f}")
print(f"mu {exact['mu'][0]:.3f} +- {exact['mu'][1]:.3f}; tau {exact['tau'][0]:.3f} +- {exact['tau'][1]:.3f}")

# %% [markdown]
# ## 2. Four guides, and the k-hat of each
#
# The centred form samples theta with scale tau: at small tau its posterior is a funnel. The non-centred form samples
# standardised effects. Both are one model: the same y, the same prior, the same exact answers.

# %%
ROWS = {  # name: row, steps, learning rate, particles
    "centred mean-field": ("eight_schools_centred", 300 if SMOKE else 8000, 5e-2, 16),
    "mean-field": ("eight_schools_mean_field", 250 if SMOKE else 2000, 5e-2 if SMOKE else 3e-2, 16),
    "full rank": ("eight_schools", 150 if SMOKE else 3000, 5e-2 if SMOKE else 3e-2, 64),
    "flow": ("eight_schools_iaf", 150 if SMOKE else 3000, 2e-2, 16),
}
draws, seeds = (4000, 3) if SMOKE else (10_000, 5)
pairs, k_hats = {}, {}
for name, (row, steps, rate, particles) in ROWS.items():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pairs[name] = pyrarchy.get_pair(row)()
    record = fit(
        *pairs[name],
        args,
        objective=ELBO(particles),
        optimizer=rate,
        steps=steps,
        schedule=lambda s, n=steps: 1 - s / n,
    )
    k_hats[name] = global_k_hat(*pairs[name], args, num_samples=draws, seeds=seeds)
    print(f"{name:20s} ELBO {np.mean(record.values[-100:]):.2f}  {k_hats[name]}")

# %% [markdown]
# ## 3. Intervals: the guide's, and the posterior's where it can be had
#
# Below .7 the draws are resampled by their smoothed weights, and the table is headed `posterior`. Above it they are not:
# the error says why, and what is left are the guide's intervals, headed `guide`. Errors are in exact posterior standard
# deviations.


# %%
def error(table):
    """Largest error of a mean over mu, tau and the eight theta, and of the sd of tau, in exact sd of mu, tau and theta."""
    off = [abs(table.loc[name, "mean"] - mean) / sd for name, (mean, sd) in exact.items()]
    found = table.loc[[label for label in table.index if label.startswith("theta[")], "mean"].to_numpy()
    return max(*off, *(abs(found - theta) / table_sd).tolist()), table.loc["tau", "sd"] / exact["tau"][1] - 1


second = weight @ ((shrink * y + (1 - shrink) * mu_mean[:, None]) ** 2)
second += weight @ (shrink * sigma**2 + (1 - shrink) ** 2 * mu_variance[:, None])
table_sd = np.sqrt(second - theta**2)  # of theta, exact
own, mended, refused = {}, {}, {}
kept = ("posterior", "sample_stats")
for name, pair in pairs.items():
    own[name] = error(summary(to_inference_data(*pair, args, num_samples=draws, groups=kept)))
    try:
        table = summary(psis_posterior(*pair, args, 2 * draws // 5, num_proposals=draws, groups=kept))
        mended[name] = error(table)
        words = f"resampled {mended[name][0]:.2f} (sd of tau {mended[name][1]:+.0%}), headed '{table.columns.name}'"
    except UntrustedGuideError as reason:
        refused[name], words = str(reason), "refused"
    print(f"{name:20s} worst mean off by {own[name][0]:.2f} sd (sd of tau {own[name][1]:+.0%}); {words}")
for name, reason in refused.items():
    print(f"\n{name}: {reason}")

# %% [markdown]
# ## 4. Leave-one-out, plain and corrected
#
# `az.loo` takes draws for draws of the posterior. A narrow guide's draws hardly vary, so no y_i is ever influential, every
# k-hat is good, and the score is high. `to_inference_data` therefore leaves the log-likelihood out unless it is asked for,
# as here. `loo` has the missing factor p(theta, y) / q(theta) in its weights and refuses a guide it cannot correct;
# `limit=inf` shows what it refused.

# %%
plain, corrected = {}, {}
for name, pair in pairs.items():
    asked = to_inference_data(*pair, args, num_samples=draws, groups=("posterior", "log_likelihood"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of high k, which are printed
        plain[name] = arviz.loo(asked, pointwise=True)
    corrected[name] = loo(*pair, args, num_samples=draws, limit=math.inf)
ranked = {"plain": rank_elpd(plain), "corrected": rank_elpd(corrected)}
for kind, table in ranked.items():
    found = plain if kind == "plain" else corrected
    print(f"\n{kind} leave-one-out (exact {exact_elpd:.2f} for all of them)")
    for name, row in table.iterrows():
        worst = float(found[name]["pareto_k"].max())
        doubt = "" if row.trusted else ", not to be trusted"
        print(f"  {name:20s} {row.elpd:8.2f}, largest k-hat of a school {worst:.2f}{doubt}")

# %% [markdown]
# ## 5. NUTS
#
# The last resort is no guide at all. On the non-centred form the chains mix; their log-likelihood may go to `az.loo`.

# %%
model = pairs["mean-field"][0]
pyro.clear_param_store()
result = run_nuts(
    model, *args, num_samples=60 if SMOKE else 1000, warmup=60 if SMOKE else 500, chains=2 if SMOKE else 4, seed=1
)
chains = mcmc_inference_data(model, args, result)
nuts_table = summary(chains)
nuts = error(nuts_table)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    nuts_loo = arviz.loo(chains, pointwise=True)
worst_r_hat, diverged = nuts_table["r_hat"].max(), int(result.diverging.sum())
print(
    f"NUTS: worst mean off by {nuts[0]:.2f} sd, sd of tau {nuts[1]:+.0%}; r_hat up to {worst_r_hat:.3f}, {diverged} diverged"
)
nuts_elpd = float(nuts_loo.loo_i.sum() if hasattr(nuts_loo, "loo_i") else nuts_loo.elpd)
print(f"plain leave-one-out of NUTS: {nuts_elpd:.2f}")

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


bad, good = "centred mean-field", "mean-field"
verdict(
    k_hats[bad].median > 0.7,
    f"k-hat of the centred guide says not to trust it (median {k_hats[bad].median:.2f}, {min(k_hats[bad].values):.2f} to "
    f"{max(k_hats[bad].values):.2f})",
)
others = {name: k.median for name, k in k_hats.items() if name != bad}
verdict(
    max(others.values()) < 0.7,
    "k-hat of the three others allows a correction (medians " + ", ".join(f"{k:.2f}" for k in others.values()) + ")",
)
spread = max(max(k.values) - min(k.values) for k in k_hats.values())
verdict(spread < 0.05, f"one seed of k-hat is enough (range of {seeds} seeds up to {spread:.2f})")
verdict(
    bad in refused and own[bad][1] < -0.3,
    f"the refused guide's intervals are wrong (worst mean off by {own[bad][0]:.2f} sd, sd of tau by {own[bad][1]:+.2f} "
    "of the exact)",
)
if good in mended:
    verdict(
        abs(mended[good][1]) < abs(own[good][1]),
        f"resampling mends the mean-field guide's sd of tau (off by {own[good][1]:+.2f} of the exact, then by "
        f"{mended[good][1]:+.2f})",
    )
    verdict(
        mended[good][0] < own[good][0],
        f"and its means (worst off by {own[good][0]:.2f} sd, then {mended[good][0]:.2f})",
    )
plain_k = float(plain[bad]["pareto_k"].max())
first = ranked["plain"].index[0]
verdict(
    first != bad,
    f"plain leave-one-out sees that the centred guide is bad (its score {ranked['plain'].elpd[bad]:.2f} with k-hats up to "
    f"{plain_k:.2f}, exact {exact_elpd:.2f}; first is {first})",
)
trusted = ranked["corrected"][ranked["corrected"].trusted]
verdict(
    ranked["corrected"].index[-1] == bad,
    f"corrected, the centred guide is last (not for its figure of {ranked['corrected'].elpd[bad]:.2f}, but for its k-hat of "
    f"{k_hats[bad].median:.2f})",
)
gap = abs(trusted.elpd - exact_elpd).max()
plain_gap = abs(ranked["plain"].elpd[trusted.index] - exact_elpd).max()
verdict(
    gap < 0.1,
    f"the trusted corrected scores are near the exact one (within {gap:.2f}, the same guides' plain ones within "
    f"{plain_gap:.2f})",
)
verdict(
    ranked["corrected"].elpd[bad] < trusted.elpd.min(),
    "without the k-hat the correction would have put the centred guide last too (its figure is off by "
    f"{ranked['corrected'].elpd[bad] - exact_elpd:+.2f})",
)
verdict(
    nuts[0] < 0.2 and abs(nuts[1]) < 0.2,
    f"NUTS agrees with quadrature (worst mean off by {nuts[0]:.2f} sd, sd of tau {nuts[1]:+.2f}, plain leave-one-out "
    f"{nuts_elpd:.2f})",
)
