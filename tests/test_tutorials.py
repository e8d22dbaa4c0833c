"""Every tutorial runs, leaves nothing behind, and its verdicts agree with the numbers printed in them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "tutorials"
TUTORIALS = sorted(path.name for path in FOLDER.glob("*.py"))
NUMBER = r"([+-]?[\d.]+(?:e[+-]?\d+)?)"


def run(name, tmp_path, smoke):
    """Run a tutorial in an empty folder; returns its verdicts, from claim to whether it holds."""
    settings = {"PYRARCHY_SMOKE": str(int(smoke)), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path / "mpl")}
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-W", "error:::pyrarchy", "-W", "error:::__main__", str(FOLDER / name)]
    done = subprocess.run(
        command, cwd=work, env={**os.environ, **settings}, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert list(work.iterdir()) == []
    lines = re.findall(r"^\* (holds only [^:]*|holds|does not hold): (.*)$", done.stdout, re.MULTILINE)
    return {claim: word for word, claim in lines}


def numbers(verdicts, start):
    """Word and numbers of the one verdict that begins so."""
    found = [(word, claim) for claim, word in verdicts.items() if claim.startswith(start)]
    assert len(found) == 1, f"{start!r} begins {len(found)} of {list(verdicts)}"
    word, claim = found[0]
    return word, [float(text) for text in re.findall(r"(?<![\w.])" + NUMBER, claim[len(start) :])]


def check_01(verdicts, smoke):
    assert len(verdicts) == 9
    word, (gap,) = numbers(verdicts, "the bound is tight after every E step")
    assert word == "holds" and gap < 1e-9
    word, (_, least, error) = numbers(verdicts, "after an M step the gap is KL(q || p)")
    assert word == "holds" and least > 0 and error < 1e-9
    word, (change,) = numbers(verdicts, "the log-likelihood never falls")
    assert word == "holds" and change > -1e-9
    word, (count, _) = numbers(verdicts, "digits have several maxima at any number of factors")
    assert word == "does not hold" and count == 1
    word, (count, _) = numbers(verdicts, "digits have several maxima for many factors")
    assert word == "holds" and count > 1
    word, (*_, rise) = numbers(verdicts, "a Heywood case has no finite maximum")
    assert word == "does not hold" and 0 < rise < 1e-3
    word, (_, below) = numbers(verdicts, "the linear VAE reaches PPCA's likelihood within")
    assert -1e-4 < below < (0.2 if smoke else 0.01)
    word, (before, after, _) = numbers(verdicts, "the diagonal guide picks the principal axes")
    assert after < before if smoke else (word == "holds" and after < 0.06)
    word, (_, after, _) = numbers(verdicts, "any good guide picks them")
    assert word == "does not hold" and after > 0.2


def check_02(verdicts, smoke):
    assert len(verdicts) == 9
    word, (below,) = numbers(verdicts, "SVI finds the maximum likelihood")
    assert -1e-4 < below < (0.2 if smoke else 0.01)
    word, (error, spread) = numbers(verdicts, "importance sampling gives the exact log p")
    assert word == "holds" and abs(error) < 4 * spread + 1e-3
    word, (gap, spread) = numbers(verdicts, "a log-normal guide is exact for a gamma posterior")
    assert word == "does not hold" and gap > 4 * spread
    word, (refused, _) = numbers(verdicts, "guides wrong in structure are refused before training")
    assert word == "holds" and refused == 4
    word, (passed, _) = numbers(verdicts, "so are guides wrong in value")
    assert word == "does not hold" and passed == 2
    word, (bad, _, good) = numbers(verdicts, "k-hat flags the overconfident guide")
    assert bad > 40 and bad > 2 * good
    word, (effective, _) = numbers(verdicts, "where k-hat is above .7 few samples are effective")
    assert smoke or (word == "does not hold" and effective > 80)
    _, (deaf, _, good) = numbers(verdicts, "the gap flags the deaf guide")
    assert deaf > 3 * good


def check_03(verdicts, smoke):
    assert len(verdicts) == 7
    for name, exact in (("ladder (top-down)", 0.0), ("bottom-up", 0.436995), ("mean-field", 1.004215)):
        word, (value, error, quoted) = numbers(verdicts, f"the trained {name} guide reaches its exact gap")
        assert quoted == exact and value > exact - 4 * error - 1e-3  # printed to four places
        assert value < exact + (0.2 if smoke else 0.01) + 4 * error
    _, (rate,) = numbers(verdicts, "the plain hierarchy's upper layers collapse without warm-up")
    word, (cold, warm) = numbers(verdicts, "the ladder keeps its upper layers in use")
    assert warm > cold and warm > rate
    word, _ = numbers(verdicts, "the ladder has the better held-out log p(x) without warm-up")
    if not smoke:
        assert word == "does not hold"


CHECKS = {"01": check_01, "02": check_02, "03": check_03}


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_at_smoke_size(name, tmp_path):
    CHECKS[name[:2]](run(name, tmp_path, smoke=True), smoke=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_in_full(name, tmp_path):
    CHECKS[name[:2]](run(name, tmp_path, smoke=False), smoke=False)


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_is_listed_and_in_percent_format(name):
    """Each is in tutorials/README.md, opens with its title, and ends with what was measured."""
    assert f"]({name})" in (FOLDER / "README.md").read_text()
    text = (FOLDER / name).read_text()
    assert text.startswith("# %% [markdown]\n# # ") and "\n# ## What was measured\n" in text
    assert re.findall(r"^# %%.*$", text, re.MULTILINE) == re.findall(r"^# %%(?: \[markdown\])?$", text, re.MULTILINE)


def test_there_are_tutorials():
    assert {name[:2] for name in TUTORIALS} == set(CHECKS)
