"""Accelerated against plain EM of factor analysis on real data, from one start to within 1e-8 nats of the same maximum.

Simulated data with many rows are easy: the model is right, and plain EM needs a hundred steps. On real data columns near
the noise floor and weak factors make it need thousands, which is what the acceleration is for. The sets are scikit-learn's,
each with a few numbers of factors, all that plain EM ends within 100,000 steps or so.
"""

from functools import cached_property
from time import process_time

import numpy as np

from pyrarchy.zoo.em_climb import AcceleratedClimb, Climb
from pyrarchy.zoo.factor_analysis_em import starting_points

from .factor_analysis import ACCELERATED, GAP, PLAIN
from .interleave import Variant, interleave, summarise

FLOOR = 1e-4
MOST_STEPS = 400_000
ROUNDS = 3  # plain EM takes its time
PROBLEMS = {
    "breast_cancer": (3, 5, 8),
    "diabetes": (2, 3, 4),
    "digits": (4, 8),
    "iris": (1, 2),
    "wine": (2, 3, 4),
}


class Problem:
    """The correlations of a set's columns, a start, and the log-likelihood to reach: that of the start's own maximum."""

    def __init__(self, name, z_dim):
        from sklearn import datasets

        x = getattr(datasets, f"load_{name}")().data.astype(np.float64)
        x = x[:, x.std(0) > 0]
        self.title = f"{name}, {x.shape[0]} x {x.shape[1]}, {z_dim} factor{'s' * (z_dim > 1)}"
        self.correlation, self.steps = np.corrcoef(x.T), {}
        _, *self.start = next(starting_points(self.correlation, z_dim, 0, np.random.default_rng(0)))

    @cached_property
    def goal(self):
        """Nats per datum: ``GAP`` below where a climb from the start ends that asks for far more than that."""
        climb = self._begin(AcceleratedClimb).run(1e-14, MOST_STEPS)
        if climb.touch_floor():
            climb.run(1e-14, MOST_STEPS)
        return climb.trace[-1] - GAP

    def _begin(self, kind):
        return kind(self.correlation, FLOOR, "start", *self.start)

    def climb(self, name, kind):
        """EM from the start to the goal; RuntimeError where it goes to another maximum and never gets there."""
        climb = self._begin(kind)
        while climb.trace[-1] < self.goal:
            if climb.steps > MOST_STEPS:
                raise RuntimeError(f"{self.title}: {name} is {self.goal - climb.trace[-1]:.1e} nats short of the goal")
            climb.advance()
        self.steps[name] = climb.steps

    def measure(self, rounds):
        """Timings of both, the plain one (the reference) first, with the E steps that each took."""
        _ = self.goal  # not timed
        variants = [Variant(PLAIN, lambda: self.climb(PLAIN, Climb))]
        variants += [Variant(ACCELERATED, lambda: self.climb(ACCELERATED, AcceleratedClimb))]
        timings = interleave(variants, rounds, slice_seconds=0.0, warm_up=1, clock=process_time)
        return {"title": self.title, "timings": [t.as_dict() for t in timings], "steps": self.steps}


def measure(name, rounds):
    """All problems: their sum, and each by itself."""
    rounds = min(rounds, ROUNDS)
    parts = [Problem(one, z_dim).measure(rounds) for one, sizes in PROBLEMS.items() for z_dim in sizes]
    plain, accelerated = (
        [sum(seconds) for seconds in zip(*(part["timings"][i]["seconds"] for part in parts), strict=True)]
        for i in (0, 1)
    )
    timings = [summarise(PLAIN, plain, plain), summarise(ACCELERATED, accelerated, plain)]
    title = f"EM to 1e-8 on {len(parts)} real problems"
    return {"title": title, "timings": [t.as_dict() for t in timings], "parts": parts}
