"""The benchmark of rates: a short run gives a row whose parts add up to the ELBO."""

import numpy as np
import pytest

from benchmarks.lossy_rates import held_out, measure, table
from pyrarchy import load_data


def test_rate_and_distortion_add_up():
    data = load_data("digits")
    images = held_out(data)[:20]
    assert set(np.unique(images)) == {0.0, 1.0}
    results = [measure(data, images, reach, seed, epochs=1, samples=5) for reach, seed in ((1, 1), (0, 0), (1, 0))]
    for found in results:
        assert found["elbo"] == pytest.approx(-found["rate"] - found["distortion"])
        assert found["elbo"] <= found["log_p"] and found["rate"] > 0 and found["active"][1] == 16
    lines = table(results).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 0 |") and lines[3].count(", ") == 5
    assert lines[3].split("|")[2].split(", ")[0].strip() == f"{results[2]['rate']:.2f}"
