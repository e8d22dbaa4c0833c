"""The hierarchies by hand and in NumPyro are ours: one loss, one gradient; the slope of a layer is what it was told."""

from dataclasses import replace

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from benchmarks.hierarchies import DEPTHS, Hierarchy, LadderHierarchy, even_ladder, ladders, named, slopes
from benchmarks.interleave import Timing
from benchmarks.svi_steps import HAND, OURS, PYRO, hand_variant, make_bound, make_hand, our_variant
from pyrarchy.inference import isolated
from pyrarchy.inference.terms import trace_pair

SIZES = {"x_dim": 11, "z_dims": (4, 3, 2), "hidden": (6, 5, 7)}
SMALL = {
    "bottom-up": Hierarchy("small", batch_size=9, **SIZES),
    "ladder": LadderHierarchy("small", batch_size=9, **SIZES),
    "ladder, K = 6": LadderHierarchy("small", batch_size=9, num_particles=6, **SIZES),
}


@pytest.fixture(params=SMALL)
def setting(request):
    return SMALL[request.param]


def test_hand_written_loss_and_gradients_are_ours(setting):
    """Same seed, same weights: the same number and the same gradient of every tensor, up to float32 rounding."""
    model, guide, module, feed = make_hand(setting)
    x = next(feed)
    with isolated(model, guide, seed=4, train=True):
        ours = make_bound(setting).differentiable_loss(model, guide, x) / len(x)
        ours.backward()
    torch.manual_seed(4)
    theirs = module.loss(x, setting.num_particles)
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    pairs = list(zip([*guide.encoder.parameters(), *model.parameters()], module.parameters(), strict=True))
    assert all(p.grad.abs().max() > 0 for p, _ in pairs)
    for p, q in pairs:
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-6)


def test_steps_by_hand_follow_ours(setting):
    """Five whole training steps from one seed, of which ours replays three: the losses stay together."""
    variant, hand = our_variant(setting), hand_variant(setting)
    with variant.around():
        torch.manual_seed(8)
        ours = [variant.step() for _ in range(5)]
    torch.manual_seed(8)
    theirs = [hand.step() for _ in range(5)]
    assert len(set(ours)) == 5
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_pyro_takes_our_pair_with_the_same_loss():
    """What is timed as Pyro's SVI has the loss by hand under the same seed."""
    setting = SMALL["ladder"]
    model, guide, module, feed = make_hand(setting)
    x = next(feed)
    with isolated(model, guide):
        pyro.set_rng_seed(4)
        theirs = Trace_ELBO().loss(*setting.pyro(model, guide, module), x) / len(x)
    torch.manual_seed(4)
    assert theirs == pytest.approx(module.loss(x).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
def test_numpyro_has_the_same_densities(kind):
    """At latents that our guide drew, log p and log q in NumPyro are ours; both read the parameters by one name each."""
    pytest.importorskip("numpyro", reason="NumPyro is in the extra 'bench' only")
    import jax.numpy as jnp
    from numpyro.infer.util import log_density

    from benchmarks.numpyro_svi import weights_of

    model, guide, module, feed = make_hand(SMALL[kind])
    x = next(feed)
    with isolated(model, guide, seed=5), torch.no_grad():
        traces = trace_pair(model, guide, (x,))
    ours = [trace.log_prob_sum().item() for trace in traces]
    nodes = traces[0].nodes
    z = {name: jnp.asarray(nodes[name]["value"].numpy().reshape(9, -1)) for name in ("z1", "z2", "z3")}
    read, theirs = set(), []
    for density in SMALL[kind].numpyro(module):
        value, trace = log_density(density, (jnp.asarray(x.numpy()),), {}, z)
        theirs.append(value.item())
        read |= {name for name, site in trace.items() if site["type"] == "param"}
    assert theirs == pytest.approx(ours, rel=1e-5)
    assert read == set(weights_of(module))


def test_slopes_are_those_of_straight_lines():
    """Steps of a + b L seconds have slope b, in every round, whatever a is."""
    cost = {HAND: 0.3, OURS: 0.1, PYRO: 0.9}
    rounds = (1.0, 2.0, 1.0)  # a slower machine in the second
    timings = [
        Timing(named(kind, n), 0, 0, 0, 0, tuple(r * (0.7 + b * n) for r in rounds))
        for kind, b in cost.items()
        for n in DEPTHS
    ]
    found = {t.name: t for t in slopes(timings)}
    assert {kind: t.millis for kind, t in found.items()} == pytest.approx({k: 1e3 * b for k, b in cost.items()})
    assert found[OURS].ratio == pytest.approx(1 / 3)
    assert [v.name for v in ladders((2, 3), x_dim=7, z_dim=2, width=3)] == [
        named(kind, layers) for layers in (2, 3) for kind in (HAND, OURS, PYRO)
    ]
    assert replace(even_ladder(3), title="") == LadderHierarchy("", 20, z_dims=(16,) * 3, hidden=(64,) * 3)
