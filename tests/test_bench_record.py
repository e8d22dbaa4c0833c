"""From timings to verdicts, the page, the README's block and the check against what is committed."""

import json
from dataclasses import replace

import pytest

from benchmarks import check, epochs, evaluation, factor_analysis, goals, machine, record, run, start, svi_steps, table
from benchmarks.interleave import summarise

SMALL = svi_steps.Setting("small", batch_size=7, x_dim=11, z_dim=3, hidden=(5, 4))


def result(name, **seconds):
    """A result of three rounds whose variants take a constant time."""
    reference = [next(iter(seconds.values()))] * 3
    timings = [summarise(n, [s] * 3, reference).as_dict() for n, s in seconds.items()]
    return {"name": name, "title": f"the {name}", "rounds": 3, "timings": timings}


def vae(ours=0.8, hand=1.0, pyro=2.0):
    return result("vae_20", **{goals.HAND: hand, goals.OURS: ours, goals.PYRO: pyro})


def test_goals_are_of_variants_and_comparisons_that_exist():
    assert {goal.comparison for goal in goals.GOALS} <= set(run.NAMES)
    assert len({goal.key for goal in goals.GOALS}) == len(goals.GOALS)
    assert (goals.OURS, goals.HAND, goals.PYRO) == (svi_steps.OURS, svi_steps.HAND, svi_steps.PYRO)
    assert {goals.OURS, goals.PYRO, goals.NUMPYRO} <= set(epochs.SCRIPTS)
    assert goals.EVALUATE == evaluation.OURS
    names = ("SKLEARN", "SYRK", "PLAIN", "ACCELERATED")
    assert [getattr(goals, n) for n in names] == [getattr(factor_analysis, n) for n in names]
    assert goals.EM == factor_analysis.OURS


@pytest.mark.parametrize(
    ("ours", "pyro", "verdicts"),
    [(0.89, 2.0, ("met", "not met")), (0.91, 3.5, ("not met", "met")), (0.5, 1.65, ("met", "met"))],
)
def test_verdicts_follow_from_the_seconds(ours, pyro, verdicts):
    found = {v["key"]: v for v in goals.judge([vae(ours=ours, pyro=pyro)])}
    assert (found["vae_20_hand"]["verdict"], found["vae_20_pyro"]["verdict"]) == verdicts
    assert found["vae_20_hand"]["measured"] == pytest.approx(ours)
    assert found["vae_20_pyro"]["measured"] == pytest.approx(pyro / ours)
    assert found["vae_20_numpyro"]["verdict"] == found["help"]["verdict"] == "not measured"


def test_what_is_no_ratio_is_judged_too():
    helped = result("help", **{start.HELP: 0.1})
    held = {**result("l_5000", **{goals.HAND: 1.0, goals.EVALUATE: 1.0}), "megabytes": {"K = 500": 9, "K = 5000": 65}}
    climbs = result("", **{goals.PLAIN: 30.0, goals.ACCELERATED: 1.0})["timings"]
    climbed = {**result("fa_64", **{goals.EM: 1.0}), "climbs": climbs}
    found = {v["key"]: v for v in goals.judge([{**helped, "loads_torch": False}, held, climbed])}
    assert (found["help"]["measured"], found["help"]["verdict"]) == (pytest.approx(0.1), "met")
    assert (found["log_p_memory"]["measured"], found["log_p_memory"]["verdict"]) == (65, "not met")
    assert found["em_64"]["measured"] == pytest.approx(1 / 30)
    (torch_loaded,) = (v for v in goals.judge([{**helped, "loads_torch": True}]) if v["key"] == "help")
    assert torch_loaded["verdict"] == "not measured"


def test_real_data_are_judged_by_the_median_problem_and_each_is_shown():
    parts = [
        {
            **result(name, **{goals.PLAIN: 3.0, goals.ACCELERATED: fast}),
            "steps": {goals.PLAIN: 90, goals.ACCELERATED: 7},
        }
        for name, fast in (("first", 2.0), ("second", 0.03), ("third", 0.01))
    ]
    found = {**result("em_real", **{goals.PLAIN: 9.0, goals.ACCELERATED: 2.04}), "parts": parts}
    verdict = next(v for v in goals.judge([found]) if v["key"] == "em_real")
    assert (verdict["measured"], verdict["verdict"]) == (pytest.approx(0.01), "met")
    page = table.page([found], command="make")
    assert (
        "| the second | 3000.0 | 90 | 30.0 | 7 | 0.01 |" in page
        and "| the first | 3000.0 | 90 | 2000.0 | 7 | 0.67 |" in page
    )
    assert "seconds" not in json.dumps(record._without_rounds(found))


def test_a_small_run_from_the_measurement_to_the_page(monkeypatch, tmp_path):
    monkeypatch.setitem(svi_steps.SETTINGS, "vae_20", SMALL)
    monkeypatch.setattr(svi_steps, "installed", lambda package: False)
    found = run.measure("vae_20", rounds=2)
    assert [t["name"] for t in found["timings"]] == [svi_steps.HAND, svi_steps.OURS, svi_steps.PYRO]
    assert found == json.loads(json.dumps(found)) and found["rounds"] == 2
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{record.BEGIN}\nold\n{record.END}\nafter\n")
    written = record.write([found], tmp_path / "a.md", tmp_path / "a.json", readme, command="make", date="a day")
    assert written == [tmp_path / "a.md", tmp_path / "a.json", readme]
    page = written[0].read_text()
    assert "| PyTorch by hand |" in page and "1.00 (1.00 to 1.00)" in page and "- Date: a day" in page
    assert "Not run: NumPyro" in page
    assert "**Pyrarchy fit" in table.short_table([found])
    kept = json.loads(written[1].read_text())
    assert kept["date"] == "a day" and kept["machine"] == machine.machine()
    assert kept["goals"] == json.loads(json.dumps(goals.judge([found])))
    assert not any("seconds" in t for t in kept["results"][0]["timings"])
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "a day" in text and machine.cpu() in text and "| small | 1.00 |" in text
    with pytest.raises(ValueError, match="no block between"):
        record.replace_block("nothing", "new")


def test_the_readme_says_where_a_factor_analysis_ends_as_measured():
    fits = result("fa_64", **{goals.SKLEARN: 3.0, goals.EM: 0.5})
    for ours, words in ((-2.0, "+0.0e+00 nats"), (-2.25, "-2.5e-01 nats")):
        reached = {goals.SKLEARN: -2.0, goals.EM: ours}
        block = table.readme_block([{**fits, "log_likelihoods": reached}], date="a day")
        assert "time over ours 6;" in block and words in block


def test_check_fails_where_a_ratio_is_worse_twice(monkeypatch, tmp_path, capsys):
    record.write([vae()], tmp_path / "a.md", tmp_path / "a.json", None, command="", date="")
    arguments = ["--only", "vae_20", "--rounds", "2", "--against", str(tmp_path / "a.json")]

    def checked(*values):
        given = list(values)

        def measure(names, rounds):
            return [given.pop(0) for _ in names]

        before = check.committed(tmp_path / "a.json")
        lines, holds = check.check(["vae_20"], 2, before, measure)
        assert not given
        return holds, lines

    assert checked(vae(ours=0.91))[0]  # 14 % more
    assert checked(vae(ours=0.93, pyro=2.4), vae())[0]  # 16 % more once only
    holds, lines = checked(vae(ours=0.93, pyro=2.4), vae(ours=0.95, pyro=2.4))
    assert not holds and [line.split()[0] for line in lines] == ["WORSE", "holds"]
    assert "0.93, committed 0.8" in lines[0]
    assert not checked(vae(pyro=1.7), vae(pyro=1.7))[0]  # a figure that should be large
    monkeypatch.setattr(check.check, "__defaults__", (lambda names, rounds: [vae(ours=2.0) for _ in names],))
    assert check.main(arguments) == 1
    assert capsys.readouterr().out.count("WORSE") == 2
    monkeypatch.setattr(check.check, "__defaults__", (lambda names, rounds: [vae() for _ in names],))
    assert check.main(arguments) == 0
    with pytest.raises(SystemExit):
        check.main([*arguments[:-1], str(tmp_path / "none.json")])


def test_committed_figures_are_of_todays_goals():
    """The page, the JSON and the README's block are of one run."""
    if not record.DATA.exists():
        pytest.skip("make bench has not been run since the goals were written down")
    kept = json.loads(record.DATA.read_text())
    assert [v["key"] for v in kept["goals"]] == [goal.key for goal in goals.GOALS]
    page = record.PAGE.read_text()
    assert kept["machine"] in page and table.goal_table(kept["goals"]) in page
    assert kept["date"] in record.README.read_text().partition(record.BEGIN)[2].partition(record.END)[0]


def test_extra_memory_is_that_of_the_call():
    if evaluation.resident("VmHWM") is None:
        pytest.skip("this system does not tell the highest resident set")
    assert 60 < evaluation.extra_memory(lambda: bytearray(64 << 20).count(1)) < 80
    assert evaluation.extra_memory(lambda: None) < 5
    small = replace(SMALL, num_particles=40)
    assert evaluation.memory(40, small) < 60


def test_help_loads_no_torch_and_is_timed():
    assert not start.loads("torch") and start.loads("argparse")


def test_epoch_scripts_train_the_same_model(tmp_path):
    """Each in a process of its own, at full width: from one way to start, an epoch has one mean loss but for the draws."""
    import numpy as np

    rng = np.random.default_rng(0)
    rates = rng.choice([0.03, 0.9], 784, p=[0.8, 0.2])  # as uneven as an image: where the output starts is seen
    np.save(tmp_path / "bits.npy", (rng.random((320, 784)) < rates).astype(np.uint8))
    names = [n for n in epochs.SCRIPTS if machine.installed("numpyro") or "NumPyro" not in n]
    losses = {n: epochs.run_script(n, tmp_path / "bits.npy", batch_size=32) for n in names}
    assert len(losses) >= 2
    assert max(losses.values()) / min(losses.values()) < 1.05, losses
