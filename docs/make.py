"""Build the documentation into docs/_build/html without a network: ``make docs``, or ``python docs/make.py``.

``--refit`` fits every pair anew for the gallery (minutes); ``--full`` runs the tutorials at full size (longer still).
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))
PROJECT = {
    "architecture": "ARCHITECTURE.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "ledger": "docs/ledger.md",
    "benchmarks": "docs/benchmarks.md",
    "mnist_importance": "docs/mnist_importance.md",
    "mnist_hierarchies": "docs/mnist_hierarchies.md",
    "gradient_snr": "docs/gradient_snr.md",
    "sparse_features": "docs/sparse_features.md",
    "ising": "docs/ising.md",
    "lossy_rates": "docs/lossy_rates.md",
}


def main():
    """Generate the pages that follow from the code, then run Sphinx; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refit", action="store_true", help="fit every pair anew for the gallery")
    parser.add_argument("--full", action="store_true", help="run the tutorials at full size")
    parser.add_argument("--no-tutorials", action="store_true", help="leave the tutorials out")
    parser.add_argument("--out", default=DOCS / "_build" / "html", type=Path, help="where to put the site")
    args = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "agg")

    from api_pages import write_api
    from cards import write_cards
    from gallery import write_pictures
    from notebooks import write_notebooks

    import pyrarchy

    generated = DOCS / "_generated"
    shutil.rmtree(generated, ignore_errors=True)
    generated.mkdir()
    pairs = pyrarchy.list_pairs()
    if args.refit:
        write_pictures(list(pairs))
    write_cards(pairs, generated)
    write_api(generated)
    write_project(generated)
    if args.no_tutorials:
        (generated / "tutorials").mkdir()
        (generated / "tutorials" / "index.md").write_text("# Tutorials\n\nThey were left out of this build.\n")
    else:
        write_notebooks(generated, args.full)
    return build(args.out)


def write_project(generated):
    """Pages that show the repository's own files, those that are there, and the bibliography."""
    folder = generated / "project"
    folder.mkdir()
    for page, path in PROJECT.items():
        if (ROOT / path).exists():
            (folder / f"{page}.md").write_text(f"```{{include}} ../../../{path}\n:relative-images:\n```\n")
    text = "# Sources\n\nBibTeX of the papers behind the pairs.\n\n```{literalinclude} ../pairs.bib\n```\n"
    (folder / "sources.md").write_text(text)


def build(out):
    """Run Sphinx with warnings as errors."""
    from sphinx.cmd.build import main as sphinx

    code = sphinx(["-q", "-E", "-W", "--keep-going", "-b", "html", "-d", str(out / ".doctrees"), str(DOCS), str(out)])
    if code == 0:
        print(f"docs: {out / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
