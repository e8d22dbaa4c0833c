r"""One climb of factor analysis' likelihood by EM, plain or accelerated: it never falls.

.. math::

    \theta_1 = M(\theta_0),\quad \theta_2 = M(\theta_1),\quad r = \theta_1 - \theta_0,\quad
    v = \theta_2 - 2\theta_1 + \theta_0,\quad \theta' = \theta_0 + 2 \alpha r + \alpha^2 v,\quad
    \alpha = \|r\| / \|v\|

Source: Liu, Rubin and Wu (1998), PX-EM, https://doi.org/10.1093/biomet/85.4.755; Varadhan and Roland (2008), SQUAREM,
https://doi.org/10.1111/j.1467-9469.2007.00585.x.
Differs from the paper: an extrapolated point is taken only if its likelihood is no lower than one EM step's, so the
trace never falls; the extrapolation is in the loadings and the *logarithms* of the noise variances.
"""

from __future__ import annotations

import numpy as np

from .linear_gaussian import expand_loadings, fa_expectations, fa_m_step

_LONGEST_STEP = 1e4  # an EM rate of 1 - 1e-4; longer extrapolations only meet the safeguard
_LITTLE_NOISE = 1e-2  # of a column's variance: such a column is tried on the floor
_SETTLE = 3  # EM steps by which the loadings follow it there


class Climb:
    """One start: a point, its E step, and the log-likelihoods so far. ``advance`` is a plain EM step."""

    def __init__(self, correlation, floor, kind, loadings, noise):
        self.correlation, self.floor, self.kind = correlation, floor, kind
        self.steps, self.settled, self.trace = 0, np.inf, []
        self.move(self.evaluate(loadings, np.clip(noise, floor, 1.0)))

    @property
    def converged(self):
        """Whether the last :meth:`run` ended by its tolerance."""
        return self.settled < np.inf

    def evaluate(self, loadings, noise):
        self.steps += 1
        return loadings, noise, fa_expectations(self.correlation, loadings, noise)

    def move(self, point):
        self.point = point
        self.trace.append(point[2].log_likelihood)

    def step(self, point):
        return fa_m_step(1.0, point[2], self.floor)

    def advance(self):
        self.move(self.evaluate(*self.step(self.point)))

    def run(self, tol, max_iter):
        """Advance until the gain stays below ``tol``, or for ``max_iter`` EM steps since the start; returns itself."""
        if self.settled <= tol:
            return self
        quiet, self.settled = 0, np.inf
        while self.steps < max_iter:
            before = self.trace[-1]
            self.advance()
            # One small gain can be a rejected extrapolation; two in a row are the end of the climb.
            quiet = quiet + 1 if self.trace[-1] - before < tol else 0
            if quiet == 2:
                self.settled = tol
                break
        return self

    def touch_floor(self):
        """Put columns of little noise on the floor where that is higher; returns whether any went.

        A Heywood column nears the floor as one over the number of steps: a climb that ends by its gain stops short.
        """
        moved = False
        noise = self.point[1]
        for column in np.flatnonzero((noise < max(_LITTLE_NOISE, 3.0 * self.floor)) & (noise > self.floor)):
            loadings, noise, _ = self.point
            noise = noise.copy()
            noise[column] = self.floor
            point = self.evaluate(loadings, noise)
            for _ in range(_SETTLE):
                point = self.evaluate(*self.step(point))
            if point[2].log_likelihood > self.trace[-1]:
                self.move(point)
                self.settled, moved = np.inf, True
        return moved


class AcceleratedClimb(Climb):
    """``advance`` is a SQUAREM cycle on the parameter-expanded EM step."""

    def step(self, point):
        loadings, noise = super().step(point)
        return expand_loadings(loadings, point[2]), noise

    def advance(self):
        origin = self.point
        first = self.evaluate(*self.step(origin))
        self.move(first)
        second = self.step(first)
        start, one, two = (np.column_stack([p[0], np.log(p[1])]) for p in (origin, first, second))
        change, curve = one - start, two - 2.0 * one + start
        length = np.linalg.norm(change) / max(np.linalg.norm(curve), np.finfo(float).tiny)
        length = min(max(length, 1.0), _LONGEST_STEP)
        if length > 1.0:
            far = start + 2.0 * length * change + length**2 * curve
            noise = np.exp(np.clip(far[:, -1], np.log(self.floor), 0.0))
            candidate = self.evaluate(far[:, :-1], noise)
            if candidate[2].log_likelihood >= first[2].log_likelihood:
                return self.move(candidate)
        return self.move(self.evaluate(*second))
