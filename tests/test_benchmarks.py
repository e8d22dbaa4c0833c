"""The benchmarks compare like with like: one loss, one gradient, and a harness that finds ratios it is told."""

import pyro
import pytest
import torch
from pyro import poutine

from benchmarks import evaluation
from benchmarks.by_hand import HandVAE
from benchmarks.evaluation import hand_log_p
from benchmarks.factor_analysis import ACCELERATED, PLAIN, SYRK, FactorAnalysisRun, log_likelihood, simulate
from benchmarks.factor_analysis import Setting as Rows
from benchmarks.interleave import Variant, interleave, ratio
from benchmarks.pyro_svi import PyroVAE, pyro_objective
from benchmarks.svi_steps import Setting, hand_variant, make_bound, make_pair, our_variant, pyro_variant
from pyrarchy.inference import evaluate, fit, isolated

SMALL = {
    1: Setting("small", batch_size=7, num_particles=1, x_dim=11, z_dim=3, hidden=(5, 4)),
    6: Setting("small", batch_size=7, num_particles=6, x_dim=11, z_dim=3, hidden=(5, 4)),
}


@pytest.fixture(params=SMALL, ids=lambda k: f"K{k}")
def setting(request):
    return SMALL[request.param]


def by_hand(setting, model, guide, data):
    return HandVAE(setting.x_dim, setting.z_dim, setting.hidden, data.mean(0)).copy_weights(model, guide)


def test_hand_written_loss_and_gradients_are_ours(setting):
    """Same seed, same weights: the same number and the same gradient of every tensor, up to float32 rounding."""
    model, guide, data = make_pair(setting)
    module, x = by_hand(setting, model, guide, data), data[: setting.batch_size]
    with isolated(model, guide, seed=4, train=True):
        ours = make_bound(setting).differentiable_loss(model, guide, x) / len(x)
        ours.backward()
    torch.manual_seed(4)
    theirs = module.loss(x, setting.num_particles)
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    pairs = list(zip([*guide.encoder.parameters(), *model.decoder.parameters()], _in_order(module), strict=True))
    assert all(p.grad.abs().max() > 0 for p, _ in pairs)
    for p, q in pairs:
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def _in_order(module):
    parts = (module.encoder, module.loc, module.raw_scale, module.decoder)
    return [p for part in parts for p in part.parameters()]


@pytest.mark.stochastic
def test_held_out_bound_by_hand_is_ours():
    """Other draws, same L_K: the means over the data agree within the weights' own error."""
    setting = SMALL[6]
    model, guide, data = make_pair(setting)
    fit(model, guide, data, steps=300, optimizer=1e-2)  # an untrained guide's weights have no variance
    ours = evaluate(model, guide, data, num_samples=2000)
    theirs = hand_log_p(by_hand(setting, model, guide, data), data, 2000)
    error = 4.5 * 2**0.5 * ours.error_weights
    assert abs(ours.mean_log_p - theirs.mean().item()) < error < 0.1
    assert [v.name for v in evaluation.variants(setting)] == [evaluation.HAND, evaluation.OURS]


def test_pyro_steps_move_the_weights_and_share_no_store(setting):
    """Two variants of Pyro's SVI in turns: each goes on where it was, and nothing is left in the store."""
    variants = [pyro_variant(setting, name) for name in "ab"]
    losses = {"a": [], "b": []}
    for variant in variants * 3:
        with variant.around():
            pyro.set_rng_seed(len(losses[variant.name]))
            losses[variant.name].append(variant.step())
    assert losses["a"] == losses["b"] and len(set(losses["a"])) == 3
    assert not list(pyro.get_param_store())


def test_steps_by_hand_follow_ours(setting):
    """Five whole training steps from one seed: the losses stay together."""
    variant, hand = our_variant(setting), hand_variant(setting)
    with variant.around():
        torch.manual_seed(8)
        ours = [variant.step() for _ in range(5)]
    torch.manual_seed(8)
    theirs = [hand.step() for _ in range(5)]
    assert len(set(ours)) == 5
    assert ours == pytest.approx(theirs, rel=1e-4)  # Adam divides by the gradient's size: rounding grows a little


def test_a_step_leaves_the_modules_to_pyro(setting):
    """Our step reads networks past Pyro; afterwards Pyro finds all their tensors again, and nothing else is left."""
    model, guide, data = make_pair(setting)
    before = [set(vars(m)) for m in (model, guide)]
    fit(model, guide, data, objective=make_bound(setting), steps=2, batch_size=setting.batch_size)
    assert [set(vars(m)) - {"trace", "_asking"} for m in (model, guide)] == [b - {"trace", "_asking"} for b in before]
    seen = poutine.trace(guide, param_only=True).get_trace(data).param_nodes
    assert len(seen) == len([*model.parameters(), *guide.parameters()])


def test_pyro_variant_has_the_same_loss(setting):
    """Pyro's own objective on the tutorial's model is the loss by hand under the same seed."""
    model, guide, data = make_pair(setting)
    module, x = by_hand(setting, model, guide, data), data[: setting.batch_size]
    vae = PyroVAE(module)
    pyro.set_rng_seed(4)
    theirs = pyro_objective(setting.num_particles).loss(vae.model, vae.guide, x) / len(x)
    torch.manual_seed(4)
    assert theirs == pytest.approx(module.loss(x, setting.num_particles).item(), rel=1e-5)


@pytest.mark.stochastic
def test_numpyro_variant_has_the_same_loss(setting):
    """Other generators, same expectation: the means over 400 draws agree within four standard errors."""
    pytest.importorskip("numpyro", reason="NumPyro is in the extra 'bench' only")
    import jax
    import jax.numpy as jnp

    from benchmarks.numpyro_svi import make_svi

    model, guide, data = make_pair(setting)
    module, x = by_hand(setting, model, guide, data), data[: setting.batch_size]
    svi, rows = make_svi(*setting.numpyro(module), setting.num_particles), jnp.asarray(x.numpy())
    state = svi.init(jax.random.key(0), rows)
    draw = jax.jit(jax.vmap(lambda key: svi.evaluate(state._replace(rng_key=key), rows)))
    theirs = torch.tensor(draw(jax.random.split(jax.random.key(1), 400)).tolist()) / len(x)
    with torch.no_grad():
        ours = torch.stack([module.loss(x, setting.num_particles) for _ in range(400)])
    error = (ours.var() / 400 + theirs.var() / 400).sqrt()
    assert (ours.mean() - theirs.mean()).abs() < 4 * error
    assert error < 0.05


def test_numpyro_loop_takes_the_steps_of_the_update(setting):
    """One compiled loop over the batches is as many jitted updates, to rounding."""
    pytest.importorskip("numpyro", reason="NumPyro is in the extra 'bench' only")
    from benchmarks.numpyro_svi import make_svi, numpyro_loop, numpyro_step

    model, guide, data = make_pair(setting)
    module, rows = by_hand(setting, model, guide, data), data.reshape(-1, setting.batch_size, setting.x_dim).numpy()
    svi = make_svi(*setting.numpyro(module), setting.num_particles)
    step = numpyro_step(svi, iter(rows), rows[0])
    assert numpyro_loop(svi, rows)() == pytest.approx(sum(step() for _ in rows) / len(rows), rel=1e-5)


def test_interleave_finds_the_ratio():
    """A variant that costs three times as much has ratio three; the reference has ratio one exactly."""
    now = [0.0]

    def cost(seconds):
        def step():
            now[0] += seconds

        return step

    variants = [Variant("short", cost(0.002)), Variant("long", cost(0.006))]
    short, long = interleave(variants, rounds=15, slice_seconds=0.004, warm_up=1, clock=lambda: now[0])
    assert (short.ratio, short.low, short.high) == (1.0, 1.0, 1.0)
    assert (long.ratio, long.low, long.high) == pytest.approx((3.0, 3.0, 3.0))
    assert (short.millis, long.millis) == pytest.approx((2.0, 6.0))
    both = [short.as_dict(), long.as_dict()]
    assert (ratio(both, "long", "short"), ratio(both, "short", "long")) == pytest.approx((3.0, 1 / 3))
    ten = Variant("ten at once", cost(0.01), steps=10)
    assert interleave([variants[0], ten], 5, clock=lambda: now[0])[1].ratio == pytest.approx(0.5)


def test_interleave_takes_ratios_within_a_round():
    """A machine that slows down tenfold half-way through changes no ratio."""
    now, slices = [0.0], [0]

    def work(cost):
        def step():
            now[0] += cost * (10.0 if slices[0] > 20 else 1.0)
            slices[0] += 1

        return step

    timings = interleave([Variant("a", work(1.0)), Variant("b", work(2.0))], 21, warm_up=0, clock=lambda: now[0])
    assert timings[1].ratio == pytest.approx(2.0)
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        interleave([Variant("a", work(1.0))], 0)
    with pytest.raises(ValueError, match="distinct names"):
        interleave([Variant("a", work(1.0)), Variant("a", work(1.0))])


def test_factor_analysis_reaches_the_same_likelihood():
    """Ours and scikit-learn's end at one likelihood, which the data's own covariance cannot be beaten by."""
    pytest.importorskip("sklearn", reason="scikit-learn is in the extras 'test' and 'bench' only")
    fa = FactorAnalysisRun(Rows("small", 900, 9, 2))
    for variant in (*fa.variants(), *fa.climbs()):
        variant.step()
    reached = fa.log_likelihoods()
    assert set(reached) == {v.name for v in fa.variants()} - {SYRK} | {PLAIN, ACCELERATED}
    assert max(reached.values()) - min(reached.values()) < 1e-4
    exact = torch.distributions.MultivariateNormal(torch.zeros(9), torch.tensor(fa.x).float().T.cov(correction=0))
    centred = torch.tensor(fa.x - fa.x.mean(0)).float()
    assert max(reached.values()) < exact.log_prob(centred).mean().item()


def test_log_likelihood_is_the_density():
    """The one judge of both fits against torch's multivariate normal."""
    x = simulate(Rows("small", 50, 4, 1)).astype(float)
    x = torch.tensor(x - x.mean(0))
    loadings, noise = torch.tensor([[1.0], [-0.5], [0.2], [0.7]]).double(), torch.tensor([0.5, 1.0, 1.5, 0.8]).double()
    density = torch.distributions.MultivariateNormal(torch.zeros(4).double(), loadings @ loadings.T + noise.diag())
    found = log_likelihood((x.T @ x / len(x)).numpy(), loadings.numpy(), noise.numpy())
    assert found == pytest.approx(density.log_prob(x).mean().item(), rel=1e-12)
