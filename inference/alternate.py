r"""Variational EM by gradients: the guide alone for some steps, then the model alone, in place of both at once.

.. math::

    \text{E: } \phi \leftarrow \phi + \text{Adam}(\nabla_\phi \mathcal L), \qquad
    \text{M: } \theta \leftarrow \theta + \text{Adam}(\nabla_\theta \mathcal L)

Both halves climb one bound, so the fixed points are those of joint training and only the way there differs. Long E steps
are EM (up to the guide's family). With one step each, phi moves as in the joint step and theta then by the gradient at
the *new* phi, which differs by O(lr); it costs two gradients where joint training costs one, and each half's Adam sees
every second gradient.

At a constant rate Adam was seen to settle less closely than in joint training (PPCA with a linear guide, rate 0.01, one
step each: 0.001 to 0.03 nats below the optimum, against 0.0003 jointly). Let ``fit(schedule=...)`` take the rate to zero.

Source: Neal and Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants,
https://doi.org/10.1007/978-94-011-5014-9_12; how long the E step should be: He, Spokoyny, Neubig and Berg-Kirkpatrick
(2019), Lagging inference networks, https://arxiv.org/abs/1901.05534.
Differs from the papers: gradient steps in place of exact ones; an E step is cut short by the slope of the bound along
the last step, not by its value on held-out data.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from .isolation import root_modules

_WINDOW = 10  # steps whose rise is averaged before an E step may be cut short


def alternating(guide, e_steps=10, m_steps=1, lr=1e-3, tolerance=None):
    """A factory for ``fit(optimizer=...)`` that trains guide and model in turn; an E step comes first.

    Phi is what ``guide`` owns and its model does not; everything else that trains, parameters that the two share and
    free ``pyro.param`` statements included, is theta.

    :param guide: the guide that is trained (for a guide that does not know its model, all of its parameters are phi).
    :param int e_steps: gradient steps on phi in an E step: all of them, or at most so many when ``tolerance`` is given.
    :param int m_steps: gradient steps on theta in an M step.
    :param float lr: learning rate of both.
    :param float tolerance: ends an E step when the bound rises by less than this per step, in nats per datum, averaged
        over the last 10 steps; ``None`` never does. The rise is the slope of the bound along the step just taken, found
        from the *next* gradient: the noise of a gradient does not count as a rise.
    :returns: function from a list of tensors to an :class:`Alternating`.
    :raises ValueError: for numbers that make no sense, and, when ``fit`` starts, for a pair with an empty half.

    ``fit`` clips the gradient of both halves by their common norm, and saves and resumes the place in the alternation.

    >>> factory = alternating(torch.nn.Linear(2, 1), e_steps=5)
    """
    if min(e_steps, m_steps) < 1 or not lr > 0 or not (tolerance is None or tolerance > 0):
        raise ValueError(
            f"got e_steps={e_steps}, m_steps={m_steps}, lr={lr}, tolerance={tolerance}; steps of at least 1 and a "
            "positive learning rate and tolerance (or None) are needed."
        )
    return partial(Alternating, guide=guide, e_steps=e_steps, m_steps=m_steps, lr=lr, tolerance=tolerance)


class Alternating:
    """Two fused Adams of which one steps; the part of ``torch.optim.Optimizer`` that :func:`fit` uses.

    :ivar str half: "phi" or "theta": what the next step moves.
    :ivar int taken: steps taken in the present E or M step.
    :ivar list lengths: steps of each E step that has ended.
    """

    def __init__(self, tensors, guide, e_steps=10, m_steps=1, lr=1e-3, tolerance=None):
        self.limits, self.tolerance = {"phi": e_steps, "theta": m_steps}, tolerance
        self.phi, theta = _halves(list(tensors), guide)
        self.optimizers = {n: torch.optim.Adam(p, lr=lr, fused=True) for n, p in (("phi", self.phi), ("theta", theta))}
        self.half, self.taken, self.lengths = "phi", 0, []
        self._moved, self._rises = None, []

    @property
    def param_groups(self):
        """The groups of phi, then of theta."""
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def zero_grad(self, set_to_none=True):
        """Clear the gradients of both halves."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=set_to_none)

    @torch.no_grad()
    def step(self):
        """One step of the half whose turn it is; the E step may end here first, before its step is taken."""
        if self.half == "phi" and self._has_stopped():
            self._switch()
        watched = self.half == "phi" and self.tolerance is not None
        before = [p.clone() for p in self.phi] if watched else None
        self.optimizers[self.half].step()
        self.taken += 1
        if watched:
            self._moved = [p - b for p, b in zip(self.phi, before, strict=True)]
        if self.taken >= self.limits[self.half]:
            self._switch()

    def _has_stopped(self):
        """Whether the bound has stopped rising along the steps of this E step."""
        if self._moved is None:
            return False
        pairs = zip(self.phi, self._moved, strict=True)
        slope = sum((p.grad * m).sum() for p, m in pairs if p.grad is not None)  # one host sync, not one a tensor
        self._rises = [*self._rises, -float(slope)][-_WINDOW:]  # the gradient is of the loss: minus the bound
        return len(self._rises) == _WINDOW and math.fsum(self._rises) / _WINDOW < self.tolerance

    def _switch(self):
        if self.half == "phi":
            self.lengths.append(self.taken)
        self.half, self.taken = "theta" if self.half == "phi" else "phi", 0
        self._moved, self._rises = None, []

    def _setting(self):
        return {"e_steps": self.limits["phi"], "m_steps": self.limits["theta"], "tolerance": self.tolerance}

    def state_dict(self):
        """Both Adams and the place in the alternation."""
        place = {"half": self.half, "taken": self.taken, "lengths": list(self.lengths)}
        watch = {"moved": self._moved, "rises": list(self._rises)}
        adams = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"setting": self._setting(), "place": place, "watch": watch, "adams": adams}

    def load_state_dict(self, state):
        """Continue from a state; a ValueError where it is of an alternation of other lengths."""
        if state["setting"] != self._setting():
            raise ValueError(
                f"the run was started with {state['setting']}, not {self._setting()}: give the same again."
            )
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["adams"][name])
        self.half, self.taken = state["place"]["half"], state["place"]["taken"]
        self.lengths, self._rises = list(state["place"]["lengths"]), list(state["watch"]["rises"])
        moved = state["watch"]["moved"]
        self._moved = None if moved is None else [m.to(p) for m, p in zip(moved, self.phi, strict=True)]


def _halves(tensors, guide):
    """The tensors of the guide alone, and all others."""
    owned = {id(p) for module in root_modules(guide) for p in module.parameters()}
    model = getattr(guide, "model", None)
    shared = {id(p) for module in root_modules(*[model] if model is not None else []) for p in module.parameters()}
    phi = [p for p in tensors if id(p) in owned - shared]
    theta = [p for p in tensors if id(p) not in owned - shared]
    if not phi or not theta:
        kind = type(guide).__name__
        side = "none" if not phi else "all"
        raise ValueError(
            f"the guide {kind} owns {side} of the {len(tensors)} tensors that train, so there is nothing to alternate: is "
            "it the guide given to fit? Train the pair jointly otherwise (optimizer=1e-3)."
        )
    return phi, theta
