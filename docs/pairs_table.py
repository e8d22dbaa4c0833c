"""The README's table of pairs: ``python docs/pairs_table.py`` prints it and writes it between the README's markers."""

from pathlib import Path

import pyrarchy

README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- pairs -->", "<!-- /pairs -->"


def table(pairs):
    """One line per row: name, classes, what it is, source."""
    lines = ["| pair | model + guide | what it is | source |", "|---|---|---|---|"]
    for name, pair in pairs.items():
        what = pair.summary.rstrip(".").replace("|", "\\|")
        source = f"[{first_author(pair.source.authors)} {pair.source.year}]({pair.source.link})"
        lines.append(f"| `{name}` | {pair.model} + {pair.guide} | {what} | {source} |")
    return "\n".join(lines)


def first_author(authors):
    """Surnames as a citation has them: one, two, or the first "et al."."""
    names = [name.split(",")[0] for name in authors.split(" and ")]
    return names[0] if len(names) == 1 else f"{names[0]} and {names[1]}" if len(names) == 2 else f"{names[0]} et al."


def between_markers(text):
    """What stands between the markers.

    :raises ValueError: when there is not exactly one pair of markers.
    """
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md needs one {START} and one {END}, to hold the table of pairs")
    return text.partition(START)[2].partition(END)[0].strip()


def main():
    """Print the table and rewrite the README's block."""
    text, new = README.read_text(), table(pyrarchy.list_pairs())
    between_markers(text)
    before, _, rest = text.partition(START)
    README.write_text(f"{before}{START}\n{new}\n{END}{rest.partition(END)[2]}")
    print(new)


if __name__ == "__main__":
    main()
