"""The ledger: every claim that a tutorial measures, in one line, with the verdict and the number of a run in full.

``python docs/ledger.py`` runs all tutorials in full (half an hour) and writes ``ledger.json`` and ``ledger.md``; with names
(``01 12``) those alone. ``--log FILE`` with one name reads what a full run of it printed in place of running it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
TUTORIALS = DOCS.parent / "tutorials"
KEPT = DOCS / "ledger.json"
VERDICT = re.compile(r"^\* (holds only [^:]*|holds|does not hold): (.*)$", re.MULTILINE)


def full_run(path):
    """What a tutorial prints at full size."""
    settings = {"PYRARCHY_SMOKE": "0", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(path)],
            cwd=folder,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{path.name}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def heading(path):
    """Title and sources of a tutorial, from its first cell."""
    text = re.sub(r"^# ?", "", path.read_text().split("# %%")[1], flags=re.MULTILINE)
    title = re.search(r"^# (.*)$", text, re.MULTILINE)[1]
    sources = re.search(r"\*\*Sources?\.\*\*\s+(.*?)(?:\n\s*\n|Set `PYRARCHY_SMOKE|\Z)", text, re.DOTALL)
    return title, " ".join(sources[1].split()) if sources else ""


def page(kept):
    """The ledger as Markdown."""
    lines = [
        "# Ledger of claims",
        "",
        "Claims of the field and of these tutorials, each measured by a run in full on one core; seeds, budgets and errors",
        "are in the tutorials. A smoke run of every tutorial in the tests checks that claims and numbers still belong",
        "together. Written by `python docs/ledger.py`.",
        "",
    ]
    for name, claims in sorted(kept.items()):
        path = TUTORIALS / name
        title, sources = heading(path)
        lines += [f"## {name[:2]} {title}", "", f"[{name}](../tutorials/{name}). {sources}", ""]
        lines += ["| claim, and what was measured | verdict |", "|---|---|"]
        lines += [f"| {claim.replace('|', chr(92) + '|')} | {word} |" for word, claim in claims]
        lines.append("")
    return "\n".join(lines)


def main():
    """Run the tutorials named, keep their verdicts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="numbers of tutorials; all by default")
    parser.add_argument("--log", type=Path, help="what a full run of the one tutorial named has printed")
    args = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for path in sorted(TUTORIALS.glob("*.py")):
        if args.names and path.name[:2] not in args.names:
            continue
        found = VERDICT.findall(args.log.read_text() if args.log else full_run(path))
        kept[path.name] = [list(pair) for pair in found]
        print(f"{path.name}: {len(found)} claims", flush=True)
        KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n")
        (DOCS / "ledger.md").write_text(page(kept))


if __name__ == "__main__":
    main()
