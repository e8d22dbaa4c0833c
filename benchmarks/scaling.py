"""How cost grows with rows, columns, factors, layers, particles, samples, as one figure: ``python -m benchmarks.scaling``.

Factor analysis from a float32 array to a fitted model; a step of the ladder of equal layers and of the IWAE; and held-out
log p(x) of 50 images. At each size the variants are interleaved as in the other comparisons.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import process_time

from .interleave import interleave
from .machine import ONE_THREAD, one_thread, pin

ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "benchmarks_scaling.png"
ROUNDS, OURS = 5, "Pyrarchy"


@dataclass(frozen=True)
class Panel:
    """One size varied.

    :ivar sizes: its values. :ivar variants: function of a size to variants, the reference first.
    :ivar float slice_seconds: of the reference; zero for one call a slice. :ivar int warm_up: calls before.
    """

    title: str
    xlabel: str
    sizes: tuple
    variants: Callable
    slice_seconds: float = 0.0
    warm_up: int = 1


def factor_analysis(size, num_data=10_000, x_dim=100, z_dim=10, which="num_data"):
    """Whole fits with one of the sizes replaced."""
    from .factor_analysis import FactorAnalysisRun, Setting

    setting = replace(Setting("", num_data, x_dim, z_dim), **{which: size})
    return FactorAnalysisRun(setting).variants()


def ladder(layers):
    """Steps of the ladder of equal layers."""
    from .hierarchies import even_ladder
    from .svi_steps import hand_variant, our_variant, pyro_variant

    return [make(even_ladder(layers)) for make in (hand_variant, our_variant, pyro_variant)]


def particles(number):
    """Steps of the VAE (one particle) or IWAE at batch 20."""
    from .svi_steps import Setting, hand_variant, our_variant, pyro_variant

    return [make(Setting("", 20, number)) for make in (hand_variant, our_variant, pyro_variant)]


def samples(number):
    """Evaluations of 50 images."""
    from .evaluation import variants
    from .svi_steps import Setting

    return variants(Setting("", 50, number))


PANELS = (
    Panel("Factor analysis, D = 100, 10 factors", "rows N", (1_000, 10_000, 100_000), factor_analysis),
    Panel(
        "Factor analysis, N = 10,000, 10 factors",
        "columns D",
        (32, 64, 128, 256, 512),
        partial(factor_analysis, which="x_dim"),
    ),
    Panel(
        "Factor analysis, N = 10,000, D = 100",
        "factors",
        (2, 5, 10, 20, 40),
        partial(factor_analysis, which="z_dim"),
    ),
    Panel("Step of the ladder, batch 20", "layers", (1, 2, 3, 4, 6, 8), ladder, 0.03, 15),
    Panel("Step of the IWAE, batch 20", "particles", (1, 2, 5, 10, 20, 50, 100), particles, 0.03, 15),
    Panel("log p(x) of 50 images", "importance samples K", (20, 100, 500, 2_500), samples),
)


def measure(panel, rounds=ROUNDS):
    """Variant -> (sizes, median milliseconds); ours under one name, whatever it is that is called."""
    curves = {}
    for size in panel.sizes:
        variants, seconds = panel.variants(size), panel.slice_seconds
        for t in interleave(variants, rounds, slice_seconds=seconds, warm_up=panel.warm_up, clock=process_time):
            name = t.name if OURS not in t.name else OURS
            sizes, millis = curves.setdefault(name, ([], []))
            sizes.append(size)
            millis.append(t.millis)
    return curves


def draw(found):
    """The figure of panel -> curves."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from pyrarchy.plot_style import COLOURS, MARKERS, WIDTH, legend_above, styled

    @styled
    def drawn():
        figure = Figure(figsize=(WIDTH * 1.35, WIDTH * 1.5), layout="constrained")
        names = list(dict.fromkeys(name for curves in found.values() for name in curves))
        lines = {}
        for axes, (panel, curves) in zip(figure.subplots(3, 2).flat, found.items(), strict=False):
            for name, (sizes, millis) in curves.items():
                i = names.index(name)
                (lines[name],) = axes.loglog(sizes, millis, color=COLOURS[i], marker=MARKERS[i % 4], markersize=4)
            axes.set_title(panel.title, fontsize=9, loc="left")
            axes.set_xlabel(panel.xlabel, fontsize=9)
            axes.set_ylabel("ms of CPU", fontsize=9)
            shown = panel.sizes if len(panel.sizes) < 7 else panel.sizes[::2]
            axes.set_xticks(shown, [f"{size:,}" for size in shown], fontsize=8)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axes.tick_params(labelsize=8)
            axes.grid(True)
        legend_above(figure, [lines[name] for name in names], names)
        return figure

    return drawn()


def main(arguments=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"slices of each variant (default {ROUNDS})")
    parser.add_argument("--out", type=Path, default=FIGURE, help="the file (default docs/benchmarks_scaling.png)")
    args = parser.parse_args(arguments)
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):  # read when libraries are loaded
        command = [sys.executable, "-m", "benchmarks.scaling", "--rounds", str(args.rounds), "--out", str(args.out)]
        return subprocess.run(command, cwd=Path.cwd(), env={**os.environ, **ONE_THREAD}, check=False).returncode
    pin()
    one_thread()
    found = {}
    for panel in PANELS:
        found[panel] = measure(panel, args.rounds)
        print(f"{panel.title}: measured", flush=True)
    from pyrarchy.plot_style import png

    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(png(draw(found)))
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
