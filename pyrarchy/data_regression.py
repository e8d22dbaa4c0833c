"""Small real data sets of multilevel regression, with the names of their groups, all in the package.

A data set of several arguments is a tuple of aligned arrays, so what is known of a group (a county's uranium) or of a
column (the age at a weighing) is repeated in every row that it belongs to.

Source: those of each entry.
"""

import csv
from pathlib import Path

import numpy as np

from .dataset import Dataset, NamedData

DETECTABLE = 0.1  # pCi/L; three measurements of zero are set to it, as in the book


def _columns(name: str) -> dict[str, list[str]]:
    with (Path(__file__).with_name("data") / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return {key: [row[i] for row in rows] for i, key in enumerate(header)}


def _floats(column: list[str]) -> np.ndarray:
    return np.array(column, dtype=np.float32)


def _make(name: str, train: tuple, coords: dict) -> Dataset:
    entry = NAMED[name]
    return Dataset(name, train, coords=coords, source=entry.source, licence=entry.licence)


def _radon(folder) -> Dataset:
    table = _columns("radon")
    counties = list(dict.fromkeys(table["county"]))
    index = np.array([counties.index(name) for name in table["county"]], dtype=np.int64)
    log_radon = np.log(np.maximum(_floats(table["radon"]), DETECTABLE))
    train = (log_radon, _floats(table["floor"]), index, _floats(table["log_uranium"]))
    return _make("radon", train, {"county": counties})


def _baseball(folder) -> Dataset:
    table = _columns("baseball")
    return _make("baseball", (_floats(table["hits"]), _floats(table["at_bats"])), {"player": table["player"]})


def _baseball_remainder(folder) -> Dataset:
    table = _columns("baseball")
    train = (_floats(table["remaining_hits"]), _floats(table["remaining_at_bats"]))
    return _make("baseball_remainder", train, {"player": table["player"]})


def _rats(folder) -> Dataset:
    table = _columns("rats")
    ages = _floats([name.removeprefix("day") for name in table])
    weights = np.stack([_floats(column) for column in table.values()], axis=1)
    coords = {"rat": list(range(1, len(weights) + 1)), "weight_dim_0": ages.astype(int).tolist()}
    return _make("rats", (weights, np.tile(ages, (len(weights), 1))), coords)


EFRON_MORRIS = (
    "Efron and Morris (1975), Data analysis using Stein's estimator and its generalizations, "
    "https://doi.org/10.1080/01621459.1975.10479864; the numbers are those of bball1970 in R's rstanarm"
)
FACTS = "facts, no licence needed"
NAMED = {
    "radon": NamedData(
        "log radon (pCi/L) in Minnesota's houses; floor of measurement (0 basement, 1 first), county, log uranium (ppm)",
        "4 x 919, 85 counties",
        FACTS,
        "the US Environmental Protection Agency's residential radon survey, as in Gelman and Hill (2007), Data analysis "
        "using regression and multilevel/hierarchical models, chapter 12; the numbers are those of radon in R's rstanarm, "
        "which has log(radon + 0.1), turned back into log(radon)",
        _radon,
    ),
    "baseball": NamedData(
        "hits and times at bat of 18 players, their first 45 of the season of 1970",
        "2 x 18",
        FACTS,
        EFRON_MORRIS,
        _baseball,
    ),
    "baseball_remainder": NamedData(
        "hits and times at bat of the same 18 players in the rest of that season: the truth to predict",
        "2 x 18",
        FACTS,
        EFRON_MORRIS,
        _baseball_remainder,
    ),
    "rats": NamedData(
        "weights of 30 young rats (grams) on five days, and their ages (days)",
        "2 x 30 x 5",
        FACTS,
        "Gelfand, Hills, Racine-Poon and Smith (1990), Illustration of Bayesian inference in normal data models using "
        "Gibbs sampling, https://doi.org/10.1080/01621459.1990.10474968; the numbers are those of BUGS's example",
        _rats,
    ),
}
