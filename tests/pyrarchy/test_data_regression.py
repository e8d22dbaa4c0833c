"""The regression data: the published numbers, group names and aligned arguments."""

import numpy as np
import pytest

from pyrarchy.datasets import load_data


def test_radon_has_the_counts_of_the_book():
    data = load_data("radon")
    log_radon, floor, county, uranium = data.train
    names = data.coords["county"]
    assert data.num_train == 919 and len(names) == 85 and county.dtype == np.int64
    assert [names[county[0]], names[county[-1]]] == ["Aitkin", "Yellow Medicine"]
    assert np.bincount(county).tolist()[:5] == [4, 52, 3, 7, 4] and set(county) == set(range(85))
    # Gelman & Hill (2007), section 12.2: two houses in Lac Qui Parle; Hennepin and St Louis have more than a hundred.
    size = dict(zip(names, np.bincount(county), strict=True))
    assert size["Lac qui Parle"] == 2 and size["Hennepin"] == 105 and size["St. Louis"] == 116
    assert floor.sum() == 153 and set(floor) == {0, 1}
    by_county = [set(uranium[county == j]) for j in range(85)]
    assert {len(values) for values in by_county} == {1}
    # Complete pooling in the book, section 12.2: intercept 1.33, slope of the first floor -0.61.
    slope, intercept = np.polyfit(floor.astype(float), log_radon.astype(float), 1)
    assert (round(intercept, 2), round(slope, 2)) == (1.33, -0.61)


def test_baseball_is_efron_and_morris_s_table():
    hits, at_bats = load_data("baseball").train
    data = load_data("baseball-remainder")
    assert set(at_bats) == {45} and hits.tolist() == [18, 17, 16, 15, 14, 14, 13, 12, 11, 11, *[10] * 5, 9, 8, 7]
    assert data.coords["player"][0] == "Clemente" and data.coords == load_data("baseball").coords
    rest = data.train[0] / data.train[1]
    # Efron & Morris (1975), table 1, gives the averages of the remainder to three digits.
    assert np.round(rest, 3)[[0, 1, 16, 17]] == pytest.approx([0.346, 0.298, 0.316, 0.200], abs=5e-4)


def test_rats_are_thirty_by_five():
    data = load_data("rats")
    weight, age = data.train
    assert weight.shape == age.shape == (30, 5) and age[7].tolist() == [8, 15, 22, 29, 36]
    assert data.coords["weight_dim_0"] == [8, 15, 22, 29, 36] and len(data.coords["rat"]) == 30
    np.testing.assert_allclose(weight.mean(0), [152.1667, 201.7667, 245.0333, 289.5, 324.8], atol=1e-3)
