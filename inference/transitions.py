r"""Markov transitions that leave a density along an annealed path invariant: Hamiltonian steps, and flips of bits.

.. math:: (u, r) \to (u', -r'), \quad r \sim N(0, I), \qquad
    \text{accept with } \min\left(1, \frac{f_\beta(u') \, N(r')}{f_\beta(u) \, N(r)}\right)

All latents of all continuous sites move jointly, all chains of all data at once, and each accepts or rejects for itself.
Both kernels are reversible, so that the reverse of a transition made of them is the same kernels in the other order.

Source: Neal (2011), MCMC using Hamiltonian dynamics, https://arxiv.org/abs/1206.1901.
"""

from dataclasses import dataclass

import torch

from .annealed_path import Point

JITTER = 0.2  # of the step size, so that no trajectory is a whole number of periods


@dataclass(frozen=True)
class Transition:
    """What is done at one density of the path.

    :ivar int leapfrog_steps: length of a Hamiltonian trajectory. :ivar int repeats: transitions; zero stays in place.
    """

    leapfrog_steps: int = 10
    repeats: int = 1

    def __call__(self, path, point, beta, step_size, reverse=False):
        """Move all chains; ``step_size`` is (B,).

        :returns: the new :class:`~pyrarchy.inference.annealed_path.Point`, and the mean acceptance probability (K, B) of
            the Hamiltonian steps (ones where there are none).
        """
        accept = torch.ones_like(point.log_q)
        for i in range(self.repeats):
            for kernel in ("flip", "hamiltonian") if reverse else ("hamiltonian", "flip"):
                if kernel == "hamiltonian" and path.continuous:
                    point, probability = hamiltonian(path, point, beta, step_size, self.leapfrog_steps)
                    accept = (i * accept + probability) / (i + 1)
                elif kernel == "flip":
                    for name in path.bits:
                        point = flip(path, point, beta, name)
        return point, accept


def hamiltonian(path, point, beta, step_size, leapfrog_steps):
    """One Hamiltonian transition of all continuous sites; the new point and the acceptance probability (K, B)."""
    names = path.continuous
    step = step_size * (1 - JITTER + 2 * JITTER * torch.rand_like(point.log_q))
    steps = {name: path.spread(step, name, point.state) for name in names}
    start = {name: torch.randn_like(point.state[name]) for name in names}
    proposal, momentum = leapfrog(path, point, beta, start, steps, leapfrog_steps)
    log_ratio = proposal.log_f(beta) - point.log_f(beta) + kinetic(path, start) - kinetic(path, momentum)
    accept, probability = metropolis(log_ratio)
    return choose(path, accept, proposal, point), probability


def leapfrog(path, point, beta, momentum, steps, count):
    """Follow the flow of f_beta for ``count`` steps; returns the end point and its momentum."""
    gradient = _gradient(path, point.state, beta)[1]
    for _ in range(count):
        momentum = {name: r + steps[name] / 2 * gradient[name] for name, r in momentum.items()}
        moved = {name: point.state[name] + steps[name] * r for name, r in momentum.items()}
        point, gradient = _gradient(path, {**point.state, **moved}, beta)
        momentum = {name: r + steps[name] / 2 * gradient[name] for name, r in momentum.items()}
    return point, momentum


def _gradient(path, state, beta):
    """The point at a state, and the gradient of log f_beta for each continuous site."""
    with torch.enable_grad():
        leaves = {name: state[name].detach().requires_grad_() for name in path.continuous}
        point = path.point({**state, **leaves})
        value = point.log_q + beta * point.log_w + point.log_det
        gradients = torch.autograd.grad(value.sum(), list(leaves.values()))
    point = Point(state, point.log_q.detach(), point.log_w.detach(), point.log_det.detach())
    return point, dict(zip(leaves, gradients, strict=True))


def kinetic(path, momentum):
    """Kinetic energy of each chain of each datum, (K, B)."""
    total = 0.0
    for name, r in momentum.items():
        energy = r.square() / 2
        kept = [size if one == 1 else 1 for size, one in zip(energy.shape, path.per_datum(name, momentum), strict=True)]
        total = total + energy.sum_to_size(kept).reshape(path.size["num_particles"], path.layout.batch)
    return total


def metropolis(log_ratio):
    """Whether to accept (K, B), and with what probability; what is not a number is rejected."""
    probability = log_ratio.clamp(max=0.0).exp().nan_to_num(0.0)
    return torch.rand_like(probability) < probability, probability


def flip(path, point, beta, name):
    """A Gibbs sweep over the bits of a site, in random order: each is drawn given all else."""
    shape = path.per_datum(name, point.state)
    bits = point.state[name].new_zeros(shape).numel()
    for i in torch.randperm(bits).tolist():
        chosen = torch.zeros(bits, dtype=torch.bool, device=point.log_q.device)
        chosen[i] = True
        bit = point.state[name]
        with torch.no_grad():
            other = path.point({**point.state, name: torch.where(chosen.reshape(shape), 1 - bit, bit)})
        accept = torch.rand_like(point.log_q) < (other.log_f(beta) - point.log_f(beta)).sigmoid()
        point = choose(path, accept, other, point)
    return point


def choose(path, accept, new, old):
    """The new point where accepted (K, B), else the old one."""
    state = {
        name: torch.where(path.spread(accept, name, new.state), new.state[name], value)
        for name, value in old.state.items()
    }
    pairs = ((new.log_q, old.log_q), (new.log_w, old.log_w), (new.log_det, old.log_det))
    return Point(state, *(torch.where(accept, a, b) for a, b in pairs))
