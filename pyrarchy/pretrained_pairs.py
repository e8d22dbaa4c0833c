"""Fitted pairs that ship with the package: ``model, guide = pretrained("ladder_vae")``.

Each was fitted by ``pyrarchy fit NAME --seed 0`` with the row's defaults on the 8 x 8 digits. ``NAME.npz`` holds weights
and buffers alone (see :mod:`pyrarchy.checkpoint`: no pickle), ``NAME.json`` how they were made and what the fit
measured. ``python pyrarchy/data/make_pretrained.py`` makes them anew.
"""

import json
from pathlib import Path

FOLDER = Path(__file__).with_name("data") / "pretrained"


def pretrained_names():
    """Names of the rows that ship fitted.

    >>> "ladder_vae" in pretrained_names()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def pretrained_card(name):
    """How a shipped pair was fitted and what it measured on the held-out digits: a dictionary.

    Keys: ``pair``, ``options``, ``data``, ``seed``, ``training``, ``log_p`` (nats per datum, a lower bound in expectation),
    ``log_p_error`` (its standard error over data), ``samples`` (importance samples per datum), ``rates``, ``version``.

    :raises ValueError: for a name that ships none; the names that do are listed.
    """
    if name not in pretrained_names():
        raise ValueError(f"no fitted '{name}' ships with the package; there are: {', '.join(pretrained_names())}")
    return json.loads((FOLDER / f"{name}.json").read_text())


def pretrained(name):
    """A fitted pair from the package's own files.

    :param str name: one of :func:`pretrained_names`.
    :returns: ``(model, guide)`` in evaluation mode.
    :raises ValueError: for a name that ships none, or weights that do not fit the row any more.
    """
    from .checkpoint import load_state
    from .inference.continuation import load_modules
    from .inference.isolation import root_modules
    from .registry import get_pair

    card = pretrained_card(name)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in card["options"].items()}
    model, guide = get_pair(card["pair"])(card["data"], seed=card["seed"], **options)
    try:
        load_modules(model, guide, load_state(FOLDER / f"{name}.npz"))
    except RuntimeError:  # torch's message has a line for every tensor
        raise ValueError(
            f"the weights of '{name}' were made for other options of the row: run make_pretrained.py"
        ) from None
    for root in root_modules(model, guide):
        root.eval()
    return model, guide
