"""Gallery pictures of the conjugate rows and of the statistics literature's: posteriors, not images."""

import pyrarchy
from pyrarchy import plots, run_report
from pyrarchy.placement import to_tensors
from pyrarchy.plot_style import COLOURS, single, styled


def contours(pair, run):
    """The exact posterior of mean and precision, and the factorised one."""
    import torch

    model, guide = pyrarchy.load(run)
    rows = to_tensors(pyrarchy.load_data(pair.data).train)
    q = guide.q
    with torch.no_grad():
        mu = q.loc + q.scale * torch.linspace(-3, 3, 120)
        tau = (q.shape + q.shape.sqrt() * torch.linspace(-3, 4.2, 120)[:, None]) / q.rate
        exact = model.posterior(*rows)
        log_p = exact["tau"].log_prob(tau) + exact["mu"]({"tau": tau}).log_prob(mu)
        log_q = model.factor("tau", q, {}).log_prob(tau) + model.factor("mu", q, {}).log_prob(mu)
    picture = plots.png(two_posteriors(mu, tau[:, 0], log_p, log_q))
    return picture, "The exact posterior (grey) and the factorised one; lines at 0.5, 1, 2 and 4 nats below each top."


@styled
def two_posteriors(mu, tau, log_p, log_q):
    """Contours of two log-densities over a grid."""
    figure, axes = single(3.4)
    levels = [-4, -2, -1, -0.5]
    axes.contour(mu, tau, log_p - log_p.max(), levels, colors="#999999", linewidths=2.5, linestyles="solid")
    axes.contour(mu, tau, log_q - log_q.max(), levels, colors=COLOURS[0], linewidths=1.2, linestyles="dashed")
    axes.set_xlabel("mu: nanoseconds beyond 24,800")
    axes.set_ylabel("tau: precision")
    return figure


def clusters(pair, run):
    """The data by their likeliest component, and each component that holds data as an ellipse."""
    import torch

    model, guide = pyrarchy.load(run)
    data = pyrarchy.load_data(pair.data)
    with torch.no_grad():
        q = model.localise(to_tensors(data.train), q=guide.q)
    scale = (q.rate / q.shape).sqrt()
    used = [k for k in range(model.components) if q.assignments[:, k].sum() > 1]
    figure = ellipses(data, q.assignments.argmax(-1).numpy(), [(k, q.loc[k], scale[k]) for k in used])
    caption = f"{len(used)} of {model.components} components hold data: centre and two standard deviations of each."
    return plots.png(figure), caption


@styled
def ellipses(data, labels, components):
    """A scatter of two columns, coloured by label, with an ellipse per component."""
    from matplotlib.patches import Ellipse

    figure, axes = single(3.4)
    for i, (k, centre, scale) in enumerate(components):
        rows = data.train[labels == k]
        axes.plot(rows[:, 0], rows[:, 1], "o", color=COLOURS[i], markersize=3, alpha=0.6)
        axes.add_patch(Ellipse(centre.tolist(), *(4 * scale).tolist(), fill=False, edgecolor=COLOURS[i], linewidth=1.5))
    axes.set_xlabel(f"{data.coords['column'][0]} (minutes)")
    axes.set_ylabel(f"{data.coords['column'][1]} (minutes)")
    return figure


def forest(pair, run):
    """Means and intervals of what the study asks for, the standardised effects left out."""
    from pyrarchy.inference import groups, summary

    table = summary(groups.load(run / "posterior.nc"), ["mu", "tau", "theta"], prob=0.9)
    picture = plots.png(run_report.forest(pair.name, table))
    return picture, "Posterior means and 90 % intervals under the guide; theta are the schools' effects."


DRAW = {
    "NormalGamma": contours,
    "GaussianMixture": clusters,
    "EightSchools": forest,
    "EightSchoolsNonCentred": forest,
}
