# %% [markdown]
# # Spins from coarse to fine: the Ising model as a hierarchy
#
# **Question.** Draw a lattice of spins from a coarse sublattice to the finest, each level given all above it. Is that what
# makes such a distribution easy? Where is the information, and what does a level decide? The Ising model has exact answers.
#
# **Measured here**:
# 1. ln Z by Kaufman's formula against enumeration, and the sign that a widely copied version gets wrong.
# 2. Guides of every level given those above, trained by the variational free energy: KL(q || p) on 4 x 4 over all 65,536
#    lattices, and on 8 x 8 against the exact p, level by level; autoregressive levels against factorised ones.
# 3. Below, at and above the critical temperature: KL and entropy per level, and two other orders of the same spins.
# 4. Finer levels drawn anew: how near are a lattice's neighbours?
# 5. The noise of the score function, with and without its leave-one-out baseline.
# 6. The other way round: models fitted to exact samples.
#
# **Sources.** Onsager (1944), https://doi.org/10.1103/PhysRev.65.117; Kaufman (1949),
# https://doi.org/10.1103/PhysRev.76.1232; Wu, Wang & Zhang (2019), https://arxiv.org/abs/1809.10606; Li & Wang (2018),
# https://arxiv.org/abs/1802.02840. Every training is one seed. Set `PYRARCHY_SMOKE=1` for a run of a few seconds with the
# same text.

# %%
import math
import os
from itertools import pairwise

import numpy as np
import torch

import pyrarchy
from pyrarchy.fit_plan import cosine
from pyrarchy.guides import CoarseToFine, FactorisedCoarseToFine
from pyrarchy.inference import ELBO, evaluate, fit, isolated
from pyrarchy.inference.batches import Batches
from pyrarchy.inference.estimators import Score
from pyrarchy.ising_levels import level_kls
from pyrarchy.plots import image_grid, loss_curves
from pyrarchy.run_folder import warm_up
from pyrarchy.zoo import Ising
from pyrarchy.zoo.ising_exact import CRITICAL, all_spins, energy, log_levels, log_partition, log_sublattice

SMOKE = bool(int(os.environ.get("PYRARCHY_SMOKE", "0")))

# %% [markdown]
# ## 1. ln Z
#
# Kaufman's Z of an L x L torus is half of $(2 \sinh 2\beta)^{N/2}$ times a sum of four products, of $2\cosh$ and $2\sinh$
# of $L\gamma/2$ over odd and over even indices. All $\gamma$ come from an inverse hyperbolic cosine, which has two roots;
# at index 0 the root is $\gamma_0 = 2\beta + \ln\tanh\beta$, *negative* above the critical temperature. Below is the formula
# as it stands in many programs, with the positive root throughout.


# %%
def kaufman(size, temperature, positive):
    """ln Z, with gamma_0 or with its absolute value."""
    beta, at = 1 / temperature, np.arange(1, 2 * size)
    gamma = np.arccosh(np.cosh(2 * beta) / np.tanh(2 * beta) - np.cos(np.pi * at / size))
    first = 2 * beta + np.log(np.tanh(beta))
    half = size / 2 * np.concatenate([[abs(first) if positive else first], gamma])
    products = [np.prod(2 * f(half[start::2])) for start in (0, 1) for f in (np.cosh, np.sinh)]
    return size**2 / 2 * np.log(2 * np.sinh(2 * beta)) + np.log(sum(products) / 2)


spins = all_spins(16).double()
energies = energy(spins.unflatten(-1, (4, 4)))
off = {"4 x 4": [], "8 x 8": []}
for temperature in (1.0, 1.8, CRITICAL, 3.5, 10.0, 100.0):
    off["4 x 4"].append(log_partition(4, temperature)[0] - (-energies / temperature).logsumexp(0).item())
    summed_rows = log_sublattice(8, temperature).flatten().logsumexp(0).item()  # transfer matrices, no formula
    off["8 x 8"].append(log_partition(8, temperature)[0] - summed_rows)
kaufman_off = {size: np.abs(found).max() for size, found in off.items()}
print("Kaufman against the sum itself, largest error: " + ", ".join(f"{s} {e:.1e}" for s, e in kaufman_off.items()))

grid = np.linspace(1.5, 6, 91)
copied = {
    f"{size} x {size}": np.array([kaufman(size, t, True) - log_partition(size, t)[0] for t in grid])
    for size in (4, 8, 16)
}
right = max(abs(kaufman(8, t, False) - log_partition(8, t)[0]) for t in grid)
below_critical = max(np.abs(error[grid < CRITICAL]).max() for error in copied.values())
hot = kaufman(4, 1000.0, True) - 16 * math.log(2)  # where every lattice is as likely as any other
for name, error in copied.items():
    print(f"positive root, {name}: ln Z off by {np.interp(2.5, grid, error):.4f} at T = 2.5, {error[-1]:.4f} at T = 6")
loss_curves({name: (grid, error) for name, error in copied.items()}, ylabel="ln Z too large by", xlabel="temperature")

# %% [markdown]
# ## 2. A hierarchy of spins
#
# The top level is one spin; each level doubles the lattice: first the centres of its squares, then the middles of its
# edges. `CoarseToFine` draws each spin given all levels above and those before it in its own level,
# `FactorisedCoarseToFine` all spins of a level at once. Both are one normalised density of the lattice, so that
# $\ln Z - E_q[\ln w] = KL(q \| p)$, and that splits into one term a level. Half of the spins (`s1`) have no bond among
# themselves: there independence costs nothing. The bound is one in expectation: an estimate may lie beyond ln Z once the
# KL is within its noise.

# %%
STEPS, PARTICLES = (25, 50) if SMOKE else (600, 500)
DRAWS = 2000 if SMOKE else 20_000


def train(model, kind, steps=STEPS, callback=None):
    """A guide of the model after training, and the bound at every step."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = kind(model)
    record = fit(
        model,
        guide,
        (),
        objective=ELBO(PARTICLES, estimator="score"),
        optimizer=1e-2,
        steps=steps,
        schedule=lambda step: cosine(step / steps, 0.01),
        callbacks=[lambda step: callback(step, guide)] if callback else (),
    )
    return guide, np.array(record.values)


small, exact_gaps, kl4, guides4 = Ising(4), [], {}, {}


def remember(step, guide):
    if step.step % 25 == 0:
        exact_gaps.append(level_kls(small, guide)["all"][0])


KINDS = {"autoregressive": CoarseToFine, "factorised": FactorisedCoarseToFine}
print("4 x 4, all 65,536 lattices: KL per level, nats")
for label, kind in KINDS.items():
    guides4[label], _ = train(small, kind, callback=remember)
    kl4[label] = level_kls(small, guides4[label])
    print(f"{label:16s}" + "  ".join(f"{name} {round(kl, 4) + 0.0:.4f}" for name, (kl, _) in kl4[label].items()))

TEMPERATURES = {"below": 1.8, "at": CRITICAL, "above": 3.5}
models = {where: Ising(8, temperature) for where, temperature in TEMPERATURES.items()}
names = list(models["at"].levels)
guides, kl8, histories = {}, {}, {}
for label, kind in KINDS.items():
    print(f"8 x 8, {label}: KL per level, nats")
    for where, model in models.items():
        guides[label, where], histories[label, where] = train(model, kind)
        kl8[label, where] = level_kls(model, guides[label, where], num=DRAWS)
        cells = "  ".join(f"{name} {round(kl, 4) + 0.0:.4f}" for name, (kl, _) in kl8[label, where].items())
        print(f"{where:6s}{cells} +- {kl8[label, where]['all'][1]:.4f}")
log_z = {where: log_partition(8, temperature)[0] for where, temperature in TEMPERATURES.items()}
evidence = models["at"].log_evidence().item()
late = histories["autoregressive", "at"][-max(STEPS // 4, 1) :]
exceeded = int((late > evidence).sum())

# %%
loss_curves(
    {
        f"{label}, T {where} critical": (
            np.arange(STEPS // 5, STEPS) + 1,
            models[where].log_evidence().item() - history[STEPS // 5 :],
        )
        for (label, where), history in histories.items()
    },
    ylabel="ln Z less its bound (nats)",
)

# %% [markdown]
# ## 3. Is it the order that makes it easy?
#
# The chain rule holds in any order, and the entropies of the levels always sum to the same entropy, $\ln Z + U/T$. The
# controls have the same networks, steps and seed, but other orders: row by row ("raster") and the levels upside down
# ("fine to coarse"); all their spins are autoregressive. Entropies per level are expectations under p, by weighted draws
# of the guide with exact p.


# %%
class Reordered(Ising):
    """The same lattice, its spins in levels of another order."""

    def __init__(self, size, temperature, levels):
        super().__init__(size, temperature)
        self.levels = levels
        self.order = torch.tensor([i * size + j for level in levels.values() for i, j in level])
        self.back = self.order.argsort()


class EverySpin(CoarseToFine):
    """Autoregressive down to the last level, which in another order has bonds within."""

    def is_autoregressive(self, name):
        return True


def total_kl(model, guide):
    """KL(q || p) and its standard error, from ln Z and the bound."""
    with isolated(model, guide, seed=0), torch.no_grad():
        log_w = ELBO(DRAWS).terms(model, guide).log_w.double().flatten()
    return (model.log_evidence() - log_w.mean()).item(), log_w.std().item() / DRAWS**0.5


upside_down = {f"s{7 - i}": models["at"].levels[f"s{i + 1}"] for i in range(7)}
orders = {"raster": {f"s{8 - i}": [(i, j) for j in range(8)] for i in range(8)}, "fine to coarse": upside_down}
order_kl = {("coarse to fine", where): kl8["autoregressive", where]["all"] for where in TEMPERATURES}
for label, levels in orders.items():
    for where, temperature in TEMPERATURES.items():
        model = Reordered(8, temperature, levels)
        order_kl[label, where] = total_kl(model, train(model, EverySpin)[0])
for label in ("coarse to fine", *orders):
    cells = "   ".join(f"{w} {order_kl[label, w][0]:.4f} +- {order_kl[label, w][1]:.4f}" for w in TEMPERATURES)
    print(f"KL, {label:16s}{cells}")


def entropies(model, guide):
    """Entropy of every level given those above, under p, nats; the standard error of their sum; the draws."""
    with isolated(model, guide, seed=1), torch.no_grad():
        lattice = guide.resample(torch.ones(DRAWS, model.size, model.size), names[0])
        log_q = sum(guide.log_prob(lattice).values()).double()
    log_p = log_levels(model, lattice)
    weight = (log_p["s1"] - log_q).softmax(0)
    found, above = {}, 0.0
    for name, value in log_p.items():
        found[name], above = -(weight * (value - above)).sum().item(), value
    spread = (weight**2 * (-above - sum(found.values())) ** 2).sum().sqrt().item()
    return found, spread, lattice


entropy, spread, drawn, exact_entropy = {}, {}, {}, {}
print("entropy per spin, bits, given the levels above: the number of spins doubles from level to level")
for where, model in models.items():
    entropy[where], spread[where], drawn[where] = entropies(model, guides["autoregressive", where])
    mean_energy = log_partition(8, model.temperature)[1]
    exact_entropy[where] = log_z[where] + mean_energy / model.temperature
    per_spin = [entropy[where][name] / len(places) / math.log(2) for name, places in model.levels.items()]
    cells = "  ".join(f"{name} {bits:.3f}" for name, bits in zip(names, per_spin, strict=True))
    total = sum(entropy[where].values())
    print(f"{where:6s}{cells}; all {total:.3f} +- {spread[where]:.3f} nats, exact {exact_entropy[where]:.3f}")
quarter = {w: sum(list(h.values())[:-2]) / sum(h.values()) for w, h in entropy.items()}  # the sublattice of 4 x 4
bits = {w: [h[n] / len(models[w].levels[n]) / math.log(2) for n in names] for w, h in entropy.items()}

# %% [markdown]
# ## 4. Neighbours
#
# Keep the levels above one, draw it and all below anew. With the exact conditionals this would be a step of Gibbs sampling
# in blocks: what comes out has the same distribution as what went in. How near it lies depends on the level.

# %%
overlap, energy_gap, shift = {}, {}, {}
print("fraction of equal spins, and root mean square difference of the energies, by the highest level drawn anew")
for where, model in models.items():
    guide = guides["autoregressive", where]
    with isolated(model, guide, seed=2), torch.no_grad():
        for name in names:
            anew = guide.resample(drawn[where], name)
            change = (energy(anew) - energy(drawn[where])).double()
            overlap[where, name] = (anew == drawn[where]).double().mean().item()
            energy_gap[where, name] = change.square().mean().sqrt().item()
            shift[where, name] = change.mean().item(), change.std().item() / DRAWS**0.5
    print(f"{where:6s}" + "  ".join(f"{n} {overlap[where, n]:.3f} ({energy_gap[where, n]:4.1f})" for n in names))
worst_shift = max(abs(change) / error for change, error in shift.values())

# %%
pictures = {}
with isolated(models["at"], guides["autoregressive", "at"], seed=3), torch.no_grad():
    lattice = drawn["at"][drawn["at"][:40].sum((1, 2)).abs().argmin()]  # of 40, the most evenly divided
    pictures["lattice"] = lattice.expand(1, -1, -1)
    for name in names[::-1]:
        pictures[f"{name} anew"] = guides["autoregressive", "at"].resample(lattice.expand(10, -1, -1), name)
image_grid({label: ((row + 1) / 2).flatten(1).numpy() for label, row in pictures.items()}, (8, 8))

# %%
loss_curves(
    {f"T {where} critical": (np.arange(len(names)), [overlap[where, n] for n in names]) for where in TEMPERATURES},
    ylabel="fraction of equal spins",
    xlabel="levels kept",
)

# %% [markdown]
# ## 5. The noise of the gradient
#
# Spins have no path: each draw's log-weight, less the mean of the others', multiplies the gradient of its log q.
# Without the baseline the log-weight itself does, and then it matters what one calls the bound: adding $L^2 \ln 2$
# turns it from one on the evidence into one on ln Z, which changes no mean and no guide. At the start q is close to
# the fair coins of the base, so that the log-weights of the evidence lie around zero and leave a baseline nothing to
# take off. Variances of the gradient's sum over parameters, on 4 x 4 at the critical temperature.


# %%
class NoBaseline(Score):
    """The score function as it stands in textbooks, of a bound moved by a constant."""

    def __init__(self, constant):
        self.constant = constant

    def advantage(self, bound, log_w):
        return (log_w + self.constant) / len(log_w)


def moments(guide, estimator, seed):
    """Mean of the gradient, its variance summed over parameters, and that sum's standard error."""
    bound, found, count = ELBO(50, estimator=estimator), [], 10 if SMOKE else 300
    with isolated(small, guide, seed=seed):
        for _ in range(count):
            gradient = torch.autograd.grad(bound.differentiable_loss(small, guide), list(guide.parameters()))
            found.append(torch.cat([part.flatten() for part in gradient]).double())
    found = torch.stack(found)
    square = (found - found.mean(0)).square().sum(1)
    return found.mean(0), square.sum().item() / (count - 1), square.std().item() / count**0.5, count


with torch.random.fork_rng():
    torch.manual_seed(0)
    untrained = CoarseToFine(small)
estimators = {"baseline": "score", "none, evidence": NoBaseline(0.0), "none, ln Z": NoBaseline(16 * math.log(2))}
variance, bias = {}, {}
for stage, guide in (("start", untrained), ("trained", guides4["autoregressive"])):
    results = {label: moments(guide, estimator, seed) for seed, (label, estimator) in enumerate(estimators.items())}
    for label, (mean, total, error, count) in results.items():
        variance[stage, label] = total, error
        noise = (total + results["baseline"][1]) / count
        bias[stage, label] = (mean - results["baseline"][0]).square().sum().item() / noise
        print(f"{stage:8s} {label:15s} variance {total:.4g} +- {error:.2g}")
bias = max(value for (_, label), value in bias.items() if label != "baseline")  # one on average if there is none

# %% [markdown]
# ## 6. The other way round
#
# So far q was fitted to a density, without data. Now 4,000 exact samples of 4 x 4 are given and the density is not. HVAE
# and VLAE have Gaussian latents above independent pixels; their p(x) of all 65,536 lattices comes of importance samples,
# and is normalised over them. `CoarseToFine` is a density, so that the same samples can be fitted by maximum likelihood.
# Short runs: `docs/ising.md` has the rows' full ones.

# %%
data = pyrarchy.load_data("ising4")
rows = torch.from_numpy(data.train)
states = small.assemble(all_spins(16))
log_p = log_levels(small, states)["s1"]


def both_ways(log_m):
    """KL(m || p) and KL(p || m), nats, after normalisation, and the sum that was divided out."""
    total = log_m.logsumexp(0)
    log_m = log_m - total
    return (
        (log_m.exp() * (log_m - log_p)).sum().item(),
        (log_p.exp() * (log_p - log_m)).sum().item(),
        total.exp().item(),
    )


learnt, epochs, importance = {}, *((1, 2) if SMOKE else (120, 30))
for name in ("hvae", "vlae"):
    pair = pyrarchy.get_pair(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, guide = pair(data)
    batches = Batches((rows,), 200, seed=0)
    total = epochs * len(batches)
    fit(
        model,
        guide,
        batches,
        objective=ELBO(),
        optimizer=2 * pair.training.lr,
        steps=total,
        schedule=lambda step, total=total, end=pair.training.decay: cosine(step / total, end),
        temper=warm_up({"steps": total, "warm_up": pair.training.warm_up}),
    )
    images = ((states + 1) / 2).flatten(1).float()
    found = evaluate(model, guide, images, num_samples=importance, rows_per_pass=100_000)
    learnt[name] = both_ways(torch.from_numpy(found.log_p).double())

with torch.random.fork_rng():
    torch.manual_seed(0)
    direct = CoarseToFine(small)
optimiser, lattices = torch.optim.Adam(direct.parameters(), 1e-2), 2 * rows.unflatten(1, (4, 4)) - 1
for _ in range(10 if SMOKE else 100):
    optimiser.zero_grad()
    (-sum(direct.log_prob(lattices).values()).mean()).backward()
    optimiser.step()
with torch.no_grad():
    learnt["coarse to fine"] = both_ways(sum(direct.log_prob(states.float()).values()).double())
for name, (back, forward, total) in learnt.items():
    print(f"{name:15s} KL(m || p) {back:.4f}, KL(p || m) {forward:.4f}, sum of m {total:.4f}")

# %% [markdown]
# ## What was measured


# %%
def verdict(holds, claim):
    print(f"* {'holds' if holds else 'does not hold'}: {claim}")


def at_each(values):
    """Three numbers in words."""
    return ", ".join(f"{where} {values[where]:.4f}" for where in TEMPERATURES)


verdict(
    max(kaufman_off.values()) < 1e-9,
    f"Kaufman's ln Z is the sum over all lattices (off by {kaufman_off['4 x 4']:.1e} by enumeration, "
    f"{kaufman_off['8 x 8']:.1e} by transfer matrices)",
)
verdict(
    hot < 1e-3,
    f"the root may be taken positive (infinitely hot, ln Z is too large by {hot:.4f} nats; T = 3.5, L = 8: "
    f"{np.interp(3.5, grid, copied['8 x 8']):.4f}; below the critical temperature {below_critical:.1e})",
)
verdict(
    0 <= kl4["autoregressive"]["all"][0] < 0.01,
    f"on 4 x 4 the trained hierarchy is the Boltzmann distribution to .01 nats (KL {kl4['autoregressive']['all'][0]:.4f})",
)
kl, error = kl8["autoregressive", "at"]["all"]
verdict(kl + 2 * error < 0.05, f"on 8 x 8 to .05 nats at the critical temperature (KL {kl:.4f} +- {error:.4f})")
verdict(
    min(exact_gaps) > -1e-5,
    f"the variational free energy is never below the true one (4 x 4, exactly, {len(exact_gaps)} stages of training: least "
    f"gap {min(exact_gaps):.4f} nats)",
)
verdict(
    exceeded == 0,
    f"nor is an estimate of it from {PARTICLES} draws (8 x 8, last quarter of the training: {exceeded} of {len(late)} "
    "steps are beyond ln Z)",
)
plain, blind = kl4["autoregressive"], kl4["factorised"]
verdict(
    blind["all"][0] > 2 * plain["all"][0],
    f"independence within the levels costs on 4 x 4 (KL {blind['all'][0]:.4f} against {plain['all'][0]:.4f})",
)
(kl, error), (blind_kl, blind_error) = kl8["autoregressive", "at"]["all"], kl8["factorised", "at"]["all"]
verdict(
    blind_kl - kl > 4 * math.hypot(error, blind_error),
    f"and on 8 x 8 (KL {blind_kl:.4f} +- {blind_error:.4f} against {kl:.4f} +- {error:.4f})",
)
(kl, error), (blind_kl, blind_error) = kl8["autoregressive", "at"]["s1"], kl8["factorised", "at"]["s1"]
verdict(
    blind_kl - kl > 4 * math.hypot(error, blind_error),
    f"also in the finest level (KL {blind_kl:.4f} +- {blind_error:.4f} against {kl:.4f} +- {error:.4f})",
)
ratio = {where: kl8["factorised", where]["all"][0] / kl8["autoregressive", where]["all"][0] for where in TEMPERATURES}
verdict(
    ratio["at"] > max(ratio["below"], ratio["above"]),
    f"it costs the most at the critical temperature (KL as a multiple of the autoregressive one: {at_each(ratio)})",
)
easy = {where: order_kl["coarse to fine", where][0] for where in TEMPERATURES}
error = kl8["autoregressive", "at"]["all"][1]
verdict(
    max(easy.values()) < 0.1, f"coarse to fine the problem is easy at any of three temperatures (KL {at_each(easy)})"
)
verdict(
    all(easy["at"] - easy[w] > 4 * math.hypot(kl8["autoregressive", w]["all"][1], error) for w in ("below", "above")),
    f"it is hardest at the critical temperature (KL there {easy['at']:.4f} +- {error:.4f}, below it {easy['below']:.4f})",
)
for label in orders:
    others = {where: order_kl[label, where][0] for where in TEMPERATURES}
    verdict(
        all(others[where] > 2 * easy[where] for where in TEMPERATURES),
        f"in the order {label} it is twice as far from p or more (KL {at_each(others)})",
    )
off = {w: abs(sum(entropy[w].values()) - exact_entropy[w]) / spread[w] for w in TEMPERATURES}
verdict(
    max(off.values()) < 4, f"the entropies of the levels sum to ln Z + U / T (off by {max(off.values()):.1f} errors)"
)
verdict(
    min(quarter.values()) > 0.5,
    f"the information is in the coarse levels (share of the entropy in the coarsest quarter of the spins: "
    f"{at_each(quarter)})",
)
rise = max(b - a for row in bits.values() for a, b in pairwise(row))
verdict(
    rise < 0.005,
    f"the finer its level, the more a spin is decided by those above (bits of a spin in s1: "
    f"{at_each({w: row[-1] for w, row in bits.items()})}; largest rise from level to level {rise:+.4f})",
)
verdict(
    all(overlap["at", a] < overlap["at", b] for a, b in pairwise(names)),
    f"the more levels are kept, the nearer the neighbours (equal spins at the critical temperature: "
    f"{overlap['at', 's7']:.3f} with none kept, {overlap['at', 's6']:.3f} with one spin, "
    f"{overlap['at', 's2']:.3f} with a quarter of them, "
    f"{overlap['at', 's1']:.3f} with half)",
)
verdict(
    all(overlap[where, "s6"] > 0.75 for where in TEMPERATURES),
    f"one kept spin makes a neighbour (equal spins: {at_each({w: overlap[w, 's6'] for w in TEMPERATURES})})",
)
verdict(
    energy_gap["at", "s1"] < 0.5 * energy_gap["at", "s7"],
    f"keeping half of the spins, the energies are less than half as far apart (root mean square difference "
    f"{energy_gap['at', 's1']:.2f}, of independent lattices {energy_gap['at', 's7']:.2f})",
)
verdict(worst_shift < 4, f"neighbours have the energy of p on average (largest shift {worst_shift:.1f} errors)")
for stage in ("start", "trained"):
    base, error = variance[stage, "baseline"]
    shares = [variance[stage, label][0] / base for label in ("none, evidence", "none, ln Z")]
    verdict(
        min(shares) > 2,
        f"the baseline halves the variance or better, {stage} (without it {shares[0]:.1f} times, of the bound on ln Z "
        f"{shares[1]:.1f} times; +- {error / base:.2f})",
    )
verdict(bias < 3, f"all of them have one mean (squared difference {bias:.2f} of its noise)")
verdict(
    learnt["hvae"][0] < 0.05 and learnt["vlae"][0] < 0.05,
    f"Gaussian latents learn the spins from 4,000 samples as well (KL(m || p) of HVAE {learnt['hvae'][0]:.4f}, of VLAE "
    f"{learnt['vlae'][0]:.4f}; KL(p || m) {learnt['hvae'][1]:.4f} and {learnt['vlae'][1]:.4f})",
)
verdict(
    learnt["coarse to fine"][1] < min(learnt["hvae"][1], learnt["vlae"][1]),
    f"the hierarchy of spins learns more from the same samples (KL(p || m) {learnt['coarse to fine'][1]:.4f})",
)
