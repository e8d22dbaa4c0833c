"""The benchmark of a VLAE's rungs: which codes say what, which runs count, and that the codes are the checkpoint's."""

import numpy as np
import torch

from benchmarks.mnist_hierarchies import METHODS, make
from benchmarks.vlae_information import METHOD, codes_of, finished, informations, table
from pyrarchy import load_data
from pyrarchy.checkpoint import save_state
from pyrarchy.inference.apply import encode
from pyrarchy.inference.compare_runs import run_folder


def test_each_rung_is_credited_with_what_it_says():
    rng = np.random.default_rng(0)
    labels, widths = rng.integers(0, 10, 3000), rng.gamma(3.0, size=3000)
    codes = {
        "z1": np.log(widths)[:, None] + 0.01 * rng.normal(size=(3000, 1)),
        "z2": rng.normal(size=(3000, 2)),
        "z3": 9.0 * labels[:, None] + rng.normal(size=(3000, 1)),
    }
    found = informations(codes, labels, widths)
    assert found["z1"][0].nats < 0.02 and found["z1"][1].nats > 1.5
    assert abs(found["z2"][0].nats) < 0.05 and abs(found["z2"][1].nats) < 0.05
    assert found["z3"][0].nats > 2.25 and found["z3"][1].nats < 0.02
    assert found["all rungs"][0].nats > 2.2 and found["all rungs"][1].nats > 1.4
    other = informations({name: z[::-1] for name, z in codes.items()}, labels[::-1], widths[::-1])
    lines = table({0: found, 2: other}).splitlines()
    assert "2 seeds, ± over seeds" in lines[0] and lines[0].startswith("| of 2.30 nats of label, 2.30 of width")
    middle = (found["z3"][0].nats + other["z3"][0].nats) / 2
    assert lines[4].startswith(f"| z3 | {middle:.2f} ± ") and lines[5].startswith("| all rungs |")
    assert "1 seed, ± over images" in table({0: found})


def test_finished_runs_alone_are_read_and_by_their_own_weights(tmp_path):
    data = load_data("digits")
    rows = torch.from_numpy(data.test[:30]).round()
    for seed in (0, 4):
        folder = run_folder(tmp_path, METHOD, seed)
        folder.mkdir(parents=True)
        trained = make(METHODS[METHOD].row, METHODS[METHOD].options, data, seed + 100)
        save_state(folder / "checkpoint.npz", {"modules": [dict(m.state_dict()) for m in trained], "params": {}})
    (folder / "outcome.npz").touch()
    assert finished(tmp_path) == {4: folder}
    drawn = codes_of(data, rows, 4, folder)
    assert {name: z.shape for name, z in drawn.items()} == {"z1": (30, 16), "z2": (30, 8), "z3": (30, 8)}
    for name, z in encode(*trained, rows, draws=1).items():
        assert np.array_equal(z[0], drawn[name])
