"""Densities of latents from elsewhere under a guide, by hand: a ladder, a flow, a bottom-up guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy.guides import IAF, BottomUp, Encoder, Ladder
from pyrarchy.inference import log_prob
from pyrarchy.zoo import MarkovHVAE

B, K, X_DIM = 4, 3, 5
X = torch.randn(B, X_DIM, generator=torch.Generator().manual_seed(3))


def hierarchy(kind):
    pyro.set_rng_seed(3)
    model = MarkovHVAE(X_DIM, z_dims=(3, 2), hidden=(6, 4))
    if kind == "bottom-up":
        return model, BottomUp(X_DIM, (3, 2), (6, 4))
    return model, (Ladder if kind == "ladder" else IAF)(model, Encoder(X_DIM, z_dims=(3, 2), hidden=(6, 4)))


@pytest.mark.parametrize("kind", ["ladder", "iaf", "bottom-up"])
def test_log_prob_of_foreign_latents_by_hand(kind):
    model, guide = hierarchy(kind)
    x = X.gt(0).float()
    values = {"z1": torch.randn(K, B, 3), "z2": torch.randn(K, B, 2)}
    with torch.no_grad():
        found = log_prob(guide, values, x, num_particles=K)
        for k in range(K):  # particle by particle
            alone = log_prob(guide, {n: v[k] for n, v in values.items()}, x)
            for name, density in alone.items():
                torch.testing.assert_close(found[name][k], density, rtol=1e-4, atol=1e-4)
        if kind == "bottom-up":
            q1 = guide.layers[0](x)
            by_hand = {"z1": q1.log_prob(values["z1"]), "z2": guide.layers[1](values["z1"]).log_prob(values["z2"])}
        else:
            guide.evidence = guide.encode(x)
            by_hand = {}
            trace = pyro.poutine.trace(pyro.poutine.condition(model, {"z2": values["z2"]})).get_trace(
                x.expand(K, B, -1)[0]
            )
            prior = trace.nodes["z1"]["fn"]
            if kind == "ladder":
                e = {n: q for n, q in guide.evidence.items()}
                var = 1 / (1 / prior.variance + 1 / e["z1"].variance)
                mean = var * (prior.mean / prior.variance + e["z1"].mean / e["z1"].variance)
                by_hand = {"z2": e["z2"].log_prob(values["z2"]),
                           "z1": dist.Normal(mean, var.sqrt()).to_event(1).log_prob(values["z1"])}  # fmt: skip
            else:
                by_hand = {n: guide.flows[n](*guide.evidence[n]).log_prob(v) for n, v in values.items()}
            del guide.evidence
        assert found.keys() == {"z1", "z2"}
        for name, density in by_hand.items():
            torch.testing.assert_close(found[name], density, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["ladder", "bottom-up"])
def test_log_prob_refuses_missing_and_invented_sites(kind):
    _, guide = hierarchy(kind)
    z1, z2 = torch.randn(B, 3), torch.randn(B, 2)
    with pytest.raises(ValueError, match=r"miss site\(s\) \['z2'\]: the guide samples \['z1', 'z2'\]"):
        log_prob(guide, {"z1": z1}, X)
    with pytest.raises(ValueError, match=r"unknown site\(s\) \['z9'\]"):
        log_prob(guide, {"z1": z1, "z2": z2, "z9": z2}, X)
