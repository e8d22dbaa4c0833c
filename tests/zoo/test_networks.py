"""The plain networks: shapes under any number of leading dimensions, floors, and starting values."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrarchy.zoo.networks import BernoulliHead, NormalHead, mlp, standard_normal


@pytest.mark.parametrize("lead", [(), (4,), (3, 4), (2, 3, 4)])
def test_networks_act_on_the_last_dimension(lead):
    h = torch.randn(*lead, 5)
    assert mlp((5, 7, 6))(h).shape == (*lead, 6)
    for head, size in ((NormalHead(5, 2), 2), (BernoulliHead(5, 3), 3)):
        q = head(h)
        assert q.batch_shape == lead and q.event_shape == (size,)


def test_mlp_is_the_chain_it_says():
    net, x = mlp((5, 7, 6), last=False), torch.randn(3, 5)
    first, second = (m for m in net if isinstance(m, nn.Linear))
    torch.testing.assert_close(net(x), second(first(x).tanh()))
    closed = mlp((5, 7, 6), nn.ReLU)
    assert [type(m).__name__ for m in closed] == ["Linear", "ReLU", "Linear", "ReLU"]
    for linear in (first, second):
        bound = (6 / (linear.in_features + linear.out_features)) ** 0.5
        assert linear.weight.abs().max() <= bound and linear.weight.std() > bound / 3 and not linear.bias.any()


def test_the_scale_never_falls_below_its_floor_nor_overflows():
    head = NormalHead(2, 3, floor=0.05)
    with torch.no_grad():
        head.raw_scale.bias.copy_(torch.tensor([-200.0, 0.0, 200.0]))
        head.raw_scale.weight.zero_()
    scale = head(torch.zeros(1, 2)).stddev[0]
    torch.testing.assert_close(scale, torch.tensor([0.05, 0.7431472, 200.05]))


def test_the_bernoulli_bias_starts_at_the_clipped_logit_of_the_mean():
    mean = torch.tensor([0.0, 0.3, 1.0, 0.5])
    head = BernoulliHead(2, 4, mean)
    probs = torch.sigmoid(head.logits.bias)
    torch.testing.assert_close(probs, torch.tensor([0.001, 0.3, 0.999, 0.5]))
    with pytest.raises(ValueError, match=r"\(4,\), not \(3,\)"):
        BernoulliHead(2, 4, mean[:3])


def test_standard_normal_follows_a_tensor():
    p = standard_normal(torch.zeros(3, 9, dtype=torch.float64), 2)
    assert p.event_shape == (2,) and p.batch_shape == () and p.sample().dtype == torch.float64
    z = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
