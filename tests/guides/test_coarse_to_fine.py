"""One density for the whole lattice, coarse to fine: it sums to one, samples follow it, and training finds Boltzmann's."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.fit_plan import cosine
from pyrarchy.guides import CoarseToFine, FactorisedCoarseToFine
from pyrarchy.inference import ELBO, Anneal, evaluate, fit, isolated, log_prob
from pyrarchy.ising_levels import level_kls
from pyrarchy.zoo import PPCA, Ising
from pyrarchy.zoo.ising_exact import energy, enumerate_levels, log_partition, magnetisation

KINDS = [CoarseToFine, FactorisedCoarseToFine]


def pair(kind=CoarseToFine, size=4, width=5, shake=0.6, temperature=2.0):
    """A model and a guide with weights away from their start, in double precision."""
    model = Ising(size, temperature).double()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        guide = kind(model, width).double()
        for parameter in guide.parameters():
            parameter.add_(shake * torch.randn_like(parameter))
    return model, guide


def trained(model, guide, steps, lr=1e-2, particles=500, **more):
    bound = ELBO(particles, estimator="score")
    return fit(
        model,
        guide,
        None,
        objective=bound,
        optimizer=lr,
        steps=steps,
        schedule=lambda s: cosine(s / steps, 0.01),
        **more,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_level_is_a_normalised_conditional(kind):
    """Over all 65,536 states: q sums to one, and so does each level given any lattice above it."""
    model, guide = pair(kind)
    lattices, tables = enumerate_levels(model)
    with torch.no_grad():
        log_q = guide.log_prob(lattices)
    assert list(log_q) == ["s5", "s4", "s3", "s2", "s1"]
    assert sum(log_q.values()).exp().sum() == pytest.approx(1, abs=1e-12)
    above = 1
    for name, table in zip(log_q, tables, strict=True):
        rows = log_q[name].reshape(len(table), -1)  # the same for every state of the levels below
        assert (rows - rows[:, :1]).abs().max() < 1e-12
        torch.testing.assert_close(rows[:, 0].reshape(above, -1).exp().sum(-1), torch.ones(above).double())
        above = len(table)


@pytest.mark.parametrize("kind", KINDS)
def test_turning_every_spin_over_changes_nothing(kind):
    _, guide = pair(kind, size=8)
    lattice = torch.randn(7, 8, 8).double().sign()
    for name, there in guide.log_prob(lattice).items():
        torch.testing.assert_close(there, guide.log_prob(-lattice)[name])
    assert not torch.allclose(there, guide.log_prob(lattice.roll(1, -1))["s1"])


@pytest.mark.stochastic
@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density_and_the_pass_agrees_with_it(kind):
    model, guide = pair(kind, shake=0.4)
    lattices, _ = enumerate_levels(model)
    with isolated(model, guide, seed=2), torch.no_grad():
        terms = ELBO(40_000).terms(model, guide)
        log_q = sum(guide.log_prob(lattices).values())
    spins = 2 * torch.cat([terms.values[name] for name in model.levels], -1).reshape(-1, 16) - 1
    drawn = model.assemble(spins)
    with torch.no_grad():
        at_draws = guide.log_prob(drawn)
    for name in model.levels:
        torch.testing.assert_close(terms.log_q[name][:, 0], at_draws[name])
    for statistic in (
        energy,
        lambda s: s[:, 0, 0] * s[:, 2, 1],
        lambda s: s[:, 0, 1] * s[:, 1, 0],
        lambda s: s[:, 0, 0],
    ):
        exact, found = (log_q.exp() * statistic(lattices)).sum(), statistic(drawn)
        assert abs(found.mean() - exact) < 4.5 * found.std() / len(found) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_a_foreign_lattice_its_density(kind):
    model, guide = pair(kind, size=8)
    ELBO(9, estimator="score").differentiable_loss(model, guide).backward()
    assert all(p.grad is not None and p.grad.any() for p in guide.parameters())
    bits = torch.cat([torch.ones(len(places)).double() for places in model.levels.values()])
    z = dict(zip(model.levels, bits.split([len(places) for places in model.levels.values()]), strict=True))
    for name, expected in guide.log_prob(torch.ones(8, 8).double()).items():
        torch.testing.assert_close(log_prob(guide, z)[name], expected)


@pytest.mark.stochastic
def test_the_score_gradient_is_the_gradient_of_the_enumerated_free_energy():
    model, guide = pair(width=3, shake=0.3)
    lattices, tables = enumerate_levels(model)
    log_q = sum(guide.log_prob(lattices).values())
    exact = torch.autograd.grad((log_q.exp() * (log_q - tables[-1])).sum(), list(guide.parameters()))
    runs = []
    for seed in range(8 * 30):
        pyro.set_rng_seed(seed)
        loss = ELBO(250, estimator="score").differentiable_loss(model, guide)
        runs.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(guide.parameters()))]))
    runs, exact = torch.stack(runs), torch.cat([g.flatten() for g in exact])
    used = runs.std(0) > 0  # masked weights have neither
    assert (exact[~used].abs() < 1e-12).all() and used.sum() > 100
    # The entries of one gradient hang together, so that their mean square is one over several averages, not over one.
    groups, target = runs.reshape(8, 30, -1)[..., used], exact[used]
    deviation = (groups.mean(1) - target) / (groups.std(1) / 30**0.5)
    assert 0.7 < deviation.square().mean() < 1.5  # t of 29 degrees of freedom: 29 / 27
    error = runs[:, used].std(0) / len(runs) ** 0.5
    assert ((runs[:, used].mean(0) - target) / error).abs().max() < 6 and (target.abs() > 5 * error).any()


@pytest.mark.parametrize("kind", KINDS)
def test_resampling_keeps_what_is_above(kind):
    model, guide = pair(kind, size=8)
    torch.manual_seed(1)
    lattice = torch.randn(400, 8, 8).double().sign()
    spins, start = model.disassemble(lattice), 0
    for name, places in model.levels.items():
        near = guide.resample(lattice, name)
        assert near.shape == lattice.shape and set(near.unique().tolist()) == {-1.0, 1.0}
        again = model.disassemble(near)
        assert torch.equal(again[:, :start], spins[:, :start])
        assert (again[:, start:] != spins[:, start:]).any(0).all()
        start += len(places)
    with pytest.raises(ValueError, match=r"no level 's8'; it has \['s7', 's6'"):
        guide.resample(lattice, "s8")


@pytest.mark.stochastic
def test_resampling_draws_from_the_conditional():
    """From one lattice: the frequencies of the finest level's bits are those of log_prob."""
    model, guide = pair(shake=0.4)
    lattice = torch.tensor([1.0, -1.0, 1.0, 1.0]).repeat(4, 1).double()
    lattice[2, 2] = -1
    near = guide.resample(lattice.expand(20_000, 4, 4), "s2")
    every, _ = enumerate_levels(model)
    same = (model.disassemble(every)[:, :4] == model.disassemble(lattice)[:4]).all(-1)
    with torch.no_grad():
        p = sum(v for n, v in guide.log_prob(every[same]).items() if n in ("s2", "s1")).exp()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    mean = (p[:, None, None] * every[same]).sum(0)
    error = ((1 - mean**2) / 20_000).sqrt()
    few = 4.5**2 * 2 / (3 * 20_000)  # Bernstein: where a flip is rare its number is Poisson's, not a Gaussian's
    assert ((near.mean(0) - mean).abs() < 4.5 * error + few).all()


def test_a_short_training_of_the_small_lattice():
    """KL against enumeration, level by level, and its sum against the free energy of the fit itself."""
    model = Ising(4)
    torch.manual_seed(0)
    guide = CoarseToFine(model, 8)
    record = trained(model, guide, 150, lr=2e-2, particles=200, temper=Anneal(start=0.5, steps=40))
    kls = {name: kl for name, (kl, _) in level_kls(model, guide).items()}
    total = kls.pop("all")
    assert total == pytest.approx(sum(kls.values()), abs=1e-9)
    assert all(kl > -1e-6 for kl in kls.values())
    assert kls["s5"] == pytest.approx(0, abs=1e-6)  # a fair coin by construction
    assert sum(kls.values()) < 0.05
    found = evaluate(model, guide, None, num_samples=4000)
    gap = model.log_evidence().item() - found.mean_elbo
    assert gap == pytest.approx(sum(kls.values()), abs=0.02)
    assert record.is_lower_bound


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "worst"), [(CoarseToFine, 0.01), (FactorisedCoarseToFine, 0.06)])
def test_the_small_lattice_to_a_hundredth_of_a_nat(kind, worst):
    model = Ising(4)
    torch.manual_seed(0)
    guide = kind(model)
    trained(model, guide, 400)
    assert -1e-6 < level_kls(model, guide)["all"][0] < worst


@pytest.mark.slow
def test_eight_by_eight_at_the_critical_temperature():
    """Free energy within .39 nats and never beyond ln Z; energy and magnetisation, reweighted, within their errors."""
    model = Ising(8)
    torch.manual_seed(0)
    guide = CoarseToFine(model)
    record = trained(model, guide, 600)
    log_z, mean_energy = log_partition(8, model.temperature)
    with isolated(model, guide, seed=1), torch.no_grad():
        terms = ELBO(20_000).terms(model, guide)
        lattice = model.assemble(2 * torch.cat([terms.values[n] for n in model.levels], -1).reshape(-1, 64) - 1)
    log_w = terms.log_w[:, 0].double() + 64 * math.log(2)
    gap, error = log_z - log_w.mean().item(), log_w.std().item() / len(log_w) ** 0.5
    assert -4 * error < gap < 0.39
    assert all(value + 64 * math.log(2) < log_z + 0.5 for value in record.values[-50:])
    values, p = magnetisation(8, model.temperature)
    for statistic, exact in (
        (energy(lattice), mean_energy),
        (lattice.sum((1, 2)).abs(), (values.abs() * p).sum().item()),
    ):
        weight = (log_w - log_w.logsumexp(0)).exp()
        mean = (weight * statistic).sum()
        assert abs(mean - exact) < 4.5 * (weight**2 * (statistic - mean) ** 2).sum().sqrt()


@pytest.mark.stochastic
def test_the_kl_of_eight_by_eight_by_draws():
    """Level by level, and its sum against ln Z less the bound: the same draws, so the same number."""
    model, guide = pair(size=8, temperature=3.0, shake=0.05)
    kls = level_kls(model, guide, num=5000, seed=4)
    parts = [kls[name] for name in model.levels]
    assert sum(kl for kl, _ in parts) == pytest.approx(kls["all"][0], abs=1e-9)
    assert all(kl > -4 * error - 1e-9 for kl, error in parts) and kls["s7"] == (pytest.approx(0, abs=1e-9),) * 2
    with isolated(model, guide, seed=9), torch.no_grad():
        log_w = ELBO(5000).terms(model, guide).log_w[:, 0]
    gap, error = model.log_evidence() - log_w.mean(), log_w.std() / 5000**0.5
    assert abs(gap - kls["all"][0]) < 4.5 * math.hypot(error, kls["all"][1])


def test_what_is_not_a_lattice_is_refused():
    with pytest.raises(TypeError, match=r"needs a model with levels of spins.*PPCA does not have"):
        CoarseToFine(PPCA(5, 2))

    class Odd(Ising):
        def forward(self):
            super().forward()
            pyro.sample("field", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="site 'field': is no level of the lattice"):
        CoarseToFine(Odd(4))()
