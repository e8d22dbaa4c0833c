"""Reconstructions beside samples: how far each is from held-out data, so that neither is taken for the other.

A model may reconstruct well and sample badly, because samples need the prior to lie where the codes do. The rows between
tell where it breaks: data themselves (the floor), reconstructions, samples from the average posterior, from the prior.

Source: Rosca, Lakshminarayanan & Mohamed (2018), https://arxiv.org/abs/1802.06847 (samples against reconstructions).
"""

from dataclasses import dataclass, field

import torch

from .apply import sample
from .energy_distance import energy_distance
from .from_codes import sample_from_average, seen_again
from .isolation import isolated
from .terms import make_terms, trace_pair

DRAWS = 10


@dataclass
class SideBySide:
    """Energy distances to held-out data and the log-likelihood of reconstructions.

    :ivar dict rows: what -> (energy distance, standard error), in the units of x.
    :ivar tuple log_lik: E_q log p(x | z) of the encoded data, nats per datum, and its error over data.
    :ivar dict samples: what -> array (M, ...), the rows behind the figures.
    """

    rows: dict
    log_lik: tuple
    samples: dict = field(default_factory=dict, repr=False)

    def table(self):
        """The figures as text, one line each."""
        lines = [f"{'energy distance to held-out data of':<38}"]
        lines += [f"  {name:<36}{value:>10.4f} +- {error:.4f}" for name, (value, error) in self.rows.items()]
        value, error = self.log_lik
        return "\n".join([*lines, f"log p(x | z) of reconstructions{value:>16.2f} +- {error:.2f} nats per datum"])


def side_by_side(model, guide, data, site=None, *, mean=False, seed=0):
    """Halve the data at random; encode one half, and compare what comes of it with the other.

    :param data: tensor (N, ...), the model's only argument; unseen in training, if it is the model that is graded.
    :param str site: the layer whose average posterior is sampled; see :func:`~pyrarchy.inference.sample_from_average`.
    :param bool mean: compare E[x | z] in place of draws of x, as pictures usually show.
    :returns: :class:`SideBySide`.
    """
    if not isinstance(data, torch.Tensor) or len(data) < 6:
        raise ValueError("data must be one tensor of six rows or more, what the model observes")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).to(data.device)
    first, other = data[order[: len(data) // 2]], data[order[len(data) // 2 :]]
    again = seen_again(model, guide, first, mean=mean, seed=seed)
    if len(again) != 1:
        raise ValueError(f"the model observes {sorted(again)}: pictures are compared of one observed site")
    (name,) = again
    samples = {
        "data": first.cpu().numpy(),
        "reconstructions": again[name],
        "samples from q(z)": sample_from_average(model, guide, first, len(first), site, mean=mean, seed=seed)[name],
        "samples from the prior": sample(model, (first,), len(first), mean=mean, seed=seed)[name],
    }
    reference = other.cpu().numpy()
    with isolated(model, guide, seed=seed), torch.no_grad():
        traces = trace_pair(model, guide, (first,), num_particles=DRAWS)
        log_lik = make_terms(*traces, num_particles=DRAWS).log_lik.mean(0)
    error = log_lik.std().item() / len(first) ** 0.5
    rows = {what: energy_distance(values, reference) for what, values in samples.items()}
    return SideBySide(rows, (log_lik.mean().item(), error), samples)
