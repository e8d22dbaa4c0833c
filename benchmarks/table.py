"""Results as markdown: the page with its goals, the README's block, and one line a comparison."""

from .goals import EM, SKLEARN, judge, number
from .machine import cpu, machine

METHOD = """\
Each comparison is one process, pinned to one core. Its variants run in short slices in shuffled order, and a ratio is
taken only between slices of the same round: the table gives the median over rounds and, in brackets, the quartiles.
Times are CPU time of the process (of an epoch and what it starts: of the child processes), which on an idle machine is wall
time and on a shared one leaves the others out. `make bench-check` measures a part anew and fails where a ratio has become
more than 15 % worse than the one on this page.
"""
COLUMNS = {
    "PyTorch by hand": "by hand in PyTorch",
    "Pyrarchy fit": "Pyrarchy `fit`",
    "Pyro SVI": "Pyro SVI",
    "NumPyro SVI, jitted": "NumPyro, jitted update",
    "NumPyro SVI, lax.scan": "NumPyro, `lax.scan`",
}


SCALING = """Made by `python -m benchmarks.scaling`, in the same way, with a few rounds at each size. With fewer than 50 rows
a column our factor analysis climbs from several starts: hence the steps in the first two panels."""


def page(results, *, command, date=None):
    """The whole page.

    :param results: list of dictionaries with ``name``, ``title``, ``rounds`` and ``timings`` (:meth:`Timing.as_dict`);
        optionally ``climbs`` (timings, too), ``parts`` (title, timings and steps of each problem), ``log_likelihoods`` and
        ``losses`` (variant -> nats per datum), ``megabytes`` and ``missing`` (what could not be run).
    :param str command: how to repeat it.
    :param date: when it was measured, as text.
    """
    parts = ["# Benchmarks", "", METHOD]
    parts += [f"- Machine: {machine()}", f"- Command: `{command}`"]
    parts += [f"- Date: {date}"] if date else []
    parts += ["", "## Goals", "", goal_table(judge(results))]
    parts += ["", "## How cost grows", "", "![Time against sizes, log-log](benchmarks_scaling.png)", ""]
    parts += [SCALING]
    for result in results:
        parts += ["", f"## {result['title']}", "", *_rows(result, result["timings"])]
        parts += ["", "From the statistics on:", "", *_rows(result, result["climbs"])] if "climbs" in result else []
        parts += ["", *_parts(result["parts"])] if "parts" in result else []
        parts += ["", f"Rounds: {result['rounds']}."]
        parts += [f"Not run: {result['missing']}."] if result.get("missing") else []
        parts += [_memory(result["megabytes"])] if "megabytes" in result else []
    return "\n".join(parts) + "\n"


def goal_table(verdicts):
    """The goals as a table: what was measured, the limit, and the verdict."""
    lines = ["| | measured | goal | |", "|---|---:|---:|---|"]
    for v in verdicts:
        measured = "" if v["measured"] is None else number(v, v["measured"])
        sign = "at most" if v["at_most"] else "at least"
        lines.append(f"| {v['title']} | {measured} | {sign} {number(v, v['limit'])} | {v['verdict']} |")
    return "\n".join(lines)


def _memory(megabytes):
    words = [f"{k}: {'not told by this system' if mb is None else f'{mb:.0f} MB'}" for k, mb in megabytes.items()]
    return f"Extra memory of ours at {', at '.join(words)}."


def _rows(result, timings):
    extras = {
        "log p(x), nats per datum": result.get("log_likelihoods"),
        "mean loss of the epoch, nats per datum": result.get("losses"),
    }
    extras = {title: values for title, values in extras.items() if values}
    yield "| | ms | time relative to the first |" + "".join(f" {title} |" for title in extras)
    yield "|---|---:|---:|" + "---:|" * len(extras)
    for t in timings:
        cells = (
            f"| {t['name']} | {t['millis']:.2f} | {_three(t['ratio'])} ({_three(t['low'])} to {_three(t['high'])}) |"
        )
        for values in extras.values():  # a bare product fits nothing
            cells += f" {values[t['name']]:.5f} |" if t["name"] in values else " |"
        yield cells


def _parts(parts):
    """Each problem of a comparison that has several: times, steps, and the second variant's time over the first's."""
    first, second = (t["name"] for t in parts[0]["timings"])
    yield f"| | {first}, ms | steps | {second}, ms | steps | second / first |"
    yield "|---|---:|---:|---:|---:|---:|"
    for part in parts:
        cells = (f"{t['millis']:.1f} | {part['steps'][t['name']]:,}" for t in part["timings"])
        yield f"| {part['title']} | {' | '.join(cells)} | {_three(part['timings'][1]['ratio'])} |"


def _three(value):
    """A ratio with two decimals, a small one with two digits."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def short_table(results):
    """One row per comparison: median milliseconds of each variant, ours in bold."""
    lines = []
    for result in results:
        cells = [f"{t['name']} {_short(t['millis'])}" for t in result["timings"]]
        cells = [f"**{cell}**" if cell.startswith("Pyrarchy") else cell for cell in cells]
        lines.append(f"| {result['title']} | {', '.join(cells)} |")
    return "\n".join(["| | CPU time, one core |", "|---|---|", *lines])


def _short(millis):
    return f"{millis:.1f} ms" if millis < 1000 else f"{millis / 1e3:.2f} s"


def readme_block(results, *, date):
    """What the README says of speed: the training steps against all peers, and how many goals are met."""
    verdicts = judge(results)
    met = sum(v["verdict"] == "met" for v in verdicts)
    lines = [
        f"Median CPU time, relative to the first column or in seconds ({cpu()}, one core, {date}; `make bench`,",
        f"[docs/benchmarks.md](docs/benchmarks.md), where {met} of {len(verdicts)} goals are met):",
        "",
        "| | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for result in results:
        found = {t["name"]: t for t in result["timings"]}
        if "Pyrarchy fit" not in found:
            continue
        by_hand = "PyTorch by hand" in found
        cells = [_cell(found.get(name), by_hand) for name in COLUMNS]
        lines.append(f"| {result['title']} | " + " | ".join(cells) + " |")
    lines += ["", *(_sentence(result) for result in results if "log_likelihoods" in result)]
    return "\n".join(lines)


def _cell(timing, relative):
    if timing is None:
        return ""
    return _three(timing["ratio"]) if relative else f"{timing['millis'] / 1e3:.1f} s"


def _sentence(result):
    """What a factor analysis takes and where it ends, both against scikit-learn's."""
    found, reached = {t["name"]: t for t in result["timings"]}, result["log_likelihoods"]
    what = result["title"].removeprefix("Factor analysis, ")
    times = 1 / found[EM]["ratio"]
    gain = reached[EM] - reached[SKLEARN]
    return (
        f"Factor analysis of {what}: scikit-learn's time over ours {times:.3g}; log-likelihood, ours less "
        f"scikit-learn's, {gain:+.1e} nats per datum.  "
    )
