"""Slopes of the gradient's signal-to-noise ratio in K and M on the toy of Rainforth et al. (2018), and how fast it is drawn.

``python -m benchmarks.snr_slopes [--paper]``: without ``--paper`` D = 2, N = 32 and offsets of .4 (seconds); with it
the paper's own D = 20, N = 1024 and offsets of .01, where the signal is so small that many draws are needed (minutes).
"""

import argparse
import time

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from pyrarchy.guides import Guide
from pyrarchy.inference import MIWAE, ImportanceWeighted, gradient_snr
from pyrarchy.inference.gradient_snr import slope, standard_error_of_slope


class Toy(PyroModule):
    """z ~ N(mu, I), x | z ~ N(z, I)."""

    def __init__(self, mu):
        super().__init__("model")
        self.mu = torch.nn.Parameter(mu)

    def forward(self, x):
        """:param x: (N, D)."""
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z1", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class ToyGuide(Guide):
    """q(z | x) = N(A x + b, 2/3 I)."""

    def __init__(self, model, slope, offset):
        super().__init__(model)
        self.A, self.b = torch.nn.Parameter(slope), torch.nn.Parameter(offset)

    def encode(self, x):
        """The posterior mean."""
        return x @ self.A.mT + self.b

    def posterior(self, name, prior):
        """Its Gaussian, of variance 2/3."""
        return dist.Normal(self.evidence, (2 / 3) ** 0.5).to_event(1)


def toy(dim, rows, offset, offset_of_slope, seed=0):
    """The pair near its optimum mu = mean(x), A = I / 2, b = mu / 2, and data drawn from the model."""
    g = torch.Generator().manual_seed(seed)
    mu = torch.randn(dim, generator=g)
    x = mu + torch.randn(rows, dim, generator=g) + torch.randn(rows, dim, generator=g)
    model = Toy(x.mean(0) + offset * torch.randn(dim, generator=g))
    matrix = torch.eye(dim) / 2 + offset_of_slope * torch.randn(dim, dim, generator=g)
    return model, ToyGuide(model, matrix, x.mean(0) / 2 + offset * torch.randn(dim, generator=g)), x


def line(label, sizes, bounds, pair, draws):
    """One row of the table: slopes of theta's and phi's SNR with their standard errors."""
    started = time.perf_counter()
    found = [gradient_snr(*pair, bound, draws=draws) for bound in bounds]
    cells = []
    for name in ("model.mu", "guide.b"):
        ratios = [np.median(f.snr(name)) for f in found]
        errors = [
            np.median(f.snr_error(name)) / np.sqrt(f.snr(name).size) / max(r, 1e-12)
            for f, r in zip(found, ratios, strict=True)
        ]
        cells.append(f"{slope(sizes, ratios):+.2f} ± {standard_error_of_slope(sizes, ratios, errors):.2f}")
    print(f"| {label} | {cells[0]} | {cells[1]} | {draws} | {time.perf_counter() - started:.1f} |", flush=True)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--draws", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pair = toy(20, 1024, 0.01, 0.01) if args.paper else toy(2, 32, 0.4, 0.0)
    draws = args.draws or (1000 if args.paper else 4000)
    print("| in | theta | phi | draws | seconds |\n|---|---:|---:|---:|---:|")
    sizes = [1, 4, 16, 64] if args.paper else [4, 8, 16, 32, 64]
    for estimator in ("plain", "stl", "dreg"):
        bounds = [ImportanceWeighted(k, estimator=estimator) for k in sizes]
        line(f"K, {estimator}", sizes, bounds, pair, draws)
    line("M (K = 4), plain", [1, 4, 16], [MIWAE(m, 4) for m in (1, 4, 16)], pair, draws)
    started = time.perf_counter()
    gradient_snr(*toy(20, 32, 0.1, 0.0), ImportanceWeighted(8), draws=10_000)
    print(f"\n10,000 draws, D = 20, N = 32, K = 8: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
