"""Plain and accelerated EM on real data: one start, one maximum, and a loop that ends."""

import pytest

from benchmarks import em_real
from benchmarks.factor_analysis import ACCELERATED, GAP, PLAIN
from pyrarchy.zoo.em_climb import Climb
from pyrarchy.zoo.linear_gaussian import fa_log_likelihood

pytest.importorskip("sklearn", reason="scikit-learn is in the extras 'test' and 'bench' only")


def test_both_climbs_reach_the_maximum_of_their_start():
    problem = em_real.Problem("iris", 1)
    found = problem.measure(2)
    assert found["title"] == "iris, 150 x 4, 1 factor" and [t["name"] for t in found["timings"]] == [PLAIN, ACCELERATED]
    assert found["steps"][PLAIN] > 20 * found["steps"][ACCELERATED] > 20
    climb = problem._begin(Climb).run(1e-13, 50_000)  # a longer one by the plain steps ends there, too
    value = fa_log_likelihood(problem.correlation, *climb.point[:2])
    assert problem.goal < value + 1e-9 and value < problem.goal + 2 * GAP


def test_a_climb_that_ends_elsewhere_is_told(monkeypatch):
    problem = em_real.Problem("wine", 2)
    monkeypatch.setattr(em_real, "MOST_STEPS", 300)
    problem.goal += 1.0
    with pytest.raises(RuntimeError, match=r"wine, 178 x 13, 2 factors: plain EM to 1e-8 is 1.0e\+00 nats short"):
        problem.climb(PLAIN, Climb)


def test_all_problems_together_are_the_sum_of_each(monkeypatch):
    monkeypatch.setattr(em_real, "PROBLEMS", {"wine": (2,), "digits": (4,)})
    found = em_real.measure("em_real", 2)
    assert [part["title"] for part in found["parts"]] == ["wine, 178 x 13, 2 factors", "digits, 1797 x 61, 4 factors"]
    for i, timing in enumerate(found["timings"]):
        parts = [part["timings"][i]["seconds"] for part in found["parts"]]
        assert timing["seconds"] == pytest.approx([sum(both) for both in zip(*parts, strict=True)])
