"""``pyrarchy fit`` for conjugate models: coordinate ascent, and the bound in closed form where no sampled figure exists."""

from dataclasses import dataclass

import numpy as np

from .atomic import write_atomically
from .checkpoint import save_state
from .inference.evaluation import Evaluation


@dataclass(frozen=True)
class BoundCurve:
    """The ELBO in nats for the whole data set, at the start and after each sweep."""

    bounds: list[float]
    num_data: int


class ClosedForm(Evaluation):
    """An evaluation that holds nothing but the exact ELBO of the data set, in nats: a lower bound on log p(x)."""

    @classmethod
    def of(cls, bound):
        """The evaluation of a bound: no samples were drawn, so there is no k-hat and no rate."""
        value, none = np.array([bound]), np.array([np.nan])
        return cls(log_p=value, elbo=value, k_hat=none, ess=none, rates={}, num_samples=0)

    def figures(self):
        """The figures as plain numbers; ``log_p`` is the bound."""
        return {**super().figures(), "log_p_is": "lower bound, closed form", "unit": "nats for the data set"}

    def table(self):
        """One line: the bound."""
        return f"log p(x) >= {self.mean_elbo:.4f} nats for the data set (ELBO, closed form)"


def closed_form(model, guide, rows):
    """:class:`ClosedForm` of a conjugate pair on data (a tuple of tensors), computed in float64."""
    import torch

    with torch.no_grad():
        q = guide.q
        rows = tuple(part.double() for part in rows)
        q = type(q)(**{name: value if value is None else value.double() for name, value in vars(q).items()})
        return ClosedForm.of(float(model.bound(*rows, q=model.localise(*rows, q=q))))


def fit_conjugate(fit, train):
    """Fit by coordinate ascent, put the factors into the guide, and leave checkpoint and history in the run folder."""
    from .inference import fit_cavi
    from .inference.isolation import root_modules

    record = fit_cavi(fit.model, *train, seed=fit.config["seed"], progress=fit.progress)
    fit.guide.set_factors(record.q)
    modules = [dict(m.state_dict()) for m in root_modules(fit.model, fit.guide)]
    save_state(fit.out / "checkpoint.npz", {"modules": modules, "params": {}})
    lines = [f"{i},{value!r}" for i, value in enumerate(record.bounds)]
    write_atomically(fit.out / "history.csv", "\n".join(["sweep,bound", *lines, ""]).encode())
    fit.say(
        f"CAVI: {record.steps} sweeps in {record.seconds:.1f} s from {len(record.start_values)} start(s)"
        f"{'' if record.converged else ', not converged'}; bound = {record.bound:.4f} nats for the data set, "
        f"{record.bound_per_datum:.4f} per datum"
    )
    return BoundCurve(record.bounds, record.num_data)
