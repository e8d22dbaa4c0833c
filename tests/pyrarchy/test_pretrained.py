"""The fitted pairs that ship with the package give the numbers on their cards."""

import json

import numpy as np
import pytest
import torch

import pyrarchy
from pyrarchy.binarize import binarization
from pyrarchy.inference import evaluate
from pyrarchy.placement import to_tensors
from pyrarchy.pretrained_pairs import FOLDER, pretrained, pretrained_card, pretrained_names


@pytest.mark.parametrize("name", pretrained_names())
def test_shipped_pair_measures_what_its_card_says(name):
    """Held-out log p on the card's data; K = 100 lies below the card's K = 1,000 by less than a tenth of a nat here."""
    card = pretrained_card(name)
    model, guide = pretrained(name)
    rows = to_tensors(binarization("fixed").prepare(pyrarchy.load_data(card["data"])).test)
    found = evaluate(model, guide, rows, num_samples=100)
    assert card["log_p"] - 0.4 < found.log_p.mean() < card["log_p"] + 0.05
    for site, rate in found.rates.items():
        assert np.isclose(rate, card["rates"][site], atol=0.25)
    assert not model.training and not guide.training


def test_weights_are_the_file_s_and_not_a_fresh_pair_s():
    """Loading twice gives the same weights to the last bit; a fresh pair has others."""
    first, second = pretrained("vae")[0], pretrained("vae")[0]
    fresh = pyrarchy.get_pair("vae")()[0]
    key = "decoder.1.logits.weight"
    assert torch.equal(first.state_dict()[key], second.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], fresh.state_dict()[key])


def test_unknown_name_lists_the_others():
    with pytest.raises(ValueError, match=r"there are: .*ladder_vae"):
        pretrained("no_such_pair")


def test_weights_of_other_options_are_refused(tmp_path, monkeypatch):
    """A card whose options do not match its weights is an error in one line."""
    card = pretrained_card("vae") | {"options": {"z_dim": 3, "hidden": [128, 128]}}
    (tmp_path / "vae.json").write_text(json.dumps(card))
    (tmp_path / "vae.npz").write_bytes((FOLDER / "vae.npz").read_bytes())
    monkeypatch.setattr("pyrarchy.pretrained_pairs.FOLDER", tmp_path)
    with pytest.raises(ValueError, match="other options"):
        pretrained("vae")


def test_cards_are_of_the_rows_present_defaults():
    """A row whose defaults changed needs its weights made anew."""
    for name in pretrained_names():
        pair, card = pyrarchy.get_pair(name), pretrained_card(name)
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in pair.options.items()} == card["options"]
        assert vars(pair.training) == card["training"], f"run make_pretrained.py {name}"
