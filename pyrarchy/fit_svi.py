"""``pyrarchy fit`` by gradients: stochastic variational inference with the plan's batches, warm-up and decay."""

from . import launch
from .binarize import binarization
from .fit_plan import cosine
from .inference import Batches, profile_step, reestimate_statistics
from .inference import fit as train_pair
from .inference.loop import save_modules
from .inference.shared_loop import share_batches
from .placement import on_device, to_device, use_threads
from .run_folder import warm_up


def fit_svi(fit, train):
    """Train a :class:`~.fit_command.Fit` by SVI with the plan's warm-up and decay; checkpoint and history are written as it
    goes. Returns the :class:`~pyrarchy.inference.Record`."""
    plan = fit.config
    draw = binarization(plan["binarize"]).draw if plan["binarize"] == "dynamic" else None
    batches = Batches(to_device(train, fit.device), plan["batch_size"], seed=plan["seed"], transform=draw)
    batches = share_batches(batches)
    total = plan["steps"] if plan["steps"] is not None else plan["epochs"] * len(batches)
    go_on = f"{fit.out} holds every step taken: continue with --resume"
    with on_device(fit.device, fit.model, fit.guide), fit.stop.stepping(go_on):
        record = train_pair(
            fit.model,
            fit.guide,
            batches,
            objective=fit.objective,
            optimizer=plan["lr"],
            steps=total,
            schedule=lambda step: cosine(step / total, plan["decay"]),
            temper=warm_up(plan),
            seed=plan["seed"],
            callbacks=(fit.stop,),
            out=fit.out,
            resume=fit.resume,
            threads=plan["threads"],
            tape=plan["tape"],
            progress=fit.progress,
        )
        fit.stop.number = launch.any_number(fit.stop.number)
    batches = Batches(train, plan["batch_size"], seed=plan["seed"], transform=draw)
    if reestimate_statistics(fit.model, fit.guide, batches, seed=plan["seed"]) and launch.is_first():
        save_modules(fit.model, fit.guide, fit.out / "checkpoint.npz")
    bound = "" if record.is_lower_bound else " (not a lower bound)"
    how = f"{record.path}; {record.describe_threads()}"
    fit.say(f"{record.step} steps in {record.seconds:.1f} s; {record.objective}{bound}; {how}")
    if fit.profile and launch.is_first():
        use_threads(record.threads, "svi")
        how = {"objective": fit.objective, "optimizer": plan["lr"], "tape": plan["tape"], "seed": plan["seed"]}
        fit.say(profile_step(fit.model, fit.guide, batches, **how).table())
    return record
