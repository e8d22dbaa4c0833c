"""Small real data sets of the statistics literature, all in the package.

Source: Rubin (1981), https://doi.org/10.3102/10769986006004377, and those of each entry.
"""

from pathlib import Path

import numpy as np

from .dataset import Dataset, NamedData


def _eight_schools(folder) -> Dataset:
    effects = np.array([28, 8, -3, 7, -1, 1, 18, 12], dtype=np.float32)
    errors = np.array([15, 10, 16, 11, 9, 11, 10, 18], dtype=np.float32)
    entry, coords = NAMED["eight_schools"], {"school": list("ABCDEFGH")}
    return Dataset("eight_schools", (effects, errors), coords=coords, source=entry.source, licence=entry.licence)


def _newcomb(folder) -> Dataset:
    entry = NAMED["newcomb"]
    return Dataset("newcomb", (_table("newcomb")[:, 0].copy(),), source=entry.source, licence=entry.licence)


def _old_faithful(folder) -> Dataset:
    entry, coords = NAMED["old_faithful"], {"column": ["eruption", "waiting"]}
    return Dataset("old_faithful", _table("old_faithful"), coords=coords, source=entry.source, licence=entry.licence)


def _table(name: str) -> np.ndarray:
    path = Path(__file__).with_name("data") / f"{name}.csv"
    return np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32, ndmin=2)


NAMED = {
    "eight_schools": NamedData(
        "effects of coaching and their standard errors",
        "2 x 8",
        "facts, no licence needed",
        "Rubin (1981), Estimation in parallel randomized experiments, https://doi.org/10.3102/10769986006004377",
        _eight_schools,
    ),
    "newcomb": NamedData(
        "passage times of light, Newcomb's third series of 1882, nanoseconds beyond 24,800",
        "66",
        "facts, no licence needed",
        "Stigler (1973), Simon Newcomb, Percy Daniell, and the history of robust estimation 1885-1920, Journal of the "
        "American Statistical Association 68, 872-879; the rows are those of newcomb in R's MASS",
        _newcomb,
    ),
    "old_faithful": NamedData(
        "eruptions of the Old Faithful geyser: duration and waiting time to the next, minutes",
        "272 x 2",
        "facts, no licence needed",
        "Azzalini and Bowman (1990), A look at some data on the Old Faithful geyser, https://doi.org/10.2307/2347385; "
        "the rows are those of Haerdle (1991), as in R",
        _old_faithful,
    ),
}
