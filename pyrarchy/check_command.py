"""``pyrarchy check``: run a pair in every way that a driver will, on a few rows of its data."""

from .binarize import binarization
from .fit_plan import data_for
from .objectives import make_objective
from .placement import to_tensors
from .registry import get_pair
from .run_folder import prepare

ROWS = 7


def run_check(args):
    """Check a row, or a pair at ``module:function``; prints what was found and returns 0."""
    pair = get_pair(args.pair)
    data, _ = prepare(pair, data_for(pair, args.data)[0], {})
    print(check(pair, data))
    print(f"{pair.name}: ok")
    return 0


def check(pair, data):
    """Build a pair for a data set and check it on a few rows; returns :class:`~pyrarchy.inference.PairCheck`."""
    from .inference import check_pair

    model, guide = pair(data)
    objective = None
    if pair.training.method == "cavi":  # global and local latents may mix there: no bound per datum
        from pyro.infer import Trace_ELBO

        objective = Trace_ELBO()
    elif pair.training.estimator is not None:  # discrete latents have no plain gradient to check
        objective = make_objective(pair.training.objective, pair.training.estimator)
    if isinstance(data.train, tuple):
        return check_pair(model, guide, *to_tensors(data.train), objective=objective)
    rows = to_tensors(data.train[:ROWS])
    if pair.likelihood == "bernoulli":
        rows = binarization("dynamic").draw(rows)
    return check_pair(model, guide, rows, objective=objective)
