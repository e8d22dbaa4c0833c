"""Sparse linear models of image patches: are their atoms edges, and do they predict held-out patches better?

Fits the rows sparse_laplace, sparse_cauchy and their control sparse_gaussian, and the first with twice as many atoms as
pixels, and grades them on the held-out patches beside factor analysis and a full Gaussian. Each has a run folder, so that
the same command resumes what was interrupted::

    python -m benchmarks.sparse_features --out runs/sparse --table runs/sparse/table.md

log p(x) of a sparse model is estimated by annealed importance sampling from its guide to the posterior (Neal 2001,
https://doi.org/10.1023/A:1008923215028): unbiased for p(x), so below log p(x) in expectation; the control, whose log p(x)
is known, says by how much.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch

from pyrarchy import cli, load, load_data
from pyrarchy.atomic import write_atomically
from pyrarchy.inference import edge_scores, evaluate, sample
from pyrarchy.zoo import FactorAnalysis

# name in the table, and of the run's folder -> the words of ``pyrarchy fit``
ROWS = {
    "sparse_laplace": ("sparse_laplace",),
    "sparse_laplace_288": ("sparse_laplace", "z_dim=288"),
    "sparse_cauchy": ("sparse_cauchy",),
    "sparse_gaussian": ("sparse_gaussian",),
}
TEMPERATURES = 400
LEAPFROGS = 4
CHAINS = 2
PILOT = 100  # training patches on which the step sizes are tuned
ACCEPT = 0.8
FACTORS = (32, 64)


def log_joint(model, x, z):
    """log p(x, z), (chains, B)."""
    atoms, code_scale = model.dictionary()
    prior = model.prior(torch.zeros(()), code_scale).log_prob(z).sum(-1)
    return prior + dist.Normal(model.mean + z @ atoms.mT, model.noise()).log_prob(x).sum(-1)


def anneal(model, guide, x, steps=None, *, chains=CHAINS, temperatures=None, leapfrogs=LEAPFROGS):
    """Annealed importance sampling of log p(x), Hamiltonian moves in units of the guide's own scales.

    :param steps: step size at each temperature; ``None`` tunes them to an acceptance of ``ACCEPT`` on the way.
    :returns: log-weights (chains, B), the step sizes, and the mean acceptance.
    """
    temperatures = temperatures or TEMPERATURES
    with torch.no_grad():
        q = guide.encode(x)
    q = q["z1"] if isinstance(q, dict) else q
    scale = q.base_dist.scale
    z, tune = q.sample((chains,)), steps is None
    steps = [0.2] if tune else steps
    betas = torch.linspace(0, 1, temperatures + 1) ** 2  # most of the change is near the guide
    log_w, accepted = torch.zeros(z.shape[:2]).double(), 0.0

    def slope(z, beta):
        z = z.detach().requires_grad_()
        joint, log_q = log_joint(model, x, z), q.log_prob(z)
        value = (1 - beta) * log_q + beta * joint
        (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient, (joint - log_q).detach()

    for t in range(1, temperatures + 1):
        _, _, ratio = slope(z, betas[t])
        log_w += (betas[t] - betas[t - 1]).double() * ratio.double()
        value, gradient, _ = slope(z, betas[t])
        momentum = torch.randn_like(z)
        start, moved, eps = value - 0.5 * momentum.square().sum(-1), z, steps[-1] if tune else steps[t]
        for _ in range(leapfrogs):
            momentum = momentum + 0.5 * eps * scale * gradient
            moved = moved + eps * scale * momentum
            value, gradient, _ = slope(moved, betas[t])
            momentum = momentum + 0.5 * eps * scale * gradient
        ratio = value - 0.5 * momentum.square().sum(-1) - start
        take = torch.rand(ratio.shape).log() < ratio
        z = torch.where(take[..., None], moved, z)
        accepted += take.float().mean().item() / temperatures
        if tune:
            steps.append(eps * math.exp(0.3 * (ratio.exp().clamp(max=1).nan_to_num(0).mean().item() - ACCEPT)))
    return log_w, steps, accepted


def log_p_by_annealing(model, guide, pilot, x):
    """(B,) estimates of log p(x), and the acceptance; step sizes come from other patches, so the weights stay unbiased."""
    torch.manual_seed(0)
    _, steps, _ = anneal(model, guide, pilot)
    log_w, _, accepted = anneal(model, guide, x, steps)
    return (log_w.logsumexp(0) - math.log(len(log_w))).numpy(), accepted


def tails(x):
    """Kurtosis (3 for a Gaussian), and the ratio of the central 95 % to the central 50 % (2.91), means over the pixels."""
    x = np.asarray(x, float) - np.mean(x, 0, dtype=float)
    q = np.quantile(x, [0.025, 0.25, 0.75, 0.975], axis=0)
    kurtosis = (x**4).mean(0) / (x**2).mean(0) ** 2
    return float(kurtosis.mean()), float(((q[3] - q[0]) / (q[2] - q[1])).mean())


def fitted(name, epochs, seed, folder):
    """Fit a row by the command line, continuing what is there; returns model and guide."""
    if not (folder / "result.json").exists():
        budget = [] if epochs is None else ["--epochs", str(epochs)]
        command = [
            "fit",
            *ROWS[name],
            "--out",
            str(folder),
            "--seed",
            str(seed),
            "--resume",
            "--quiet",
            "--samples",
            "100",
        ]
        if code := cli.run([*command, *budget]):
            raise RuntimeError(f"pyrarchy fit {name} ended with exit code {code}")
    return load(folder)


def grade(model, guide, data, folder):
    """Grade a fitted row; figures and per-patch log p are kept in its folder."""
    started = time.process_time()
    x, test = torch.from_numpy(data.train), torch.from_numpy(data.test)
    found = evaluate(model, guide, test, num_samples=100)
    log_p, accepted = log_p_by_annealing(model, guide, x[:PILOT], test)
    figures = {"elbo": found.mean_elbo, "accepted": accepted, "noise": model.scale.item()}
    if hasattr(model, "log_marginal"):
        with torch.no_grad():
            exact = model.log_marginal(test).numpy()
        figures |= {"annealed_less_exact": float((log_p - exact).mean())}
        log_p = exact
    used = found.variances["z1"] > 0.01
    edges = edge_scores(model.atoms.detach().numpy().T, data.image_shape)
    figures |= {
        "used": int(used.sum()),
        "atoms": model.z_dim,
        "edges": int((edges.is_edge & used).sum()),
        "orientation": float(np.median(edges.orientation[used])),
        "localisation": float(np.median(edges.localisation[used])),
        "tails": tails(sample(model, (x[:100],), 20_000)["x"]),
        "seconds": time.process_time() - started,
    }
    np.savez(folder / "log_p.npz", log_p=log_p)
    write_atomically(folder / "features.json", json.dumps(figures).encode())


def closed_forms(data):
    """Held-out log p of factor analysis and of a Gaussian with the training covariance, per patch."""
    x, test = torch.from_numpy(data.train).double(), torch.from_numpy(data.test).double()
    out = {}
    for factors in FACTORS:
        model = FactorAnalysis(data.dim, factors).double()
        model.maximize_likelihood(model.statistics(x), starts=1, tol=1e-6)
        with torch.no_grad():
            out[f"factor analysis, {factors} factors"] = model.log_marginal(test).numpy()
    full = torch.distributions.MultivariateNormal(x.mean(0), x.mT.cov(correction=0))
    return {**out, "full Gaussian": full.log_prob(test).numpy()}


def table(out, data):
    """All that is finished as a Markdown table; differences to the full Gaussian are paired over the patches."""
    closed = closed_forms(data)

    def cell(values):
        return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}"

    lines = [
        "| | log p(x) | less the full Gaussian's | ELBO | atoms in use | edges among them | kurtosis of samples "
        "| tail ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, log_p in closed.items():
        gain = "" if name == "full Gaussian" else cell(log_p - closed["full Gaussian"])
        lines.append(f"| {name} | {cell(log_p)} | {gain} | | | | 3 | 2.91 |")
    notes = []
    for name in ROWS:
        folder = out / name
        if not (folder / "features.json").exists():
            continue
        log_p, f = np.load(folder / "log_p.npz")["log_p"], json.loads((folder / "features.json").read_text())
        kurtosis, ratio = f["tails"]
        edges = f"{f['edges']} ({100 * f['edges'] / max(f['used'], 1):.0f} %)"
        lines.append(
            f"| {name} | {cell(log_p)} | {cell(log_p - closed['full Gaussian'])} | {f['elbo']:.1f} | "
            f"{f['used']} of {f['atoms']} | {edges} | {kurtosis:.1f} | {ratio:.2f} |"
        )
        exact = f"; annealing less exact log p {f['annealed_less_exact']:.2f}" if "annealed_less_exact" in f else ""
        notes.append(
            f"- {name}: noise {f['noise']:.3f}, medians of orientation {f['orientation']:.2f} and localisation "
            f"{f['localisation']:.2f}, {f['accepted']:.0%} of moves accepted{exact}; graded in {f['seconds']:.0f} s of CPU."
        )
    for part in ("train", "test"):
        kurtosis, ratio = tails(getattr(data, part))
        lines.append(f"| the patches themselves ({part}) | | | | | | {kurtosis:.1f} | {ratio:.2f} |")
    return "\n".join([*lines, "", *notes]) + "\n"


def main():
    """Fit and grade the rows named, then print the table of all that is finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--epochs", type=int, help="the row's own by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="write the table here too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("patches")
    for name in args.rows:
        folder = args.out / name
        if not (folder / "features.json").exists():
            grade(*fitted(name, args.epochs, args.seed, folder), data, folder)
            print(f"{name}: done", flush=True)
    text = table(args.out, data)
    print(text)
    if args.table:
        args.table.write_text(text)


if __name__ == "__main__":
    main()
