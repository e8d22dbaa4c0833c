"""Results as markdown, with the machine they were measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "pyro-ppl", "numpyro", "jax", "scikit-learn", "numpy")

METHOD = """\
Each comparison is one process, pinned to one core. Its variants run in short slices in shuffled order, and a ratio is
taken only between slices of the same round: the table gives the median over rounds and, in brackets, the quartiles.
Times are CPU time of the process, which on an idle machine is wall time and on a shared one leaves the others out.
"""


def machine():
    """CPU model, cores and versions, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    cpu = models[0] if models else platform.processor() or platform.machine()
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(found)}"


def page(results, *, command, date=None):
    """The whole page.

    :param results: list of dictionaries with ``title``, ``rounds``, ``timings`` (:meth:`Timing.as_dict`), optionally
        ``log_likelihoods`` (variant -> nats per datum) and ``missing`` (what could not be run, in words).
    :param str command: how to repeat it.
    :param date: when it was measured, as text.
    """
    parts = ["# Benchmarks", "", METHOD]
    parts += [f"- Machine: {machine()}", f"- Command: `{command}`"]
    parts += [f"- Date: {date}"] if date else []
    for result in results:
        parts += ["", f"## {result['title']}", "", *_rows(result)]
        parts += ["", f"Rounds: {result['rounds']}."]
        parts += [f"Not run: {result['missing']}."] if result.get("missing") else []
    return "\n".join(parts) + "\n"


def _rows(result):
    values = result.get("log_likelihoods")
    extra = " log p(x), nats per datum |" if values else ""
    yield f"| | ms | time relative to the first |{extra}"
    yield "|---|---:|---:|" + ("---:|" if values else "")
    for t in result["timings"]:
        cells = f"| {t['name']} | {t['millis']:.2f} | {t['ratio']:.2f} ({t['low']:.2f} to {t['high']:.2f}) |"
        reached = f"{values[t['name']]:.5f}" if values and t["name"] in values else ""  # a bare product fits nothing
        yield cells + (f" {reached} |" if values else "")


def short_table(results):
    """One row per comparison, for the README: median milliseconds of each variant, ours in bold."""
    lines = []
    for result in results:
        cells = [f"{t['name']} {_short(t['millis'])}" for t in result["timings"]]
        cells = [f"**{cell}**" if cell.startswith("Pyrarchy") else cell for cell in cells]
        lines.append(f"| {result['title']} | {', '.join(cells)} |")
    return "\n".join(["| | CPU time, one core |", "|---|---|", *lines])


def _short(millis):
    return f"{millis:.1f} ms" if millis < 1000 else f"{millis / 1e3:.2f} s"
