"""The API reference: per room an overview, and per module a page with its docstring and what it exports."""

import importlib
import inspect

import pyrarchy
from pyrarchy.parser import build_parser

ROOMS = {
    "pyrarchy": "pyrarchy: the front door",
    "pyrarchy.zoo": "pyrarchy.zoo: models, p",
    "pyrarchy.guides": "pyrarchy.guides: guides, q",
    "pyrarchy.inference": "pyrarchy.inference: bounds, drivers, evaluation",
}
# Modules of the front door that are used under their own name.
ALONE = ("pyrarchy.plots", "pyrarchy.binarize", "pyrarchy.objectives")


def write_api(out):
    """Write ``api/*.rst`` and ``cli.md`` into the folder ``out``."""
    folder = out / "api"
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for room, title in ROOMS.items():
        for page, text in room_pages(room, title).items():
            (folder / f"{page}.rst").write_text(text)
        pages.append(room)
    for module in ALONE:
        (folder / f"{module}.rst").write_text(own_page(module))
        pages.append(module)
    toctree = ["API reference", "=============", "", ".. toctree::", "   :maxdepth: 1", ""]
    (folder / "index.rst").write_text("\n".join([*toctree, *(f"   {page}" for page in pages), ""]))
    (out / "cli.md").write_text(command_line())


def room_pages(room, title):
    """The overview of a room and the pages of its modules: page name -> text."""
    package = importlib.import_module(room)
    modules = {}
    for name in package.__all__:
        if name != "__version__":
            modules.setdefault(home(room, name), []).append(name)
    lines = [heading(title), f".. automodule:: {room}", "", f".. currentmodule:: {room}", ""]
    pages = {}
    for module, names in sorted(modules.items()):
        lines += [".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in names), ""]
        pages[module] = module_page(room, module, names)
    lines += [".. toctree::", "   :hidden:", "", *(f"   {module}" for module in sorted(modules)), ""]
    return {room: "\n".join(lines), **pages}


def home(room, name):
    """The module that a public name of a room is written in."""
    if room == "pyrarchy":
        return f"pyrarchy.{pyrarchy._LAZY[name]}"
    return getattr(importlib.import_module(room), name).__module__


def module_page(room, module, names):
    """A module's docstring, then its public names under the name that they are imported by."""
    # The module fit and the function fit have one path, and only one of them can be in the index.
    hidden = ["   :no-index:"] if module in [f"{room}.{name}" for name in names] else []
    lines = [heading(", ".join(names)), f".. automodule:: {module}", *hidden, "", f".. currentmodule:: {room}", ""]
    for name in names:
        lines += describe(f"{room}.{name}", getattr(importlib.import_module(room), name))
    return "\n".join(lines)


def own_page(module):
    """A module whose names are used as ``module.name``: those in its ``__all__``, or all that it defines."""
    found = importlib.import_module(module)
    mine = (n for n, v in vars(found).items() if not n.startswith("_") and getattr(v, "__module__", "") == module)
    lines = [heading(module), f".. automodule:: {module}", "", f".. currentmodule:: {module}", ""]
    for name in getattr(found, "__all__", None) or mine:
        lines += describe(f"{module}.{name}", getattr(found, name))
    return "\n".join(lines)


def describe(path, value):
    """The directive for a class or function."""
    kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
    extra = ["   :members:", "   :show-inheritance:"] if kind == "class" else []
    return [f".. auto{kind}:: {path}", *extra, ""]


def heading(text):
    """A page's title."""
    return f"{text}\n{'=' * len(text)}\n"


def command_line():
    """The help texts of all commands, as they are printed."""
    parser = build_parser()
    texts = [("pyrarchy", parser.format_help())]
    for action in parser._subparsers._group_actions:
        texts += [(f"pyrarchy {name}", sub.format_help()) for name, sub in action.choices.items()]
    parts = ["# Command line", ""]
    for name, text in texts:
        parts += [f"## {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(parts)
