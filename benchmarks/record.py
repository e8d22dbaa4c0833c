"""Where the figures are kept: the page, the same as JSON for ``bench-check``, and a block in the README."""

import json
from pathlib import Path

from .goals import judge
from .machine import machine
from .table import page, readme_block

ROOT = Path(__file__).resolve().parent.parent
PAGE, DATA, README = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.json", ROOT / "README.md"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def write(results, page_path, data_path, readme_path, *, command, date):
    """Write all three (no README where the path is ``None``); the paths written."""
    page_path.parent.mkdir(parents=True, exist_ok=True)
    page_path.write_text(page(results, command=command, date=date))
    goals, kept = judge(results), [_without_rounds(result) for result in results]
    data = {"machine": machine(), "date": date, "command": command, "goals": goals, "results": kept}
    data_path.write_text(json.dumps(data, indent=1) + "\n")
    if readme_path is None:
        return [page_path, data_path]
    readme_path.write_text(replace_block(readme_path.read_text(), readme_block(results, date=date)))
    return [page_path, data_path, readme_path]


def _without_rounds(value):
    """A result without the seconds of single rounds."""
    if isinstance(value, dict):
        return {key: _without_rounds(held) for key, held in value.items() if key != "seconds"}
    return [_without_rounds(held) for held in value] if isinstance(value, list) else value


def replace_block(text, block):
    """A text with what stands between the markers replaced.

    :raises ValueError: when the markers are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no block between {BEGIN} and {END}; add the two lines where it shall stand")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"
