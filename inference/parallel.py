"""Several processes that train one pair: which of them this is, and the few things that they tell each other.

``torch.distributed`` calls the processes ranks. Without an initialised process group there is one, and everything here
costs nothing. A rank that has ended, or answers nothing for as long as the group waits, makes :class:`LostRankError`
of whatever the others wait for.
"""

from contextlib import contextmanager
from functools import reduce

import pyro
import torch
import torch.distributed as dist

FAR_APART = 1_000_003  # of the seeds of two ranks


class LostRankError(RuntimeError):
    """Another process of the group has ended or does not answer."""


class RefusedElsewhereError(RuntimeError):
    """Another rank has found what forbids to go on, and says it; ``kinds`` are the names of the error's classes there."""

    said = True

    def __init__(self, text, kinds):
        super().__init__(text)
        self.kinds = kinds


def ranks():
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """The number of this process among them, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def own_seed(seed):
    """The seed of this rank's noise; rank 0 has the seed itself."""
    return (seed + FAR_APART * rank()) % 2**32 if rank() else seed


@contextmanager
def _answered():
    try:
        yield
    except RuntimeError as error:  # of gloo and nccl alike
        why = " ".join(str(error).split()).split("] ")[-1].split(". ")[0]
        raise LostRankError(
            f"another of the {ranks()} processes has ended or does not answer ({why}); what was saved last is whole: "
            "start all of them again with --resume"
        ) from error


def gather(value):
    """Every rank's value, in their order, for each of them."""
    if ranks() == 1:
        return [value]
    values = [None] * ranks()
    with _answered():
        dist.all_gather_object(values, value)
    return values


def of_first(function):
    """What a function gives on rank 0, for every rank; its error is everybody's error."""
    if ranks() == 1:
        return function()
    given = [None, None]
    if rank() == 0:
        try:
            given[0] = function()
        except Exception as error:
            given[1] = error
    with _answered():
        dist.broadcast_object_list(given)
    if given[1] is not None:
        given[1].said = rank() > 0
        raise given[1]
    return given[0]


@contextmanager
def agreed():
    """A block that every rank comes through, or none: the others of one that raised stop, too, instead of waiting for it.

    An error that a rank before has as well is marked as ``said``.

    :raises RefusedElsewhereError: on a rank without an error of its own.
    """
    error = None
    try:
        yield
    except LostRankError:
        raise
    except Exception as caught:
        error = caught
    own = None if error is None else (str(error), [kind.__name__ for kind in type(error).__mro__])
    found = gather(own)
    if error is not None:
        error.said = getattr(error, "said", False) or own in found[: rank()]
        raise error
    for number, other in enumerate(found):
        if other is not None:
            raise RefusedElsewhereError(f"process {number} stopped: {other[0]}", other[1])


@torch.no_grad()
def spread(tensors):
    """Give every rank the tensors of rank 0, in place."""
    if ranks() == 1:
        return
    for tensor in tensors:
        plain = tensor.detach().contiguous()
        with _answered():
            dist.broadcast(plain.view(torch.uint8) if plain.dtype == torch.bool else plain, 0)
        tensor.copy_(plain)


@torch.no_grad()
def mean_over_ranks(weight, figures, gradients, tensors, wish=False):
    """Means over the ranks of figures and gradients, each rank with its weight, in one exchange.

    :param float weight: how many data this rank's means are over; none is a share like any other.
    :param figures: tensor (F,). :param gradients: a list with a tensor or ``None`` for each of ``tensors``.
    :param bool wish: a question to all ranks.
    :returns: ``(figures, gradients, whether any rank wished)``; a gradient is ``None`` where no rank has one.
    """
    wide = reduce(torch.promote_types, [t.dtype for t in tensors], figures.dtype)
    figures = figures.to(wide)
    head = figures.new_tensor([weight, float(wish), *(float(g is not None) for g in gradients)])
    parts = [torch.zeros_like(t) if g is None else g for g, t in zip(gradients, tensors, strict=True)]
    flat = torch.cat([figures, *(part.reshape(-1).to(figures) for part in parts)])
    flat = torch.cat([head, flat * weight if weight else torch.zeros_like(flat)])
    with _answered():
        dist.all_reduce(flat)
    head, flat = flat.split([len(head), len(flat) - len(head)])
    total, wished, *reached = head.tolist()
    figures, *means = (flat / total).split([len(figures), *(t.numel() for t in tensors)])
    out = [
        torch.empty_like(t).copy_(mean.view_as(t)) if count else None
        for mean, t, count in zip(means, tensors, reached, strict=True)
    ]
    return figures, out, wished > 0


def share_of(rows):
    """The part of ``rows`` (an array, a tensor) that is this rank's, in parts as equal as can be."""
    n, part, parts = len(rows), rank(), ranks()
    return rows[n * part // parts : n * (part + 1) // parts]


def shared_map(function, items, seed):
    """``function`` of every item, in their order and on every rank, each item computed by one of them.

    Each item's random numbers follow from ``seed`` and its place alone, whoever computes it.
    """
    own = {}
    for number in range(rank(), len(items), ranks()):
        pyro.set_rng_seed((seed + FAR_APART * (number + 1)) % 2**32)
        own[number] = function(items[number])
    found = {number: value for part in gather(own) for number, value in part.items()}
    return [found[number] for number in range(len(items))]
