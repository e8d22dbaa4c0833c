"""Executed notebooks from the tutorials: percent-format scripts in, .ipynb with outputs out."""

import os
from pathlib import Path

import jupytext
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parent.parent / "tutorials"
SECONDS_PER_CELL = 1800


def write_notebooks(out, full=False):
    """Run every ``tutorials/*.py`` and write its notebook and a list of them into ``out/tutorials``.

    :param bool full: run at full size instead of with ``PYRARCHY_SMOKE=1``.
    :raises nbclient.exceptions.CellExecutionError: for a cell that fails.
    """
    folder = out / "tutorials"
    folder.mkdir(parents=True, exist_ok=True)
    scripts = sorted(p for p in TUTORIALS.glob("*.py") if not p.name.startswith("_"))
    for script in scripts:
        print(f"running {script.name}", flush=True)
        jupytext.write(run(script, full), folder / f"{script.stem}.ipynb")
    (folder / "index.md").write_text(index(scripts, full))


def run(script, full):
    """The executed notebook of one script; it runs in the tutorials' folder."""
    # The warning is about widgets, which a page does not have.
    env = {**os.environ, "PYRARCHY_SMOKE": "0" if full else "1", "PYTHONWARNINGS": "ignore:IProgress not found"}
    notebook = jupytext.read(script)
    env.pop("MPLBACKEND", None)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    where = {"metadata": {"path": str(script.parent)}}
    # Figures made without pyplot are shown only where the kernel was told to show figures.
    kernel = ["--log-level=ERROR", "--matplotlib=inline"]
    NotebookClient(notebook, timeout=SECONDS_PER_CELL, resources=where, extra_arguments=kernel).execute(env=env)
    return notebook


def index(scripts, full):
    """The list of tutorials."""
    if not scripts:
        return "# Tutorials\n\nThere are no tutorials yet.\n"
    size = (
        "They ran at full size."
        if full
        else "The outputs below are from short runs (`PYRARCHY_SMOKE=1`), so their numbers show the way and settle "
        "nothing; `make docs ARGS=--full` runs them at full size."
    )
    names = "\n".join(script.stem for script in scripts)
    text = f"One claim of the field each, measured. The scripts are in the repository's folder `tutorials/`. {size}"
    return f"# Tutorials\n\n{text}\n\n```{{toctree}}\n{names}\n```\n"
