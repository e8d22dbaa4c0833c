"""Stochastic variational inference: one torch optimiser over all parameters, one gradient-norm clip, nothing global.

``fit`` trains a pair in place. Everything that decides the numbers (weights, buffers, optimiser, step, data order,
random generators) is in the checkpoint, so that a killed run continues to the same bits.
"""

import math
import time

import torch

from . import parallel
from .arguments import blaming_data, whole
from .batches import as_batches
from .bound import Bound
from .elbo import ELBO
from .isolation import checked_seed, isolated
from .loop import Loop
from .shared_loop import SharedLoop, share_batches
from .threads import MOST_THREADS, set_threads, settle_threads, threads_kept


def fit(
    model,
    guide,
    data,
    *,
    objective=None,
    optimizer=1e-3,
    steps=None,
    epochs=None,
    batch_size=None,
    schedule=None,
    temper=None,
    clip_norm=100.0,
    seed=0,
    callbacks=(),
    out=None,
    resume=False,
    save_every=500,
    progress=False,
    tape=True,
    threads=None,
):
    """Train a pair by SVI, in place.

    :param model, guide: the pair; the guide may be any callable that samples every latent of the model.
    :param data: a tensor (N, ...), a tuple of aligned tensors (the model's arguments), an iterable of batches, or
        ``None`` for a model without arguments.
    :param objective: a :class:`Bound` (ELBO by default) or one of Pyro's own ELBOs.
    :param optimizer: a learning rate for Adam, or a factory from a list of tensors to a ``torch.optim`` optimiser.
    :param int steps: steps to take; or :param int epochs: passes over the data. Exactly one of them.
    :param int batch_size: rows per step; ``None`` for all of them.
    :param schedule: function from the step (0 for the first) to a factor on the learning rate.
    :param temper: a :class:`~pyrarchy.inference.Temper`, whose step is set before each step.
    :param float clip_norm: bound on the global norm of the gradient of the loss per datum; ``None`` for no clip.
    :param int seed: seeds data order, sampling and everything else random inside; the outside is left as it was.
    :param callbacks: functions of a :class:`Step`; one that returns ``True`` ends the training.
    :param out: folder for ``checkpoint.npz`` and ``history.csv``.
    :param bool resume: continue from the checkpoint in ``out`` if there is one.
    :param int save_every: steps between checkpoints.
    :param bool progress: whether to show a progress bar.
    :param bool tape: whether steps are recorded once and replayed where that gives the same numbers to the last bit
        (:mod:`~pyrarchy.inference.tape`); the record's ``path`` says which way they went.
    :param threads: torch's threads while training: a number, or ``"auto"`` for one or all, whichever takes steps faster
        now (:mod:`~pyrarchy.inference.threads`); by default as many as torch has. The record says what it was.
    :returns: :class:`~pyrarchy.inference.Record`, in nats per datum.

    Where a process group of ``torch.distributed`` is initialised, its processes train together: each calls ``fit`` with the
    same arguments and takes ``batch_size`` rows of every step (:mod:`~pyrarchy.inference.shared_loop`).

    :raises ValueError: for a pair that would train wrongly (naming site or parameter), or inconsistent arguments.
    :raises DivergedError: when loss or gradient are not finite; the last good checkpoint stays.
    """
    if (steps is None) == (epochs is None):
        raise ValueError(f"give exactly one of steps and epochs, not steps={steps} and epochs={epochs}")
    steps, epochs = (None if n is None else whole(name, n) for name, n in (("steps", steps), ("epochs", epochs)))
    seed, save_every = checked_seed(seed), whole("save_every", save_every or 0, least=0)
    batch_size = None if batch_size is None else whole("batch_size", batch_size)
    for name, part in (("model", model), ("guide", guide), *(("each of callbacks", c) for c in _listed(callbacks))):
        if not callable(part):
            raise TypeError(f"{name} must be a function or a module, not {part!r}")
    if not callable(optimizer) and not (isinstance(optimizer, int | float) and 0 <= optimizer < math.inf):
        raise ValueError(
            f"optimizer must be a learning rate of at least 0 or a function of a list of tensors, not {optimizer!r}"
        )
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be a positive number or None, not {clip_norm!r}")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("fit takes gradients, which torch.inference_mode() forbids: call it outside")
    objective = ELBO() if objective is None else objective
    if isinstance(objective, type) or not hasattr(objective, "loss_and_grads"):
        raise TypeError(
            f"objective must be a Bound or one of Pyro's ELBOs, not {objective!r}. From a name as on the command line: "
            "pyrarchy.objectives.make_objective('iwae:5')."
        )
    if temper is not None and not isinstance(objective, Bound):
        raise ValueError(f"a temperature needs one of pyrarchy's bounds, not {type(objective).__name__}: its value at "
                         "temperature one could not be reported")  # fmt: skip
    if threads not in (None, "auto") and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise ValueError(
            f"threads must be a number of at least 1, 'auto' or None, not {threads!r} (at most {MOST_THREADS})"
        )
    if resume and out is None:
        raise ValueError("resume=True needs the folder: out=...")
    batches = share_batches(as_batches(data, batch_size, seed))
    total = steps if steps is not None else epochs * len(batches)
    started = time.perf_counter()
    given = getattr(batches, "tensors", ())
    with (
        isolated(model, guide, seed=parallel.own_seed(seed), train=True),
        threads_kept(),
        torch.enable_grad(),
        blaming_data(given, model, guide),
    ):
        most = torch.get_num_threads()
        if threads == "auto":
            set_threads(1)
        kind = Loop if parallel.ranks() == 1 else SharedLoop
        loop = kind(model, guide, batches, objective, optimizer, schedule, temper, clip_norm, out, seed, tape)
        if resume and loop.begun():
            loop.restore()
        loop.open_folder(resume)
        settle_threads(threads, loop, total, most)
        loop.run(total, callbacks, save_every, progress)
    loop.record.seconds = time.perf_counter() - started
    return loop.record


def _listed(callbacks):
    if not isinstance(callbacks, list | tuple):
        raise TypeError(f"callbacks must be a list or a tuple of functions, not {callbacks!r}")
    return callbacks
