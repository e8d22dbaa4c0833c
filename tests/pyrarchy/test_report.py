import base64
import dataclasses
import doctest
import functools
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from pyrarchy import plots, report, report_page
from pyrarchy.report import Estimate, Layer, ReportContent, render_report, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
EVIL = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """Tags with their attributes, text, and whether every tag that was opened was closed in order."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.headings, self.rows = [], [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes {self.open}"

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if "h2" in self.open:
            self.headings[-1] += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@functools.cache
def figures():
    r, steps = np.random.default_rng(3), np.arange(1, 40)
    images = r.random((3, 4))
    return {
        "curves": plots.loss_curves({"run": (steps, 1.0 / steps)}),
        "rates": plots.rate_bars({"run": {"z1": 20.3}}),
        "images": plots.image_grid({"input": images}, (2, 2)),
        "traversals": plots.traversals(images[None], (2, 2)),
        "interpolations": plots.png(plots.interpolations(images[None], (2, 2))),
        "latent": plots.latent_scatter(r.normal(size=(9, 2))),
        "forest": plots.forest({"iaf": {"mu": (0.0, -1.0, 1.0)}}),
    }


def full(**changes):
    content = {
        "title": "ladder on digits",
        "pair": "hvae-ladder: MarkovHVAE + Ladder",
        "density": "p(x, z) = p(z2) p(z1 | z2) p(x | z1)",
        "source": "Sønderby et al. (2016)",
        "source_link": "https://arxiv.org/abs/1602.02282",
        "data": "digits, 360 held out",
        "objective": "ELBO",
        "budget": "200 epochs, seed 0",
        "warnings": ["Layer z3 collapsed.", "One datum has k-hat above 0.7."],
        "log_px": Estimate(-21.3456, 0.123, "lower bound, 5000 importance samples"),
        "elbo": Estimate(-23.01),
        "k_hat": np.array([0.1] * 7 + [0.6] * 2 + [0.9]),
        "layers": [Layer("z1", 20.3, 15, 16), Layer("z2", 0.05, 1, 8), Layer("z3", 0.002, 0, 4)],
        "posterior": {"mu": {"mean": -1.234, "sd": 0.5, "ess": 4321}, "tau": {"mean": 2.0}},
        "config": {"seed": 0, "optimizer": {"lr": 0.001}, "z_dims": [16, 8]},
    }
    return ReportContent(**(content | figures() | changes))


@pytest.fixture(scope="module")
def source():
    return render_report(full())


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_the_header_says_what_was_run(page):
    for words in ("ladder on digits", "MarkovHVAE + Ladder", "p(z1 | z2)", "Sønderby", "360 held out", "200 epochs"):
        assert words in page.text
    assert page.all("a") == [{"href": "https://arxiv.org/abs/1602.02282", "rel": "noreferrer"}]


def test_the_key_figures_are_those_given_with_their_units(page):
    assert "log p(x), held out −21.35 ± 0.12 nats per datum, lower bound, 5000 importance samples" in page.text
    assert "ELBO −23.01 nats per datum" in page.text
    assert "70 % good 20 % usable 10 % do not trust of the data" in page.text
    exact = Page(render_report(ReportContent(title="t", log_px=Estimate(-3.0, note="exact")))).text
    assert "−3.00 nats per datum, exact" in exact and "ELBO" not in exact


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(-87.3149, 0.0123), "−87.315 ± 0.012"),
        (Estimate(-1234.5, 31.0), "−1234 ± 31"),
        (Estimate(2.0, 0.5), "2.00 ± 0.50"),
        (Estimate(1.5, float("nan")), "1.50"),
        (Estimate(1.5, 0.0), "1.50 ± 0"),
        (Estimate(float("-inf"), 0.1), "not finite"),
    ],
)
def test_an_estimate_shows_two_digits_of_its_standard_error(estimate, text):
    assert str(estimate) == text


def test_the_layers_have_rate_units_and_a_word(page):
    assert ["Site", "Layer is", "Rate (nats per datum)", "Active units"] in page.rows
    assert ["z1", "active", "20.30", "15 / 16"] in page.rows
    assert ["z2", "weak", "0.0500", "1 / 8"] in page.rows
    assert ["z3", "collapsed", "0.002", "0 / 4"] in page.rows
    assert "says nothing about x" in page.text


def test_the_words_for_a_layer():
    assert (
        Layer("z", 0.01).word == "weak" and Layer("z", 0.1).word == "active" and Layer("z", -0.003).word == "collapsed"
    )
    assert Layer("z", 5.0, 0, 3).word == "collapsed" and Layer("z", float("nan")).word == "not finite"
    rows = Page(render_report(ReportContent(title="t", layers=[Layer("z", 5.0), Layer("y", 5.0, None, 3)]))).rows
    assert ["z", "active", "5.00", "–"] in rows and ["y", "active", "5.00", "– / 3"] in rows


def test_the_tables_hold_what_was_given(page):
    assert ["Variable", "mean", "sd", "ess"] in page.rows
    assert ["mu", "−1.23", "0.5000", "4,321"] in page.rows
    assert ["tau", "2.00", "–", "–"] in page.rows
    assert ["seed", "0"] in page.rows and ["optimizer.lr", "0.001"] in page.rows and ["z_dims", "[16, 8]"] in page.rows


def test_warnings_come_before_the_figures(page):
    assert page.text.index("Layer z3 collapsed.") < page.text.index("Key figures")


def test_every_picture_is_inline_and_is_the_figure_given(page):
    images = page.all("img")
    assert len(images) == 8
    for image in images:
        assert image["src"].startswith("data:image/png;base64,") and image["alt"] and image["width"] == "810"
    content = full()
    decoded = [base64.b64decode(image["src"].split(",")[1]) for image in images]
    for name, data in zip(("curves", "rates", "images", "traversals"), decoded, strict=False):
        assert data == plots.png(getattr(content, name)), name
    assert decoded[4] == content.interpolations
    assert decoded[7] == plots.png(plots.k_hat_histogram(content.k_hat))


def test_the_page_loads_nothing_and_runs_nothing(source, page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "data", "action", "poster") and tag != "a":
                assert value.startswith("data:"), (tag, name, value)
    assert source.count("http://") + source.count("https://") == 1  # the source's link
    assert not re.search(r"@import|url\(", source)
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy["content"]


def test_the_page_suits_a_phone_and_the_dark(source, page):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme:dark" in source and "color-scheme:light dark" in source
    assert source.count('<div class="scroll" tabindex="0"><table>') == source.count("<table>") == 3


def test_every_string_is_escaped():
    strings = {f.name: EVIL for f in dataclasses.fields(ReportContent) if f.type in (str, "str")}
    assert {
        "title",
        "pair",
        "density",
        "source",
        "source_link",
        "data",
        "objective",
        "budget",
        "log_px_name",
        "intervals_of",
        "intervals_note",
    } == set(strings)
    content = full(
        **strings,
        warnings=[EVIL],
        log_px=Estimate(1.0, 0.1, EVIL),
        layers=[Layer(EVIL, 1.0, 1, 2)],
        posterior={EVIL: {EVIL: EVIL}},
        config={EVIL: {EVIL: EVIL}, "list": [EVIL]},
    )
    source = render_report(content)
    assert "<script" not in source and "alert('x')" not in source
    page = Page(source)
    assert page.text.count("<script>alert('x')</script>\"&") >= 14
    assert page.all("script") == []


@pytest.mark.parametrize("link", ["javascript:alert(1)", "file:///etc/passwd", "//host/x", ""])
def test_only_a_web_address_becomes_a_link(link):
    assert Page(render_report(ReportContent(title="t", source="Someone", source_link=link))).all("a") == []


def test_the_same_content_gives_the_same_bytes(source):
    assert render_report(full()) == source
    assert render_report(full(title="other")) != source
    assert not re.search(r"20[2-9]\d-\d\d", source)  # no date


def test_what_is_missing_is_left_out():
    page = Page(render_report(ReportContent(title="only a title")))
    assert page.headings == [] and page.all("img") == page.all("table") == page.all("dl") == page.all("aside") == []
    sections = {
        "curves": "Training",
        "rates": "Rates",
        "images": "Data and samples",
        "traversals": "Traversals",
        "interpolations": "Interpolations",
        "latent": "Latent space",
        "forest": "Intervals",
        "posterior": "Posterior",
        "config": "Configuration",
        "layers": "Layers",
    }
    everything = Page(render_report(full())).headings
    assert everything == ["Key figures", "Layers", *list(sections.values())[:7], "Importance weights", *everything[-2:]]
    drawn = {name: figure if isinstance(figure, bytes) else plots.png(figure) for name, figure in figures().items()}
    for name, heading in sections.items():
        empty = {"posterior": {}, "config": {}, "layers": ()}.get(name)
        left = Page(render_report(full(**drawn | {"k_hat": None, name: empty}))).headings
        assert left == [h for h in everything if h not in (heading, "Importance weights")]
    assert "Key figures" not in Page(render_report(full(**drawn | dict.fromkeys(("k_hat", "log_px", "elbo"))))).headings


def test_a_k_hat_that_is_nan_is_counted_in_words():
    page = Page(render_report(ReportContent(title="t", k_hat=np.array([0.1, np.nan, 0.2]))))
    assert "could not be computed for 1 of 3 data" in page.text and "100 % good" in page.text
    page = Page(render_report(ReportContent(title="t", k_hat=np.array([np.nan]))))
    assert "1 of 1 data" in page.text and page.all("img") == [] and page.headings == ["Importance weights"]


def test_few_are_never_none():
    page = Page(render_report(ReportContent(title="t", k_hat=np.array([0.1] * 999 + [2.0]))))
    assert "> 99 % good < 1 % do not trust" in page.text and "usable of" not in page.text


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="title is empty"):
        render_report(ReportContent(title="  "))
    with pytest.raises(ValueError, match="curves is a list"):
        render_report(ReportContent(title="t", curves=[1]))
    with pytest.raises(ValueError, match="images: these 3 bytes are no PNG"):
        render_report(ReportContent(title="t", images=b"gif"))
    with pytest.raises(TypeError, match="list of sentences"):
        render_report(ReportContent(title="t", warnings="one"))


def test_write_report_is_all_or_nothing(tmp_path, monkeypatch):
    content = ReportContent(title="Sønderby \udcff")  # a lone surrogate, as from a broken file name
    path = write_report(tmp_path, content)
    assert path == tmp_path / "report.html" and "Sønderby &#56575;" in path.read_text("utf-8")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, ReportContent(title="new"))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(NotADirectoryError, match="not a folder"):
        write_report(tmp_path / "missing", content)


def test_importing_the_report_loads_neither_torch_nor_matplotlib():
    code = "import sys, pyrarchy.report; print({'torch', 'pyro', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("module", [report, report_page], ids=lambda module: module.__name__)
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
