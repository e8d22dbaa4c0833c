"""Pyrarchy: a zoo of hierarchical generative models in Pyro, each with a matching guide.

The rooms: :mod:`pyrarchy.zoo` (models, p), :mod:`pyrarchy.guides` (guides, q), :mod:`pyrarchy.inference`
(bounds, drivers, evaluation, ArviZ). This package is the front door: registry of pairs, command line, report.
"""

from pathlib import Path

from ._version import __version__

_root = Path(__file__).resolve().parent.parent
# In a bare clone nothing maps zoo/, guides/ and inference/ into the package, so look for them one folder up.
# setup.cfg marks the clone: an installed package has the rooms inside and needs nothing.
if (_root / "setup.cfg").is_file() and (_root / "zoo" / "__init__.py").is_file():
    __path__.append(str(_root))

__all__ = [
    "DataError",
    "Dataset",
    "Pair",
    "Source",
    "Training",
    "__version__",
    "diagnose",
    "get_pair",
    "list_pairs",
    "load",
    "load_data",
    "pair",
    "pretrained",
]

_LAZY = {
    "DataError": "faults",
    "Dataset": "datasets",
    "diagnose": "diagnosis",
    "load_data": "datasets",
    "Pair": "registry",
    "Source": "registry",
    "Training": "registry",
    "get_pair": "registry",
    "list_pairs": "registry",
    "pair": "registry",
    "load": "run_folder",
    "pretrained": "pretrained_pairs",
}


def __getattr__(name):
    """Import the front door's names on first use, so that ``import pyrarchy`` stays light."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(set(globals()) | set(_LAZY))
