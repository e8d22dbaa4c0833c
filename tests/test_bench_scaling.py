"""The figure of cost against size: what was measured is drawn, and nothing written on it is cut off."""

import pytest

from benchmarks import scaling
from benchmarks.interleave import Variant

NAMES = ("scikit-learn", "Pyrarchy fit_em", "one bare syrk", "PyTorch by hand", "Pyro SVI")


def test_a_panel_measures_each_variant_at_each_size_and_calls_ours_by_one_name():
    done = []

    def variants(size):
        return [Variant(name, lambda n=name: done.append((n, size))) for name in ("by hand", "Pyrarchy evaluate")]

    curves = scaling.measure(scaling.Panel("", "", (3, 5), variants), rounds=2)
    assert {name: sizes for name, (sizes, _) in curves.items()} == {"by hand": [3, 5], "Pyrarchy": [3, 5]}
    assert all(millis > 0 for _, each in curves.values() for millis in each)
    assert set(done) == {(n, size) for n in ("by hand", "Pyrarchy evaluate") for size in (3, 5)}


def test_all_panels_are_drawn_and_no_word_is_cut_off():
    found = {
        panel: {name: (panel.sizes, [0.3 * 7**i * size for size in panel.sizes]) for i, name in enumerate(NAMES)}
        for panel in scaling.PANELS
    }
    figure = scaling.draw(found)
    assert [axes.get_xlabel() for axes in figure.axes] == [panel.xlabel for panel in scaling.PANELS]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(NAMES)
    page, drawn = figure.bbox_inches, figure.get_tightbbox()
    assert page.x0 <= drawn.x0 and drawn.x1 <= page.x1 and page.y0 <= drawn.y0 and drawn.y1 <= page.y1


@pytest.mark.parametrize("panel", [scaling.PANELS[1], scaling.PANELS[3], scaling.PANELS[4]], ids=lambda p: p.xlabel)
def test_the_variants_of_a_panel_run(panel):
    variants = panel.variants(panel.sizes[0])
    assert sum(v.name.startswith("Pyrarchy") for v in variants) == 1
    with variants[1].around():
        variants[1].step()
