"""Gallery pictures of the regression rows: how far partial pooling moves each group from its own estimate."""

import numpy as np

import pyrarchy
from pyrarchy import plots
from pyrarchy.plot_style import COLOURS, INK, MUTED, single, styled

SHOWN_COUNTIES, SHOWN_RATS = 16, (3, 8, 13, 28)


def draws(run, name):
    """Posterior draws of a variable, (draws, entries)."""
    from pyrarchy.inference import groups

    values = groups.load(run / "posterior.nc")["posterior"][name].values[0]
    return values.reshape(len(values), -1)


def interval(values):
    """Mean and 90 % interval of each entry."""
    return values.mean(0), *np.quantile(values, [0.05, 0.95], axis=0)


def players(pair, run):
    """Each player's average so far, what partial pooling makes of it, and the rest of the season."""
    data, rest = pyrarchy.load_data("baseball"), pyrarchy.load_data("baseball_remainder")
    marks = {
        "first 45 at bat": (data.train[0] / data.train[1], "o", COLOURS[1]),
        "rest of the season": (rest.train[0] / rest.train[1], "x", INK),
    }
    pooled = interval(draws(run, "theta"))
    total = data.train[0].sum() / data.train[1].sum()
    picture = plots.png(shrinkage(data.coords["player"], pooled, marks, total, "batting average"))
    caption = (
        "Batting averages of 18 players: after 45 times at bat, partially pooled (mean and 90 % interval), and in the "
        "rest of the season; the line is the average of all."
    )
    return picture, caption


def counties(pair, run):
    """Counties from the smallest to the largest: their own estimate and the partially pooled one."""
    data = pyrarchy.load_data("radon")
    y, x, county, uranium = data.train
    size = np.bincount(county)
    own = np.bincount(county, y - draws(run, "beta").mean() * x) / size
    gamma = draws(run, "gamma").mean(0)
    line = gamma[0] + gamma[1] * np.bincount(county, uranium) / size
    order = np.argsort(size, kind="stable")[np.linspace(0, len(size) - 1, SHOWN_COUNTIES).round().astype(int)]
    names = [f"{data.coords['county'][j]} ({size[j]})" for j in order]
    marks = {
        "the county's houses alone": (own[order], "o", COLOURS[1]),
        "expected from its uranium": (line[order], "|", INK),
    }
    pooled = tuple(part[order] for part in interval(draws(run, "alpha")))
    picture = plots.png(shrinkage(names, pooled, marks, None, "log radon in a basement"))
    caption = (
        f"Intercepts of {SHOWN_COUNTIES} of the 85 counties, by their number of houses (in brackets): the fewer there "
        "are, the nearer is the estimate to what the county's uranium tells."
    )
    return picture, caption


@styled
def shrinkage(names, pooled, marks, line, label):
    """A line per group: its pooled interval, and other estimates as marks."""
    figure, axes = single(0.9 + 0.22 * len(names))
    rows = np.arange(len(names))
    mean, low, high = pooled
    if line is not None:
        axes.axvline(line, color=MUTED, linewidth=0.8)
    axes.hlines(rows, low, high, color=COLOURS[0], linewidth=3, alpha=0.35)
    axes.plot(mean, rows, "s", color=COLOURS[0], markersize=4, label="partially pooled")
    for name, (values, marker, colour) in marks.items():
        axes.plot(values, rows, marker, color=colour, markersize=8 if marker == "|" else 4.5, label=name,
                  markerfacecolor="none", markeredgewidth=1.4)  # fmt: skip
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(axis="x")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, handletextpad=0.3, columnspacing=1.2)
    return figure


def curves(pair, run):
    """Growth of all rats, the lines of some, and the population's."""
    weight, age = pyrarchy.load_data("rats").train
    alpha, beta = draws(run, "alpha").mean(0), draws(run, "beta").mean(0)
    mu = [draws(run, f"mu_{name}").mean() for name in ("alpha", "beta")]
    picture = plots.png(lines(age[0], weight, alpha, beta, mu))
    caption = (
        f"Weights of 30 rats (grey) and the posterior mean lines of {len(SHOWN_RATS)} of them and of the population "
        "(black, dashed)."
    )
    return picture, caption


@styled
def lines(age, weight, alpha, beta, mu):
    """Measured weights against age, with straight lines."""
    figure, axes = single(3.4)
    axes.plot(age, weight.T, color="#CCCCCC", linewidth=0.7)
    for colour, marker, i in zip(COLOURS, "os^D", SHOWN_RATS, strict=False):
        axes.plot(age, alpha[i] + beta[i] * (age - 22), color=colour, linewidth=1.6)
        axes.plot(age, weight[i], marker, color=colour, markersize=4.5, label=f"rat {i + 1}")
    axes.plot(age, mu[0] + mu[1] * (age - 22), "--", color=INK, linewidth=1.6, label="population")
    axes.set_xticks(age)
    axes.set_xlabel("age (days)")
    axes.set_ylabel("weight (g)")
    axes.legend(fontsize=8)
    return figure


DRAW = {"PartialPooling": players, "VaryingIntercept": counties, "GrowthCurves": curves}
