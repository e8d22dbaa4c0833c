r"""Batch normalisation in a pair: its statistics measured anew for evaluation, and where it couples the data in training.

In training a normalised layer uses the mean and variance of its batch. Where it reads the data alone, each datum still
has its own q(z | x) given the batch. Where it reads *latents*, the densities of one datum depend on the draws of the
others: the value in training is then no bound on log p(x), and estimators that weigh each datum's path by its own
weights are wrong. In evaluation the running statistics take the batch's place and nothing is coupled.

Source: Ioffe & Szegedy (2015), https://arxiv.org/abs/1502.03167 (statistics of the whole training set for inference).
"""

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.nn.modules.batchnorm import _BatchNorm

from .batches import as_batches, smallest, smallest_part
from .first_pass import pass_of
from .isolation import isolated, root_modules
from .terms import trace_pair


def batch_normalisers(*roots):
    """Name -> module, each once, of the batch normalisations in the roots' modules."""
    out, seen = {}, set()
    for root in root_modules(*roots):
        prefix = getattr(root, "_pyro_name", "")
        for name, module in root.named_modules(prefix=prefix):
            if isinstance(module, _BatchNorm) and id(module) not in seen:
                seen.add(id(module))
                out[name] = module
    return out


class Coupling(Messenger):
    """Notes which batch normalisations in training mode are run after a latent has been drawn, in ``names``.

    They come after it in the pass, so what they read may depend on it, and their statistics hang the data together.
    """

    def __init__(self, model, guide):
        super().__init__()
        self.modules = batch_normalisers(model, guide)
        self.names, self._drawn, self._hooks = [], False, []

    def __enter__(self):
        self._drawn = False
        for name, module in self.modules.items():
            self._hooks.append(module.register_forward_pre_hook(lambda module, given, name=name: self._note(name)))
        return super().__enter__()

    def __exit__(self, *args):
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        return super().__exit__(*args)

    def _note(self, name):
        if self._drawn and self.modules[name].training and name not in self.names:
            self.names.append(name)

    def _pyro_post_sample(self, msg):
        if not msg["is_observed"] and not site_is_subsample(msg):
            self._drawn = True


def check_single_rows(model, guide, objective, batches, first):
    """Refuse, by name, a batch normalisation to which some batch of an epoch would hand one row: it has no variance.

    Asked before the first step, since the last batch of an epoch is the one that may be too small.

    :param first: a batch, of which one row is run with the objective's draws, as in training.
    :raises ValueError: with the batch sizes nearby that leave no row alone.
    """
    normalisers = batch_normalisers(model, guide)
    if not normalisers or smallest(batches) != 1:
        return

    def look(name):
        def hook(module, given):
            if module.training and given[0].numel() == module.num_features:
                raise ValueError(
                    f"batch normalisation '{name}' takes a variance over the rows of a batch, and {_lone_row(batches)}"
                )

        return hook

    hooks = [module.register_forward_pre_hook(look(name)) for name, module in normalisers.items()]
    one = tuple(part[:1] if getattr(part, "shape", ()) else part for part in first)
    try:
        with torch.no_grad():
            pass_of(objective, model, guide, one)
    finally:
        for hook in hooks:
            hook.remove()


def _lone_row(batches):
    """Which batch has one row, and what to do."""
    rows, size = getattr(batches, "num_rows", None), getattr(batches, "batch_size", None)
    parts = getattr(batches, "parts", 1)
    if rows is None or size is None or rows == 1:
        return "some batch of the data holds a single row: see that each holds at least two."
    fit = [
        n
        for n in sorted(range(max(2, size - 3), size + 5), key=lambda n: abs(n - size))
        if smallest_part(rows, n, parts) > 1
    ][:2]
    where = f"{rows} rows in batches of {size}{f' on each of {parts} processes' * (parts > 1)} leave one row alone"
    return f"{where}: choose another batch_size, {' or '.join(map(str, sorted(fit)))} for instance."


def reestimate_statistics(model, guide, data, batch_size=None, *, seed=0):
    """Replace the running statistics of all batch normalisations by those of the data under the present weights.

    One pass over the data: means and variances of the batches, averaged by their rows. Nothing else is in training mode,
    no weight changes, and the outside's generators are left as they were. A last batch of a single row is left out.

    :param data: what :func:`~pyrarchy.inference.fit` takes; the training data.
    :param int batch_size: rows per batch, as in training: statistics deeper down follow from the batches' own.
    :param int seed: seed of the latents' draws and of whatever the batches draw.
    :returns: list of the modules' names; empty when there are none, and nothing is run.
    """
    found = batch_normalisers(model, guide)
    kept = {name: module for name, module in found.items() if module.running_mean is not None}
    if not kept:
        return []
    batches = as_batches(data, batch_size, seed)
    momenta = {name: module.momentum for name, module in kept.items()}
    seen = dict.fromkeys(kept, 0)

    def weigh(name):
        def hook(module, given):
            rows = given[0].numel() // module.num_features
            seen[name] += rows
            module.momentum = rows / seen[name]  # so that the running value is the mean over all rows so far

        return hook

    hooks = []
    with isolated(model, guide, seed=seed), torch.no_grad():
        try:
            for name, module in kept.items():
                module.reset_running_stats()
                module.train()
                hooks.append(module.register_forward_pre_hook(weigh(name)))
            for number, batch in enumerate(batches.epoch(0)):
                if number and all(getattr(part, "shape", ())[:1] == (1,) for part in batch):
                    continue
                trace_pair(model, guide, batch)
        finally:
            for hook in hooks:
                hook.remove()
            for name, momentum in momenta.items():
                kept[name].momentum = momentum
    return list(kept)


def coupled_modules(model, guide, args):
    """Names of the batch normalisations that, in the present mode, couple the draws of a batch (see :class:`Coupling`)."""
    coupling = Coupling(model, guide)
    if coupling.modules:
        with coupling, torch.no_grad():
            trace_pair(model, guide, args)
    return coupling.names
