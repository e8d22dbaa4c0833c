"""Whose intervals a run folder shows: the posterior's where k-hat allows resampling, else the guide's, and it says so."""

import json
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrarchy import run_report
from pyrarchy.inference import groups, summary
from pyrarchy.report import ReportContent, render_report

from .conftest import fit_now

Y = torch.tensor([0.3, -1.1, 2.4, 0.8, 1.9])
VARIANCE = 1 / (0.25 + len(Y))


def model(y):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 2.0))
    with pyro.plate("obs", len(y), dim=-1):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def guide_of(share):
    return lambda y: pyro.sample("mu", dist.Normal(VARIANCE * y.sum(), (share * VARIANCE) ** 0.5))


@pytest.mark.parametrize("share, of", [(0.6, "posterior"), (0.1, "guide")])
def test_draws_are_resampled_or_called_the_guide_s(share, of):
    """A guide of 60 % of the variance is mended; one of 10 % is left as it is, with the reason."""
    idata = run_report.posterior(model, guide_of(share), (Y,), SimpleNamespace(coords={}), None)
    table = summary(idata, prob=0.9)
    assert idata.attrs["draws_of"] == of == table.columns.name
    assert len(run_report.warnings_of(idata)) == (of == "guide")
    expected = VARIANCE if of == "posterior" else share * VARIANCE
    assert abs(table.loc["mu", "sd"] / expected**0.5 - 1) < 0.1
    assert ("do not trust" in idata.attrs.get("refused", "")) == (of == "guide")


def test_a_collapsed_guide_s_run_folder(workplace, tmp_path):
    run = fit_now(workplace, ["eight_schools_centred", "--steps", "20"], tmp_path / "run")
    idata, found = groups.load(run.out / "posterior.nc"), json.loads((run.out / "result.json").read_text())
    page = (run.out / "report.html").read_text()
    assert idata.attrs["draws_of"] == found["draws_of"] == "guide" and "log_likelihood" not in idata.groups()
    assert "<h2>Guide</h2>" in page and "<h2>Intervals of the guide</h2>" in page and "<h2>Posterior</h2>" not in page
    assert "intervals of the guide, not of the posterior" in page
    assert any("do not trust" in remark for remark in found["remarks"]) and "Read this first" in page


def test_headings():
    content = {"title": "t", "posterior": {"mu": {"mean": 1.0}}}
    assert "<h2>Posterior</h2>" in render_report(ReportContent(**content))
    assert "<h2>Guide</h2>" in render_report(ReportContent(**content, intervals_of="guide"))
    assert "why" in render_report(ReportContent(**content, intervals_note="why"))
    assert "why" not in render_report(ReportContent(title="t", intervals_note="why"))
