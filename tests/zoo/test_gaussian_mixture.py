"""The mixture against enumeration of all assignments, and against simulated clusters."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from pyrarchy import load_data
from pyrarchy.inference import fit_cavi
from pyrarchy.zoo import GaussianMixture, NormalGamma


def enumerated_log_evidence(model, x):
    """log p(x): a sum over all K^N assignments, each with weights, means and precisions integrated out exactly."""
    n, k, a = len(x), model.components, model.concentration
    columns = [NormalGamma(float(loc), model.strength, model.shape, float(rate)) for loc, rate in
               zip(model.loc, model.rate, strict=True)]  # fmt: skip
    total = []
    for z in itertools.product(range(k), repeat=n):
        counts = np.bincount(z, minlength=k)
        value = gammaln(k * a) - gammaln(k * a + n) + (gammaln(a + counts) - gammaln(a)).sum()
        for part in range(k):
            rows = x[torch.tensor(z) == part]
            if len(rows):
                value += sum(column.log_evidence(rows[:, d]).item() for d, column in enumerate(columns))
        total.append(value)
    return np.logaddexp.reduce(total)


def tiny():
    x = torch.tensor([[0.1, 5.0], [0.3, 4.0], [2.9, -1.0], [3.4, -2.0], [0.2, 4.5]], dtype=torch.float64)
    return GaussianMixture(2, 2, concentration=1.3, strength=0.5, loc=1.0, scale=torch.tensor([0.5, 1.5])), x


def test_bound_lies_below_the_enumerated_evidence():
    """By little more than the log 2! of the labelling that mean field chooses, as the clusters are far apart."""
    model, x = tiny()
    record = fit_cavi(model, x)
    gap = enumerated_log_evidence(model, x) - record.bound
    assert math.log(2) < gap < math.log(2) + 0.5
    assert record.q.assignments.max(-1).values.min() > 0.9


def test_bound_of_a_known_partition_is_its_evidence():
    """Where the assignments are certain the posterior of the rest factorises as q does, and the bound is
    log p(x, z): the Dirichlet-multinomial probability of z times the evidence of each cluster."""
    model, x = tiny()
    assignments = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 0]], dtype=torch.float64)
    q = model._component_step(x, assignments)
    a, counts = model.concentration, np.array([3, 2])
    exact = gammaln(2 * a) - gammaln(2 * a + 5) + (gammaln(a + counts) - gammaln(a)).sum()
    for part in (0, 1):
        for d in (0, 1):
            column = NormalGamma(float(model.loc[d]), model.strength, model.shape, float(model.rate[d]))
            exact += column.log_evidence(x[assignments[:, part] == 1][:, d]).item()
    assert model.bound(x, q=q).item() == pytest.approx(exact, abs=1e-9)


def test_simulated_clusters_are_recovered():
    """Three clusters of 60 rows, 8 standard deviations apart; three more components than that are switched off."""
    rng = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, -8.0]])
    labels = np.repeat([0, 1, 2], 60)
    x = torch.tensor(centres[labels] + rng.standard_normal((180, 2)))
    record = fit_cavi(GaussianMixture(2, 6, loc=x.mean(0), scale=x.std(0)), x)
    q = record.q
    used = (q.concentration > 1).nonzero()[:, 0]
    assert len(used) == 3 and record.converged
    found = q.assignments[:, used].argmax(-1).numpy()
    for label in range(3):
        (part,) = set(found[labels == label].tolist())
        # a mean of 60 unit draws: standard error .129
        np.testing.assert_allclose(q.loc[used][part].numpy(), x[labels == label].mean(0), atol=0.03)
        np.testing.assert_allclose(q.loc[used][part].numpy(), centres[label], atol=4.5 * 0.129)


def test_old_faithful_keeps_two_of_six_components():
    """As in Bishop (2006), figure 10.6."""
    data = load_data("old_faithful")
    x = torch.from_numpy(data.train).double()
    assert x.shape == (272, 2) and x.mean(0).tolist() == pytest.approx([3.48778, 70.89706], abs=1e-5)
    q = fit_cavi(GaussianMixture(2, 6, loc=x.mean(0), scale=x.std(0)), x, starts=2).q
    held = q.concentration.sort(descending=True).values - 0.1
    assert held[0].item() == pytest.approx(174.8, abs=0.5) and held[1].item() == pytest.approx(97.2, abs=0.5)
    assert (held[2:] < 1e-3).all()
    assert q.loc[q.concentration.argmax()].tolist() == pytest.approx([4.292, 79.99], abs=0.01)


def test_rows_that_are_all_the_same_have_a_start():
    x = torch.ones(4, 3)
    assert torch.isfinite(GaussianMixture(3, 5).start(x, seed=2).assignments).all()


def test_starts_follow_from_their_seed():
    model, x = tiny()
    before = torch.get_rng_state()
    assert torch.equal(model.start(x, seed=3).loc, model.start(x, seed=3).loc)
    assert torch.equal(before, torch.get_rng_state())


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="components: 1 given"):
        GaussianMixture(2, 1)
    with pytest.raises(ValueError, match="scale"):
        GaussianMixture(2, 3, scale=torch.tensor([1.0, 0.0]))
