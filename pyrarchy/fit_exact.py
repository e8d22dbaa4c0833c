"""``pyrarchy fit`` of a model with closed forms: exact EM, or its maximum likelihood at once."""

from threadpoolctl import threadpool_limits

from . import launch
from .faults import DataError


def fit_exact(fit, train):
    """Fit a :class:`~.fit_command.Fit`'s model by EM; writes checkpoint and history, returns the log-likelihoods.

    Several processes read a part of the rows each, and process 0 writes.
    """
    from .inference import fit_em
    from .inference.atomic import write_atomically
    from .inference.checkpoint import save_state
    from .inference.isolation import root_modules

    asked = None if fit.config["threads"] == "auto" else fit.config["threads"]
    try:
        with threadpool_limits(asked, user_api="blas"):  # numpy's, which torch does not govern
            record = fit_em(fit.model, train, seed=fit.config["seed"], progress=fit.progress)
    except ValueError as error:  # the options were checked when the pair was built
        refusal = DataError(f"{fit.data.name}: {error}")
        refusal.said = getattr(error, "said", False)
        raise refusal from error
    if launch.is_first():
        modules = [dict(m.state_dict()) for m in root_modules(fit.model, fit.guide)]
        save_state(fit.out / "checkpoint.npz", {"modules": modules, "params": {}})
        lines = [f"{i},{float(value)!r}" for i, value in enumerate(record.log_likelihoods)]
        write_atomically(fit.out / "history.csv", "\n".join(["step,log_likelihood", *lines, ""]).encode())
    how = f"EM: {record.steps} E steps" if record.steps else "closed form"
    fit.say(
        f"{how} in {record.seconds:.1f} s from {len(record.start_values)} start(s); "
        f"training log p(x) = {record.log_likelihood:.4f} nats per datum"
    )
    return list(record.log_likelihoods)
