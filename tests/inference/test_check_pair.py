"""The check of a pair: it describes what is right and names what is wrong."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from pyrarchy.guides import Encoder, Ladder
from pyrarchy.inference import ImportanceWeighted, check_pair
from pyrarchy.zoo import EightSchools, MarkovHVAE

B = 6


class Model(PyroModule):
    def __init__(self, decode=None):
        super().__init__("model")
        self.net = decode or nn.Linear(2, 3)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


class Q(PyroModule):
    def __init__(self, net):
        super().__init__("guide")
        self.net = net

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(self.net(x), 1.0).to_event(1))


class Centre(nn.Module):
    """Takes off the batch's mean: couples the rows, and does not see their order."""

    def forward(self, h):
        return h - h.mean(0, keepdim=True)


def with_extra(net):
    return nn.Sequential(nn.Linear(3, 2), net)


def test_a_right_pair_is_described():
    model = MarkovHVAE(7, z_dims=(4, 3), hidden=(8, 6))
    guide = Ladder(model, Encoder(7, (4, 3), (8, 6)))
    x = torch.bernoulli(torch.full((B, 7), 0.5))
    before = torch.get_rng_state()
    found = check_pair(model, guide, x)
    assert torch.equal(before, torch.get_rng_state()) and not list(pyro.get_param_store())
    assert {n: (tuple(b), tuple(e), f) for n, (b, e, f) in found.latents.items()} == {
        "z1": ((B,), (4,), "Normal"),
        "z2": ((B,), (3,), "Normal"),
    }
    assert list(found.observed) == ["x"] and found.observed["x"][2] == "Bernoulli" and found.local
    assert found.num_parameters == sum(p.numel() for p in (*model.parameters(), *guide.parameters()))
    assert "z2" in str(found) and f"{found.num_parameters:,} trainable numbers" in str(found)
    assert check_pair(model, guide, x[:1]).local  # one row has no others to lean on


@pytest.mark.parametrize(
    "net",
    [
        nn.BatchNorm1d(2, track_running_stats=False),  # batch statistics in evaluation too
        nn.BatchNorm1d(2, affine=False, track_running_stats=False),
        Centre(),
    ],
    ids=["batch norm", "no affine", "centre"],
)
@pytest.mark.parametrize("rows", [2, B])
def test_rows_that_lean_on_each_other_are_caught(net, rows):
    with pytest.raises(ValueError, match=r"row \d.*couples the data"):
        check_pair(Model(), Q(with_extra(net)), 2 * torch.randn(rows, 3))
    check_pair(Model(), Q(with_extra(nn.BatchNorm1d(2))), torch.randn(rows, 3))  # frozen in evaluation


def test_a_parameter_without_a_gradient_is_named():
    class Lazy(nn.Linear):
        def forward(self, h):
            return super().forward(h).detach()

    with pytest.raises(ValueError, match=r"\['guide.net.weight', 'guide.net.bias'\]"):
        check_pair(Model(), Q(Lazy(3, 2)), torch.randn(B, 3))


class Flat(nn.Module):
    """A decoder that takes the first dimension for the batch: wrong as soon as particles stand on the left."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, z):
        return self.linear(z.reshape(-1, 2))[:B]


def test_a_network_that_loses_the_particles_is_caught():
    """Every particle would be given the first one's decoding."""
    with pytest.raises(ValueError, match=r"site .x.*particle"):
        check_pair(Model(Flat()), Q(nn.Linear(3, 2)), torch.randn(B, 3))


def test_misuse_is_passed_on():
    with pytest.raises(ValueError, match="'z1'"):
        check_pair(Model(), lambda x: None, torch.randn(B, 3))
    with pytest.raises(ValueError, match="share parameter keys"):
        guide = Q(nn.Linear(3, 2))
        guide._pyro_name = "model"
        check_pair(Model(), guide, torch.randn(B, 3))


def test_other_objectives_and_global_latents():
    found = check_pair(Model(), Q(nn.Linear(3, 2)), torch.randn(B, 3), objective=ImportanceWeighted(4))
    assert found.local
    model = EightSchools()
    found = check_pair(model, AutoNormal(model), torch.randn(8), torch.ones(8))
    assert not found.local and {"mu", "tau", "theta"} < set(found.latents) and "one datum" in str(found)
