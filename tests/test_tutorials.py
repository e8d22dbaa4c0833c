"""Every tutorial runs, leaves nothing behind, and its verdicts agree with the numbers printed in them."""

import json
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


def word_of(verdicts, start):
    """The word alone."""
    return numbers(verdicts, start)[0]


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


def check_10(verdicts, smoke):
    assert len(verdicts) == 36
    word, (kl, _, worst) = numbers(verdicts, "on the tree the chain with p(z1|x) has p(x) as its stationary law")
    assert word == "holds" and kl < 1e-12 and worst < 5
    word, (*_, found, exact) = numbers(verdicts, "its correlation from step to step is v / (v + s2), v = d a2 + t2")
    assert word == "holds" and abs(exact - 2.1 / 3.1) < 1e-4 and abs(found - exact) < (0.05 if smoke else 0.02)
    word, (off,) = numbers(verdicts, "the best diagonal q(z1|x) will do there (stationary law off by")
    assert word == "does not hold" and abs(off - 0.0311) < 1e-4
    word, (off,) = numbers(verdicts, "so will a posterior that knows of no z2 (stationary law off by")
    assert word == "does not hold" and abs(off - 0.1647) < 1e-4
    word, (off,) = numbers(verdicts, "layers above a linear-Gaussian z1 add to what p(x) can be (log p differ by")
    assert word == "does not hold" and off < 1e-4
    if smoke:
        return
    word, _ = numbers(verdicts, "warm-up raises held-out log p(x)")
    assert word == "holds"
    word, _ = numbers(verdicts, "its top rung holds the label more than any other")
    assert word == "does not hold"
    word, _ = numbers(verdicts, "without warm-up batch normalisation fills the tanh ladder above z1")
    assert word == "holds"
    word, _ = numbers(verdicts, "tanh keeps z3 in use where leaky ReLU loses it")
    assert word == "holds"
    for start in (
        "on digits the chain with p(z1|x) stays with p(x)",
        "the chain with p(z1|x) comes to p(x) from noise",
    ):
        word, _ = numbers(verdicts, start)
        assert word == "holds"
    word, (gain, error) = numbers(verdicts, "one network for all steps has the better log p(x)")
    assert word == "does not hold" and gain < -2 * error


def check_11(verdicts, smoke):
    assert len(verdicts) == 26
    word, (four, eight) = numbers(verdicts, "Kaufman's ln Z is the sum over all lattices")
    assert word == "holds" and max(four, eight) < 1e-9
    word, (hot, *_, below) = numbers(verdicts, "the root may be taken positive")
    assert word == "does not hold" and abs(hot - 0.6931) < 2e-4 and abs(below) < 1e-9
    word, (*_, least) = numbers(verdicts, "the variational free energy is never below the true one")
    assert word == "holds" and least >= 0
    word, (off,) = numbers(verdicts, "neighbours have the energy of p on average")
    assert word == "holds" and off < 4
    word, (off,) = numbers(verdicts, "all of them have one mean")
    assert word == "holds" and off < 3
    word, (none, *kept) = numbers(verdicts, "the more levels are kept, the nearer the neighbours")
    assert word == "holds" and abs(none - 0.5) < 0.03 and kept == sorted(kept) and kept[-1] > 0.7
    if smoke:
        return
    word, (kl,) = numbers(verdicts, "on 4 x 4 the trained hierarchy is the Boltzmann distribution to .01 nats")
    assert word == "holds" and 0 <= kl < 0.01
    word, (kl, error) = numbers(verdicts, "on 8 x 8 to .05 nats at the critical temperature")
    assert word == "holds" and -2 * error < kl < 0.05
    word, (blind, kl) = numbers(verdicts, "independence within the levels costs on 4 x 4")
    assert word == "holds" and 0.02 < blind < 0.06 and blind > 5 * kl
    word, (blind, _, kl, _) = numbers(verdicts, "and on 8 x 8")
    assert word == "holds" and blind > 3 * kl
    word, _ = numbers(verdicts, "also in the finest level")
    assert word == "does not hold"
    word, _ = numbers(verdicts, "coarse to fine the problem is easy at any of three temperatures")
    assert word == "holds"
    word, _ = numbers(verdicts, "it is hardest at the critical temperature")
    assert word == "does not hold"
    word, (raster, *_) = numbers(verdicts, "in the order raster it is twice as far from p or more")
    assert word == "does not hold" and raster > 0.04
    word, _ = numbers(verdicts, "in the order fine to coarse it is twice as far from p or more")
    assert word == "does not hold"
    word, (off,) = numbers(verdicts, "the entropies of the levels sum to ln Z + U / T")
    assert word == "holds" and off < 4
    word, (*_, rise) = numbers(verdicts, "the finer its level, the more a spin is decided by those above")
    assert word == "holds" and rise < 0.005
    word, shares = numbers(verdicts, "the information is in the coarse levels")
    assert word == "does not hold" and shares == sorted(shares, reverse=True) and shares[-1] < 0.35
    word, (below, _, above) = numbers(verdicts, "one kept spin makes a neighbour")
    assert word == "does not hold" and below > 0.9 and above < 0.6
    word, (evidence, log_z, _) = numbers(verdicts, "the baseline halves the variance or better, trained")
    assert word == "holds" and log_z > evidence > 5


def check_12(verdicts, smoke):
    assert len(verdicts) == 13
    word, (before, after) = numbers(verdicts, "the alarm makes independent causes dependent")
    assert word == "holds" and before == 0 and after < -0.8
    word, (alone, explained) = numbers(verdicts, "an earthquake explains the alarm away")
    prior, rings = 0.05, 1 - 0.999 * 0.05 * 0.4  # of a burglar; of the alarm given both
    quake_alone = 1 - 0.999 * 0.4
    assert word == "holds" and alone > 0.4
    assert abs(explained - prior * rings / (prior * rings + (1 - prior) * quake_alone)) < 1e-3
    word, (gap,) = numbers(verdicts, "a factorised guide can represent it")
    assert word == "does not hold" and abs(gap - 0.5075) < 1e-3
    word, (gap,) = numbers(verdicts, "a guide that looks at the other cause first can")
    assert word == "holds" and abs(gap) < 1e-9
    word, (gap,) = numbers(verdicts, "the gap is there whatever is seen")
    assert word == "does not hold" and gap < 1e-6
    for kind in ("factorised", "top-down"):
        word, (found, exact) = numbers(verdicts, f"on two bars the trained {kind} guide reaches its exact gap")
        assert exact - 1e-3 < found < exact + (0.3 if smoke else 0.01) and (smoke or word == "holds")
    word, (first, *_, last, _) = numbers(verdicts, "more samples mend the bound")
    assert word == "holds" and 0 < last < first
    word, (first, *_, last, _) = numbers(verdicts, "they mend the guide")
    assert word == "does not hold" and last > first
    word, (first, *_, last, _, exact) = numbers(verdicts, "the K weighted samples together show the correlation")
    assert word == "holds" and abs(first) < 1e-3 and exact < last < -0.5
    word, (spread,) = numbers(verdicts, "in factor analysis the dependence changes with the data")
    assert word == "does not hold" and spread < 1e-9
    word, (rho, gap) = numbers(verdicts, "there too a factorised guide pays for it")
    assert word == "holds" and rho < -0.5 and gap > 0.5
    word, (turned, axes, moved) = numbers(verdicts, "a rotation of the factors removes it")
    assert word == "holds" and turned > 0.2 > 1e-6 > axes and abs(moved) < 1e-6


def check_20(verdicts, smoke):
    assert len(verdicts) == 19
    word, (found, error, _, exact) = numbers(verdicts, "K (log p - L_K) reaches chi2 / 2")
    assert word == "holds" and abs(found - exact) < 5 * error + 1e-3
    claims = {
        "with K the model's SNR grows and the guide's falls": -0.5,
        "DReG makes both grow with K": 0.5,
        "so does the M of MIWAE": 0.5,
    }
    for start, exact in claims.items():
        word, (*_, model, _, guide, error) = numbers(verdicts, start)
        assert word == "holds" and abs(model - 0.5) < 0.1 and abs(guide - exact) < 0.1 + 2 * error, start
    word, (_, model, _, guide, _) = numbers(verdicts, "the slopes are the same with A off by")
    assert word == "does not hold" and model < 0.3 and guide > -0.4
    word, (gain, error) = numbers(verdicts, "IWAE's guide is further from its posterior, by KL(q || p)")
    assert word == "holds" and gain > 4 * error
    word, (plain, _, _) = numbers(verdicts, "training lowers the plain SNR, the more so the larger K is")
    assert smoke or plain < 0.9
    word, (_, bound, kl) = numbers(verdicts, "log p - L_K is at least the KL of what L_K implies")
    assert word == "holds" and -0.05 < kl < bound + 0.02
    word, (*_, first, _, last, _) = numbers(verdicts, "with the prior as proposal it comes within")
    assert word == "holds" and last < 0.1 * first
    word, (wide, narrow) = numbers(verdicts, "the same model's guide is wider when L_64 trains it")
    assert smoke or (word == "holds" and wide > narrow)
    if smoke:
        return
    word, (gain, _) = numbers(verdicts, "on the same model L_64 makes more samples effective")
    assert word == "holds" and gain > 1
    word, (gain, _) = numbers(verdicts, "IWAE has more effective samples than the VAE")
    assert word == "does not hold" and gain < -10
    word, (lifted, *_) = numbers(verdicts, "DReG lifts it")
    _, (drowned, _, alone, _) = numbers(
        verdicts, "after training the guide's plain SNR is lower for K = 64 than for K = 1"
    )
    assert drowned < alone and word == "holds" and lifted > 2 * drowned


def check_21(verdicts, smoke):
    assert len(verdicts) == 21
    word, (change,) = numbers(verdicts, "variational EM never lowers its bound")
    assert word == "holds" and change > -1e-9
    word, (change, lowest) = numbers(verdicts, "it never lowers log p(x) either")
    assert word == "does not hold" and change < -1e-5 and lowest > 1e-4
    word, (*_, variational, exact) = numbers(verdicts, "variational EM with a diagonal q ends within")
    assert word == "holds" and -1e-9 < exact <= variational + 1e-4 and variational < 0.05
    word, (below,) = numbers(verdicts, "so does the VAE")
    assert -1e-4 < below < (0.5 if smoke else 0.02)
    word, (share,) = numbers(verdicts, "the five gradients have one mean")
    assert word == "holds" and share < 2
    for stage in ("start", "after training", "q = posterior", "a third as wide"):
        word, (share, error) = numbers(verdicts, f"{stage}: L^B is less noisy than the plain L^A")
        assert word == "holds" and share < 1 - 2 * error
    word, (share, _) = numbers(verdicts, "q = posterior: L^B is less noisy than STL")
    assert word == "does not hold" and share > 1e6
    word, (share, _) = numbers(verdicts, "a third as wide: L^B is less noisy than STL")
    assert word == "holds" and share < 0.1
    word, (with_baseline, error, without, _) = numbers(verdicts, "q = posterior: the score function is noisier")
    assert word == "does not hold" and abs(with_baseline - 1) < 5 * error and without > 50
    if not smoke:
        word, (joint, slow) = numbers(verdicts, "moving both at once takes fewer gradients than phi to convergence")
        assert word == "holds" and 2 * joint < slow
        word, (turns, joint) = numbers(verdicts, "at thrice the rate they end as near the maximum")
        assert word == "does not hold" and turns > 1 > joint


def check_32(verdicts, smoke):
    assert len(verdicts) == 11
    word, (bad, low, high) = numbers(verdicts, "k-hat of the centred guide says not to trust it")
    assert word == "holds" and low <= bad <= high and bad > 0.7
    word, medians = numbers(verdicts, "k-hat of the three others allows a correction")
    assert len(medians) == 3 and medians[0] < bad and (smoke or (word == "holds" and max(medians) < 0.7))
    word, (_, spread) = numbers(verdicts, "one seed of k-hat is enough")
    assert word == "does not hold" and spread > 0.05
    word, (off, spread) = numbers(verdicts, "the refused guide's intervals are wrong")
    assert word == "holds" and off > 0.2 and spread < -0.3
    word, (own, mended) = numbers(verdicts, "resampling mends the mean-field guide's sd of tau")
    assert word == "holds" and abs(mended) < abs(own)
    word, (own, mended) = numbers(verdicts, "and its means")
    assert word == "holds" and mended < own
    word, (score, k_hat, exact) = numbers(verdicts, "plain leave-one-out sees that the centred guide is bad")
    assert abs(exact + 30.74) < 0.01 and k_hat < 0.5
    if not smoke:  # a collapsed guide: better than the truth, and first
        assert word == "does not hold" and score > exact
    word, _ = numbers(verdicts, "corrected, the centred guide is last")
    assert word == "holds"
    word, (corrected, plain) = numbers(verdicts, "the trusted corrected scores are near the exact one")
    assert word == "holds" and corrected < 0.1 < plain
    word, (off,) = numbers(verdicts, "without the k-hat the correction would have put the centred guide last too")
    assert smoke or (word == "does not hold" and off > 0)
    word, (off, spread, score) = numbers(verdicts, "NUTS agrees with quadrature")
    assert off < (0.5 if smoke else 0.1) and abs(spread) < (0.5 if smoke else 0.1) and abs(score - exact) < 0.6


def check_33(verdicts, smoke):
    assert len(verdicts) == 22
    word, (flags, _) = numbers(verdicts, "exact posteriors are not flagged")
    assert word == "holds" and flags == 0
    word, (found, _) = numbers(verdicts, "1,000 data sets find every bug in q or in its p")
    assert word == "holds" and found == 7
    word, (found, _) = numbers(verdicts, "so do 50")
    assert word == "does not hold" and 2 <= found < 7
    word, (scale, location) = numbers(verdicts, "an overconfident guide widens the ranks and leaves their mean")
    assert word == "holds" and scale > 10 and abs(location) < 3.5
    word, (score,) = numbers(verdicts, "a missing prior term shows in the ranks of the latent")
    assert word == "does not hold" and abs(score) < 3.5
    word, (score,) = numbers(verdicts, "it shows in the scale of the average posterior")
    assert word == "holds" and score > 6
    for bug in ("ignores 2 columns", "returns the prior"):
        word, (p,) = numbers(verdicts, f"{bug}: some function of the latent alone shows it (least p")
        assert word == "does not hold" and p > 1e-3
        word, (score,) = numbers(verdicts, f"{bug}: the log-likelihood shows it")
        assert word == "holds" and score > 10
    word, (rate, active) = numbers(verdicts, "its rate and active units do")
    assert word_of(verdicts, "the loop shows a layer that p ignores") == "does not hold"
    assert word == "holds" and rate == 0 and active == 0
    assert word_of(verdicts, "a layer that q alone ignores shows in log p(x, z), and nowhere else") == "holds"
    assert word_of(verdicts, "correlations left out show in the ranks of single units") == "does not hold"
    word, (score,) = numbers(verdicts, "they show in the coverage of the joint posterior")
    assert word == "holds" and abs(score) > 3.6
    assert word_of(verdicts, "coverage tells the prior from a posterior") == "does not hold"
    assert word_of(verdicts, "it does with references that saw the data") == "holds"
    assert word_of(verdicts, "the loop shows that the likelihood is wrong") == "does not hold"
    assert word_of(verdicts, "replicated data show it") == "holds"
    assert word_of(verdicts, "they are silent where it is right") == "holds"
    word, (ranks, average) = numbers(verdicts, "eight schools' full-rank guide is too narrow in tau")
    assert word == "holds" and ranks > 3 and average < -2


def check_30(verdicts, smoke):
    assert len(verdicts) == 20
    word, (found, *_) = numbers(
        verdicts, "with the exact posterior a self-consistent prior is that of maximum likelihood"
    )
    assert word == "holds" and abs(found - 2) < 0.1
    word, (found, *_) = numbers(verdicts, "codes that are points have a self-consistent prior, too")
    assert word == "does not hold" and found < 1e-5
    word, (found, _) = numbers(verdicts, "a floor alone holds it, at the floor")
    assert word == "holds" and abs(found - 0.25) < 0.01
    word, (few, _, many, *_, cap) = numbers(verdicts, "with little noise the information is a property of the code")
    assert word == "does not hold" and few < many < cap
    word, _ = numbers(verdicts, "the prior does not matter to the held-out ELBO")
    assert word != "holds"


def check_31(verdicts, smoke):
    assert len(verdicts) == 21
    word, (known, cap, marginal, error) = numbers(verdicts, "at n = 10 the code knows the bit and the rest of the KL")
    assert abs(cap - 0.6931) < 1e-4 and known < cap + 1e-6 and (smoke or (word == "holds" and marginal > 10 * error))
    word, (information, _) = numbers(verdicts, "z is used at n = 1")
    assert word == "does not hold" and abs(information) < 0.01
    word, (_, loss, _) = numbers(verdicts, "a learning rate of")
    assert word == "does not hold" and loss > 6
    word, _ = numbers(verdicts, "reconstructed means are blurred")
    assert word == "holds"
    if smoke:
        return
    word, (*_, gap, error) = numbers(verdicts, "one bit: training reaches the exact loss")
    assert word == "holds" and abs(gap) < 0.05
    word, (information, _) = numbers(verdicts, "z is used at n = 2")
    assert word == "holds" and information > 0.4
    word, (information, _, cap, _) = numbers(verdicts, "without a KL the codes tell all data apart and miss the prior")
    assert word == "holds" and abs(information - cap) < 0.01
    word, _ = numbers(verdicts, "the KL is why: without it reconstructed means are sharper")
    assert word == "holds"
    word, _ = numbers(verdicts, "the squared error is why")
    assert word == "does not hold"


CHECKS = {
    "01": check_01,
    "02": check_02,
    "03": check_03,
    "10": check_10,
    "11": check_11,
    "12": check_12,
    "20": check_20,
    "21": check_21,
    "32": check_32,
    "33": check_33,
    "30": check_30,
    "31": check_31,
}


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_at_smoke_size(name, tmp_path):
    verdicts = run(name, tmp_path, smoke=True)
    CHECKS[name[:2]](verdicts, smoke=True)
    ledger = json.loads((FOLDER.parent / "docs" / "ledger.json").read_text())[name]
    assert [stem(claim) for claim in verdicts] == [stem(claim) for _, claim in ledger], f"run docs/ledger.py {name[:2]}"


def stem(claim):
    """A claim up to what was measured."""
    return re.split(r"[(:,]? ?[+-]?[.\d]", claim, maxsplit=1)[0]


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
