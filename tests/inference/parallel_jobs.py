"""Fits without noise, for one process or several: what they give, and what the ranks of a group do to one another.

Run as a script under torchrun, every rank writes its results to ``rankN.npz`` in the folder given.
"""

import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.nn import functional

from pyrarchy.guides import Exact, Guide
from pyrarchy.inference import ELBO, ImportanceWeighted, evaluate, fit, fit_em, parallel
from pyrarchy.zoo import PPCA, FactorAnalysis

STEPS = 23


class Fixed(dist.Normal):
    """A Normal whose draws are a function of its location and the particle: no noise, and unequal weights."""

    def rsample(self, sample_shape=()):
        shape = self._extended_shape(torch.Size(sample_shape))
        loc = self.loc.expand(shape)
        particle = torch.arange(shape[0]).reshape(-1, 1, 1) if len(shape) == 3 else 0.0
        return loc + self.scale * 1.5 * torch.sin(5.0 * loc.detach() + 1.7 * particle)


class Steady(Guide):
    """A linear guide of :class:`Fixed` draws."""

    def __init__(self, model):
        super().__init__(model)
        self.linear, self.raw = nn.Linear(7, 2), nn.Parameter(torch.zeros(2))

    def encode(self, x):
        return self.linear(x)

    def posterior(self, name, prior):
        return Fixed(self.evidence, functional.softplus(self.raw)).to_event(1)


class Noisy(Steady):
    """:class:`Steady` with noise, and with statistics that each rank keeps of its own rows."""

    def __init__(self, model):
        super().__init__(model)
        self.normal = nn.BatchNorm1d(7)

    def encode(self, x):
        return super().encode(self.normal(x))

    def posterior(self, name, prior):
        return dist.Normal(self.evidence, functional.softplus(self.raw)).to_event(1)


class Level(pyro.nn.PyroModule):
    """A global level, and a plate that knows its full size: scales are not one."""

    def __init__(self, rows):
        super().__init__("model")
        self.rows, self.spread = rows, nn.Parameter(torch.zeros(()))

    def forward(self, x):
        level = pyro.sample("level", dist.Normal(torch.zeros(7), 0.1).to_event(1))
        with pyro.plate("data", self.rows, subsample=torch.arange(len(x)), dim=-1):
            pyro.sample("x", dist.Normal(level, functional.softplus(self.spread)).to_event(1), obs=x)


class Point(pyro.nn.PyroModule):
    """Its level at a point."""

    def __init__(self):
        super().__init__("guide")
        self.at = nn.Parameter(torch.zeros(7))

    def forward(self, x):
        pyro.sample("level", dist.Delta(self.at).to_event(1))


def data(rows):
    """Rows (rows, 7) of three factors."""
    generator = torch.Generator().manual_seed(0)
    z, w, e = (torch.randn(*shape, generator=generator) for shape in ((rows, 3), (3, 7), (rows, 7)))
    return z @ w + 0.5 * e


def pair(guide):
    """PPCA and a guide, from the same weights on every rank."""
    torch.manual_seed(1)
    model = PPCA(7, 2)
    return model, guide(model)


def flat(*modules):
    return np.concatenate([p.detach().numpy().ravel() for m in modules for p in m.parameters()])


def trained(model, guide, objective, rows, **how):
    """Curves and weights of a fit in steps of ten rows, however many processes there are."""
    record = fit(model, guide, data(rows), objective=objective, optimizer=1e-2, steps=STEPS, **how,
                 batch_size=10 // parallel.ranks())  # fmt: skip
    return {"losses": record.losses, "norms": record.grad_norms, "weights": flat(model, guide)}


def fits():
    """Name -> arrays, of fits whose numbers do not depend on the number of processes."""
    level = Level(43)
    done = {
        "exact": trained(*pair(Exact), ELBO(), 43),  # the last step of an epoch has 3 rows, for two ranks
        "elbo": trained(*pair(Steady), ELBO(2), 41, clip_norm=0.5),  # ... has 1 row
        "iwae": trained(*pair(Steady), ImportanceWeighted(3), 43),
        "dreg": trained(*pair(Steady), ImportanceWeighted(3, estimator="dreg"), 43, tape=False),
        "stock": trained(*pair(Steady), Trace_ELBO(), 43),
        "scaled": trained(level, Point(), Trace_ELBO(), 43),
    }
    mine = slice(parallel.rank(), None, parallel.ranks())
    model, guide = pair(Steady)
    record = fit(model, guide, [data(43)[:7][mine], data(43)[7:][mine]], steps=3)  # batches of each rank's own
    done["list"] = {"losses": record.losses, "weights": flat(model, guide)}
    model = FactorAnalysis(7, 3)
    record = fit_em(model, data(843).numpy())
    loadings, scale = model.loadings.detach(), model.scale.detach()  # their signs are anybody's
    done["em"] = {
        "log_p": [record.log_likelihood],
        "mean": flat(model)[:7],
        "covariance": loadings @ loadings.T,
        "scale": scale,
    }
    model, guide = pair(Steady)
    grades = evaluate(model, guide, data(43), num_samples=30, rows_per_pass=40, shared=True)  # chunks of ten rows
    done["grades"] = {"log_p": grades.log_p, "rates": [grades.rates["z1"]], "units": grades.unit_rates["z1"]}
    return done


class Said(Exception):
    """What a rank was told."""


def told(function):
    """Name and text of the error that a call ends with, and whether another rank says it."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}{' (said)' * getattr(error, 'said', False)}: {error}"
    return "nothing"


def fail(rank):
    with parallel.agreed():
        if parallel.rank() == rank:
            raise Said("here")


def noisy(out, rows=44, **how):
    """A fit with noise that stops when told to, one folder for each rank; its last steps have four rows."""
    model, guide = pair(Noisy)
    record = fit(
        model, guide, data(rows), batch_size=5, out=out / f"rank{parallel.rank()}", seed=3, save_every=4, **how
    )
    return record, np.concatenate([flat(model, guide), guide.normal.running_mean, guide.normal.running_var])


def ranks_alone(out):
    """What only a group can show: name -> array."""
    rank = parallel.rank()
    whole, weights = noisy(out / "whole", steps=17)
    cut, _ = noisy(out / "cut", steps=17, callbacks=[lambda step: rank == 1 and step.step == 6])
    again, same = noisy(out / "cut", steps=17, resume=True)
    return {
        "stopped": cut.step,
        "losses": whole.losses,
        "losses again": again.losses,
        "weights": weights,
        "weights again": same,
        "draws": torch.rand(3, generator=torch.Generator().manual_seed(parallel.own_seed(0))).numpy(),
        "unequal": told(lambda: noisy(out / "unequal", steps=3 + rank)),
        "first fails": told(lambda: fail(0)),
        "second fails": told(lambda: fail(1)),
        "of first": told(lambda: parallel.of_first(lambda: 1 // rank)),
        "remarks": whole.remarks,
        "lone row": told(lambda: noisy(out / "lone", rows=43, steps=2)),
        "few rows": told(lambda: fit(*pair(Exact), data(1), steps=1, batch_size=1)),
        "unreached": unreached(rank),
    }


def unreached(rank):
    """A gradient that one rank lacks, one that both lack; weights three and one."""
    tensors = [torch.zeros(2), torch.zeros(()), torch.zeros(1)]
    gradients = [torch.full((2,), 1.0 + rank), torch.tensor(8.0) if rank else None, None]
    figures, means, wished = parallel.mean_over_ranks(
        3 - 2 * rank, torch.tensor([float(rank)]), gradients, tensors, rank == 1
    )
    return [*figures.tolist(), *means[0].tolist(), means[1].item(), means[2] is None, wished]


if __name__ == "__main__":
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    folder = Path(sys.argv[1])
    results = {f"{name} {key}": value for name, each in fits().items() for key, value in each.items()}
    np.savez(folder / f"rank{parallel.rank()}.npz", **results, **ranks_alone(folder))
    torch.distributed.destroy_process_group()
