# %% [markdown]
# # From EM to variational EM to the VAE
#
# **Question.** EM alternates two exact steps. Restrict the first to a family of guides and it is variational EM; take
# gradient steps in turn; take them at once and it is the variational autoencoder. What is lost on the way, what does each
# cost, and how noisy is the gradient that the last one lives on?
#
# **Measured here**, on PPCA with a linear guide (diagonal covariance) and the 8 x 8 digits, where everything has a closed
# form to be held against:
# 1. Exact EM, and variational EM with both steps exact in the diagonal family: the bound never falls; does log p(x)?
# 2. The same by gradients: phi to convergence, then theta; short turns; both at once. log p(x) against gradients.
# 3. The variance of the guide's gradient, per datum: sampled KL (Kingma and Welling's L^A) plain and "sticking the
#    landing", analytic KL (their L^B), and the score function with and without a baseline; before and after training.
#
# **Sources.** Dempster, Laird and Rubin (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; Neal and Hinton
# (1998), https://doi.org/10.1007/978-94-011-5014-9_12; Kingma and Welling (2014), https://arxiv.org/abs/1312.6114;
# Roeder et al. (2017), https://arxiv.org/abs/1703.09194; Lucas et al. (2019), https://arxiv.org/abs/1911.02469. Set
# `PYRARCHY_SMOKE=1` for a run of a few seconds with the same text.

# %%
import copy
import math
import os

import numpy as np
import pyro.distributions as dist
import torch

import pyrarchy
from pyrarchy.guides import Amortized, Encoder
from pyrarchy.inference import ELBO, AnalyticELBO, exact_em, fit, isolated
from pyrarchy.inference.alternate import alternating
from pyrarchy.inference.estimators import Score
from pyrarchy.plots import loss_curves
from pyrarchy.zoo import PPCA

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))
torch.manual_seed(0)
digits = pyrarchy.load_data("digits")
x = torch.from_numpy(digits.train)
factors = 4


def start():
    """The pair that every run starts from: the data's mean and overall variance, random loadings, a fresh guide."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = PPCA(digits.dim, factors)
        model.set_parameters(digits.mean, 0.2 * model.loadings.detach(), float(digits.train.var(0).mean() ** 0.5))
        return model, Amortized(model, Encoder(digits.dim, (factors,), ((),), digits.mean))


closed = PPCA(digits.dim, factors)
optimum = closed.maximize_likelihood(closed.statistics(x)).log_likelihood
print(f"{len(x)} digits, {factors} factors; PPCA's maximum, in closed form: {optimum:.4f} nats per datum")


def log_p(model):
    with torch.no_grad():
        return model.log_marginal(x).double().mean().item()


# %% [markdown]
# ## 1. Exact steps
#
# With $P = I + W^\top W / \sigma^2$ the posterior is $N(m(x), P^{-1})$. The best *diagonal* q has the same mean and the
# variances $1 / P_{ii}$ (too small), and $KL = \tfrac12 (\sum_i \ln P_{ii} - \ln |P|)$. Its M step is PPCA's with this
# covariance in place of the exact one. Neal and Hinton's argument needs the bound only: it never falls. The
# log-likelihood is the bound plus the KL, and the KL is free to shrink.


# %%
def diagonal_posterior(model, x):
    """The best diagonal Gaussian, as a MultivariateNormal, and its KL from the posterior (one for all x)."""
    exact = model.posterior(x)
    precision = exact.precision_matrix[0]
    q = dist.MultivariateNormal(exact.mean, torch.diag_embed(1 / precision.diagonal()).expand(len(x), -1, -1))
    return q, 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()


def climb(model, likelihoods, bounds):
    """Variational EM with both steps exact in the diagonal family."""
    with torch.no_grad():
        for _ in range(len(em)):
            q, kl = diagonal_posterior(model, double)
            likelihoods.append(model.log_marginal(double).mean().item())
            bounds.append(likelihoods[-1] - kl)
            model.maximize(double, q)


exact, double = start()[0], x.double()
em = exact_em(exact, x, steps=40 if SMOKE else 400, tol=0.0).log_likelihoods
variational, likelihoods, bounds = start()[0].double(), [], []
climb(variational, likelihoods, bounds)
print("step   exact EM: below the maximum   diagonal family: below the maximum   its KL(q || p)")
for i in [i for i in (0, 1, 2, 5, 10, 20, 40, 100, 200, 400) if i < len(em)]:
    print(f"{i:4d}{optimum - em[i]:20.5f}{optimum - likelihoods[i]:33.5f}{likelihoods[i] - bounds[i]:24.5f}")

# %% [markdown]
# From this start both climb. To see log p(x) fall, start at the *maximum*, with the factors rotated: log p(x) does not feel
# the rotation, the bound does, because W'W is then not diagonal and the diagonal q poor. Nowhere is left to go but down.

# %%
rotated, likelihoods_rotated, bounds_rotated = start()[0].double(), [], []
turn = torch.linalg.qr(torch.randn(factors, factors, dtype=torch.float64))[0]
rotated.set_parameters(closed.mean.detach(), closed.loadings.detach().double() @ turn, closed.scale.detach())
climb(rotated, likelihoods_rotated, bounds_rotated)
least_bound = min(np.diff(bounds).min(), np.diff(bounds_rotated).min())
least_log_p = np.diff(likelihoods_rotated).min()
lowest = optimum - min(likelihoods_rotated)
print(f"both starts, least change of the bound over a step: {least_bound:.1e}")
print(
    f"from the rotated maximum log p(x) falls to {lowest:.4f} below it, "
    f"and ends {optimum - likelihoods_rotated[-1]:.4f} below"
)

# %% [markdown]
# ## 2. Gradient steps
#
# Now the guide is a network (one linear layer for the mean and one for the scale) with parameters phi, and both halves
# follow the gradient of L^B by Adam at one learning rate. `alternating` hands the steps to phi and theta in turn; with a
# tolerance phi's turn ends when the bound stops rising, which is variational EM. A step costs one gradient, whoever moves.

# %%
steps = 100 if SMOKE else 2500
rate = 0.03 if SMOKE else 0.01


def arms(rate):
    """Label -> what makes the optimiser from the guide."""
    return {
        "phi to convergence, 50 theta": lambda guide: alternating(guide, 300, 50, rate, tolerance=1e-3),
        "10 phi, 10 theta": lambda guide: alternating(guide, 10, 10, rate),
        "1 phi, 1 theta": lambda guide: alternating(guide, 1, 1, rate),
        "both at once (VAE)": lambda guide: rate,
    }


curves = {"exact EM (1 step = 1 gradient)": (np.arange(1, len(em)), np.array(em[1:]))}
pairs, below, lag, falls = {}, {}, {}, {}
within = 0.5  # nats per datum


def first_within(at, values):
    """The first recorded step from which log p(x) stays within so much of the maximum; infinity where there is none."""
    outside = np.flatnonzero(np.asarray(values) < optimum - within)
    last = outside[-1] + 1 if len(outside) else 0
    return at[last] if last < len(at) else math.inf


print(f"                               log p(x) below the maximum   ELBO gap   gradients until within {within} nats")
for label, make in arms(rate).items():
    model, guide = start()
    seen = []
    fit(
        model,
        guide,
        x,
        objective=AnalyticELBO(),
        optimizer=make(guide),
        steps=steps,
        schedule=lambda step: min(1.0, 0.01 ** (2 * step / steps - 1)),
        callbacks=[lambda step, seen=seen, model=model: seen.append(log_p(model)) if step.step % 5 == 0 else None],
    )
    at = np.arange(5, steps + 1, 5)
    with torch.no_grad():
        q = guide.encoder(x)["z1"]
        gap = torch.distributions.kl_divergence(
            dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance)), model.posterior(x)
        ).mean()
    pairs[label], curves[label] = (model, guide), (at, np.array(seen))
    below[label], lag[label], falls[label] = optimum - seen[-1], first_within(at, seen), np.diff(seen).min()
    print(f"{label:30s}{below[label]:20.4f}{gap.item():18.4f}{lag[label]:20.0f}")
lag["exact EM"] = first_within(np.arange(len(em)), em)
below["exact EM"] = optimum - em[-1]
print(f"{'exact EM':30s}{below['exact EM']:20.4f}{0:18.4f}{lag['exact EM']:20.0f}   (steps)")

# %%
loss_curves(curves, ylabel="log p(x) (nats per datum)", xlabel="gradient evaluations", log_x=True)

# %% [markdown]
# A step each in turn looks like both at once at half the speed. It is not quite: here are the two at three times the rate.

# %%
fast = {}
for label in ("1 phi, 1 theta", "both at once (VAE)"):
    model, guide = start()
    count = 60 if SMOKE else 800
    fit(model, guide, x, objective=AnalyticELBO(), optimizer=arms(3 * rate)[label](guide), steps=count)
    fast[label] = optimum - log_p(model)
    print(f"{label:20s} at rate {3 * rate:.2f}, {count} steps: {fast[label]:.3f} nats below the maximum")

# %% [markdown]
# ## 3. The noise of the gradient
#
# The same gradient, that of the ELBO with respect to the guide, has many estimates. Five, with two draws per datum each:
#
# * **L^A, plain**: the KL sampled too, autograd through z = m + s e *and* through log q's own parameters;
# * **L^A, STL**: the latter, whose mean is zero, left out: where q is the posterior, nothing random remains;
# * **L^B**: the KL in closed form;
# * **score, baseline**: no path through z: each draw's log-weight less the other's, less one, times the gradient of log q;
# * **score**: the same without the other's. The library has no such estimator; it is four lines.
#
# `Rough` is the guide's own Normal that denies having a path. The variance is that of the whole gradient of phi (its
# trace), per datum: a batch of B data with draws of their own has B times that. Four places: the start, the trained
# VAE, PPCA's maximum with the *exact* posterior written into the guide by hand (W'W is diagonal there), and the same with
# a third of its scale.


# %%
class Rough(dist.Normal):
    """A Normal without a reparameterised sampler."""

    has_rsample = False


class RoughGuide(Amortized):
    """The encoder's Gaussian, the same parameters, no path."""

    def posterior(self, name, prior):
        q = self.message(name).base_dist
        return Rough(q.loc, q.scale).to_event(1)


class NoBaseline(Score):
    """The score function as it stands in textbooks."""

    def advantage(self, bound, log_w):
        return log_w / len(log_w)


def pair_at_maximum(share=1.0):
    """PPCA at its maximum, and the guide that is its posterior, with a share of its scale."""
    model, guide = start()
    model.set_parameters(closed.mean.detach(), closed.loadings.detach(), closed.scale.detach())
    with torch.no_grad():
        q = model.posterior(x[:1])
        head, covariance = guide.encoder.heads[0], q.covariance_matrix[0]
        head.loc.weight.copy_(covariance @ model.loadings.mT / model.scale**2)
        head.loc.bias.copy_(covariance @ model.loadings.mT @ (guide.encoder.x_mean - model.mean) / model.scale**2)
        head.raw_scale.weight.zero_()
        head.raw_scale.bias.copy_((share * covariance.diagonal().sqrt() - head.floor).expm1().log())
    return model, guide


def moments(model, guide, bound, rows, draws, seed):
    """Of phi's gradient per datum: the mean vector, the trace of its variance, and the trace's standard error."""
    phi, found = list(guide.encoder.parameters()), []
    with isolated(model, guide, seed=seed):
        for _ in range(draws):
            loss = bound.differentiable_loss(model, guide, rows)
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(-loss, phi)]).double())
    found = torch.stack(found)
    square = (found - found.mean(0)).square().sum(1) / len(rows) * draws / (draws - 1)
    return found.mean(0) / len(rows), square.mean().item(), square.std().item() / draws**0.5


stages = {"start": start(), "after training": pairs["both at once (VAE)"], "q = posterior": pair_at_maximum()}
stages["a third as wide"] = pair_at_maximum(1 / 3)
draws, rows = (40, x[:20]) if SMOKE else (600, x[:200])
table, bias = {}, {}
for stage, (model, guide) in stages.items():
    model, guide = copy.deepcopy((model, guide))
    rough = RoughGuide(model, guide.encoder)
    estimators = {
        "L^A, plain": (guide, ELBO(2)),
        "L^A, STL": (guide, ELBO(2, estimator="stl")),
        "L^B": (guide, AnalyticELBO(2)),
        "score, baseline": (rough, ELBO(2, estimator="score")),
        "score": (rough, ELBO(2, estimator=NoBaseline())),
    }
    found = {
        label: moments(model, *estimator, rows, draws, seed)
        for seed, (label, estimator) in enumerate(estimators.items())
    }
    table[stage] = {label: (variance, error) for label, (_, variance, error) in found.items()}
    mean, variance, _ = found["L^B"]
    for label, (other, noise, _) in found.items():
        if label != "L^B":  # |difference of means|^2 over what the noise of both makes it: 1 where they agree
            share = (variance + noise) / len(rows) / draws
            bias[stage, label] = ((other - mean).square().sum() / share).item()
print("variance of phi's gradient per datum" + "".join(f"{stage:>24s}" for stage in stages))
for label in table["start"]:
    print(f"{label:36s}" + "".join(f"{v:14.4g} +- {e:.2g}".rjust(24) for v, e in (table[s][label] for s in stages)))
print(f"squared difference from L^B's mean over its expectation: {min(bias.values()):.2f} to {max(bias.values()):.2f}")

# %% [markdown]
# With $A = W^\top W / \sigma^2$, m the posterior mean and S the guide's covariance, the gradient in the mean of q at a draw
# z is, up to a constant, $-(A + I)(z - m)$ for the plain L^A, $-A (z - m)$ for L^B and $-(A + I - S^{-1})(z - m)$ for STL.
# So L^B always beats the plain L^A; in one dimension STL beats L^B where $1 < 1/S < 2A + 1$: where q is narrower than the
# prior, but not less than about half the posterior's variance. A guide that fits does so, at the end *and* often at the
# start. The score function with a baseline is, at q = p, left with its "less one" times the score, whose mean is zero:
# that is all the noise of the plain L^A there as well.
#
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


def lower(stage, first, second):
    (a, ea), (b, eb) = table[stage][first], table[stage][second]
    return a + 2 * math.hypot(ea, eb) < b


def ratio(stage, first, second):
    (a, ea), (b, eb) = table[stage][first], table[stage][second]
    value = a / b
    return f"{value:.3g} +- {value * math.hypot(ea / a, eb / b):.2g}"


verdict(least_bound > -1e-9, f"variational EM never lowers its bound (least change {least_bound:.1e} nats)")
verdict(
    least_log_p > -1e-9,
    f"it never lowers log p(x) either (least change {least_log_p:.1e} nats in a step, {lowest:.4f} in all)",
)
reached = optimum - likelihoods[-1]
verdict(
    reached < 0.05,
    f"variational EM with a diagonal q ends within .05 nats of PPCA's maximum (below it by {reached:.4f}; "
    f"exact EM by {below['exact EM']:.4f})",
)
joint, slow = "both at once (VAE)", "phi to convergence, 50 theta"
verdict(below[joint] < 0.05, f"so does the VAE (below it by {below[joint]:.4f})")
verdict(
    lag[joint] < lag[slow],
    f"moving both at once takes fewer gradients than phi to convergence ({lag[joint]:.0f} against {lag[slow]:.0f})",
)
turns = lag["1 phi, 1 theta"] / lag[joint]
verdict(
    1.5 < turns < 2.5,
    f"turns of one step cost twice the gradients of both at once ({turns:.2f} times, to {within} nats)",
)
verdict(
    fast["1 phi, 1 theta"] < fast[joint] + 0.5,
    f"at thrice the rate they end as near the maximum (below it by {fast['1 phi, 1 theta']:.3f} and {fast[joint]:.3f})",
)
verdict(
    lag["exact EM"] < lag[joint], f"exact EM takes the fewest passes ({lag['exact EM']:.0f} against {lag[joint]:.0f})"
)
verdict(
    max(bias.values()) < 2,
    f"the five gradients have one mean (squared difference {max(bias.values()):.2f} of its noise)",
)
for stage in stages:
    verdict(
        lower(stage, "L^B", "L^A, plain"),
        f"{stage}: L^B is less noisy than the plain L^A (variance {ratio(stage, 'L^B', 'L^A, plain')} of it)",
    )
for stage in stages:
    verdict(
        lower(stage, "L^B", "L^A, STL"),
        f"{stage}: L^B is less noisy than STL (variance {ratio(stage, 'L^B', 'L^A, STL')} of it)",
    )
for stage in stages:
    verdict(
        lower(stage, "L^A, plain", "score, baseline") and lower(stage, "score, baseline", "score"),
        f"{stage}: the score function is noisier than the path, and more so without a baseline "
        f"(variance {ratio(stage, 'score, baseline', 'L^A, plain')} and {ratio(stage, 'score', 'L^A, plain')} of it)",
    )
