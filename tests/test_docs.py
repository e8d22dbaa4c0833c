"""What the documentation says is run: doctests, the pages' code and commands, the README's table, the gallery."""

import doctest
import importlib
import importlib.util
import inspect
import json
import py_compile
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import pyrarchy
from pyrarchy import cli

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"pyrarchy": "pyrarchy", "zoo": "pyrarchy.zoo", "guides": "pyrarchy.guides", "inference": "pyrarchy.inference"}
MODULES = {
    f"{package}.{path.stem}".removesuffix(".__init__"): path
    for room, package in ROOMS.items()
    for path in sorted((ROOT / room).glob("*.py"))
}
WITH_DOCTESTS = [name for name, path in MODULES.items() if ">>> " in path.read_text()]
PAGES = [ROOT / "README.md", ROOT / "docs/index.md", *sorted((ROOT / "docs/guide").glob("*.md"))]
OWN_FILES = [*PAGES, *(p for name in ("ARCHITECTURE.md", "CONTRIBUTING.md") if (p := ROOT / name).exists())]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHEAP_FIT = ["--samples", "5", "--quiet"]
PAIRS = pyrarchy.list_pairs()


def load_script(path):
    """A script of the docs folder as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", WITH_DOCTESTS)
def test_doctests(name):
    """The examples in the docstrings print what they say."""
    module = importlib.import_module(name)
    assert Path(module.__file__) == MODULES[name], "another installation of pyrarchy is being tested"
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """An empty folder to run a page in; the modules that it imports from there are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_code_of_the_pages_runs(page, workshop):
    """Python and console blocks of a page, in their order, in one folder and one namespace; fits take three steps."""
    blocks = BLOCK.findall(page.read_text())
    fences = re.findall(r"^```.*(?:python|console)", page.read_text(), re.MULTILINE)
    assert len(blocks) == len(fences) > 0
    namespace = {"__name__": "page"}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, f"{page.name}", "exec"), namespace)
        else:
            for line in text.splitlines():
                if command := shlex.split(line.removeprefix("$ "), comments=True):
                    run_command(command, page)


def run_command(command, page):
    """Run a pyrarchy command in this process; of others, check that what they name is there."""
    where = f"{page.name}: {shlex.join(command)}"
    if command[0] == "pyrarchy":
        code = cli.run(cheaper(command[1:]))
        assert code == 0, where
    elif command[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(command[1:]) <= set(targets), where
    elif command[:3] == ["python", "-m", "pytest"]:
        py_compile.compile(command[3], doraise=True)  # run in full by the tests of `pyrarchy new`
    else:
        pytest.fail(f"no way to check the command in {where}")


def cheaper(command):
    """The same command with a tiny budget where it trains."""
    if command[0] != "fit":
        return command
    row = pyrarchy.get_pair(command[1]) if ":" not in command[1] else None
    steps = [] if row is not None and row.training.method != "svi" else ["--steps", "3"]
    return [*command, *CHEAP_FIT, *steps]


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda p: p.stem)
def test_links_between_files_lead_somewhere(path):
    """Relative links and pictures exist."""
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
        if "://" not in link:
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


@pytest.mark.parametrize("room", ROOMS.values())
def test_public_names_have_docstrings(room):
    """Each public name says what it is, itself; each public method too, or the one that it overrides does."""
    package = importlib.import_module(room)
    silent = []
    for name in package.__all__:
        value = getattr(package, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        if not doc or doc.startswith(f"{name}("):  # the second is what a dataclass writes by itself
            silent.append(name)
        if inspect.isclass(value):
            for n, member in vars(value).items():
                written = member.__doc__ if isinstance(member, property) else inspect.getdoc(getattr(value, n))
                if (
                    not n.startswith("_")
                    and (inspect.isfunction(member) or isinstance(member, property))
                    and not written
                ):
                    silent.append(f"{name}.{n}")
    assert not silent


@pytest.mark.parametrize("name", PAIRS)
def test_pair_has_a_picture(name):
    """The gallery holds a PNG under 60 kB and the figures of the fit behind it."""
    picture = (ROOT / "docs/gallery" / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert 1_000 < len(picture) < 60_000
    figures = json.loads((ROOT / "docs/gallery/figures.json").read_text())[name]
    assert figures["elbo"] <= figures["log_p"] + 1e-6
    assert figures["picture"].endswith(".")
    defaults = load_script(ROOT / "docs/gallery.py").defaults(PAIRS[name])
    assert figures["fitted_with"] == defaults, f"out of date: run python docs/gallery.py {name}"


def test_gallery_holds_nothing_else():
    """No picture and no figures of a row that is gone."""
    assert {p.stem for p in (ROOT / "docs/gallery").glob("*.png")} == set(PAIRS)
    assert set(json.loads((ROOT / "docs/gallery/figures.json").read_text())) == set(PAIRS)


def test_table_in_the_readme_is_the_registry():
    """``python docs/pairs_table.py`` brings it up to date."""
    script = load_script(ROOT / "docs/pairs_table.py")
    assert script.between_markers((ROOT / "README.md").read_text()) == script.table(PAIRS)


def test_markers_of_the_table_are_needed():
    """Without them the table would be written nowhere."""
    script = load_script(ROOT / "docs/pairs_table.py")
    with pytest.raises(ValueError, match="needs one"):
        script.between_markers("# A README without a table\n")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_docs_build(tmp_path):
    """The site builds without a warning, and no page asks for anything from elsewhere."""
    pytest.importorskip("sphinx", reason="needs the docs extra")
    command = [sys.executable, ROOT / "docs/make.py", "--out", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {f"{name}.html" for name in PAIRS} <= {p.name for p in pages}
    for page in pages:
        elsewhere = r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]+|<link[^>]+href="(?:https?:)?//[^"]+'
        fetched = re.findall(elsewhere, page.read_text())
        assert not fetched, f"{page.name}: {fetched[:3]}"
