"""What a guide without a network learns of a model from one run on example arguments: its latent sites and its data.

Guides with free parameters per site or per datum make them in their constructor, so that they exist before training and
before a checkpoint is loaded. Rows of data are known by content, never by position alone.
"""

import hashlib
import weakref
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.distributions import biject_to


@dataclass(frozen=True)
class LatentSite:
    """A latent site of a model, as one run on example arguments showed it.

    :ivar start: feasible point in unconstrained space, plates at their full size.
    :ivar int event_dim: event dimensions of ``start``.
    :ivar tuple frames: the vectorised plates around the site.
    :ivar transform: bijection from unconstrained space to the support of the prior.
    """

    name: str
    start: torch.Tensor
    event_dim: int
    frames: tuple
    transform: torch.distributions.Transform

    def frame(self, name):
        """The plate of that name, or ``None``."""
        return next((f for f in self.frames if f.name == name), None)


def to_support(name, prior):
    """The bijection from unconstrained space to a prior's support; a ValueError names a site without one."""
    try:
        if prior.support.is_discrete:
            raise NotImplementedError
        return biject_to(prior.support)
    except NotImplementedError:
        raise ValueError(
            f"site '{name}': {type(prior).__name__} has no unconstrained space (is it discrete?). Sum the site out, or "
            "write a guide with a posterior() for it."
        ) from None


def feasible_start(site):
    """The prior mean where it is finite in unconstrained space, and u = 0 elsewhere (a HalfCauchy has no mean)."""
    prior = site["fn"]
    transform = to_support(site["name"], prior)
    zero = torch.zeros_like(transform.inv(prior.sample()))
    try:
        u = transform.inv(prior.mean.detach())
    except (NotImplementedError, ValueError):
        u = zero
    return transform(torch.where(torch.isfinite(u), u, zero))


def latent_sites(model, args, kwargs):
    """Run a model once on example arguments and describe its latent sites: dictionary name -> :class:`LatentSite`.

    Random generators, parameter store and train/eval mode are left as they were.
    """
    owner = getattr(model, "__self__", model)
    modes = [(m, m.training) for m in owner.modules()] if isinstance(owner, nn.Module) else []
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        for module, _ in modes:
            module.training = False
        with torch.random.fork_rng(devices), pyro.get_param_store().scope(), torch.no_grad():
            with poutine.block(), InitMessenger(feasible_start):
                trace = poutine.trace(model).get_trace(*args, **kwargs)
    finally:
        for module, mode in modes:
            module.training = mode
    sites = {}
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or node["is_observed"] or site_is_subsample(node):
            continue
        transform = to_support(name, node["fn"])
        u = transform.inv(node["value"]).detach()
        event_dim = transform.domain.event_dim
        frames = tuple(f for f in node["cond_indep_stack"] if f.vectorized)
        for f in frames:
            if f.full_size is not None and f.full_size != f.size:
                dim = f.dim - event_dim
                sizes = list(u.shape)
                sizes[dim] = f.full_size
                u = u.mean(dim, keepdim=True).expand(sizes)
        sites[name] = LatentSite(name, u.clone(), event_dim, frames, transform)
    if not sites:
        raise ValueError("the model has no latent site on these arguments: there is nothing to infer")
    return sites


def few(names, most=5):
    """Names as a message shows them: the first few, and how many more there are.

    >>> few(f"z{i}" for i in range(1, 9))
    "'z1', 'z2', 'z3', 'z4', 'z5' and 3 more"
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def inverse_softplus(scale):
    """The number whose softplus is a positive scale."""
    return scale + np.log(-np.expm1(-scale))


class DataRows(nn.Module):
    """Remembers example data by content, one digest a row, in buffers that travel with the guide's weights.

    :param int num_rows: size of plate ``data``; arguments with as many rows are the data, all others are context.
    """

    def __init__(self, args, kwargs, num_rows):
        super().__init__()
        arguments = _arguments(args, kwargs)
        self.keys = [k for k, v in arguments.items() if isinstance(v, np.ndarray) and v.shape[:1] == (num_rows,)]
        rows, context = self._digests(arguments)
        self.register_buffer("rows", torch.from_numpy(rows))
        self.register_buffer("context", torch.from_numpy(context))
        self._last = None

    def find(self, args, kwargs):
        """Where each row of the data stands among the example's, (n,), or ``None`` for unknown rows or context.

        Equal rows are one row: the first of them.
        """
        tensors = [v for v in (*args, *kwargs.values()) if torch.is_tensor(v)]
        if self._seen(tensors):
            return self._last[1]
        arguments = _arguments(args, kwargs)
        rows, context = self._digests(arguments) if set(self.keys) <= set(arguments) else (None, None)
        known = rows is not None and np.array_equal(context, self.context.cpu().numpy())
        found = self._look_up(rows.tolist()) if known else None
        if not any(t.is_inference() for t in tensors):  # those do not count their changes
            self._last = [(weakref.ref(t), t._version) for t in tensors], found
        return found

    def _seen(self, tensors):
        """Whether these are the tensors of the last call, unchanged: reading them again is a step's largest cost."""
        last = self._last[0] if self._last is not None else None
        return (
            last is not None
            and len(tensors) == len(last)
            and all(ref() is t and version == t._version for (ref, version), t in zip(last, tensors, strict=True))
        )

    def own(self):
        """What :meth:`find` returns for the example itself."""
        return self._look_up(self.rows.tolist())

    def _look_up(self, rows):
        table = {tuple(row): i for i, row in reversed(list(enumerate(self.rows.tolist())))}
        places = [table.get(tuple(row)) for row in rows]
        return None if None in places else torch.tensor(places, dtype=torch.long, device=self.rows.device)

    def _digests(self, arguments):
        data = [arguments[k].reshape(len(arguments[k]), -1) for k in self.keys]
        if len({len(d) for d in data}) > 1:
            return None, None
        rows = [_digest(b"".join(d[i].tobytes() for d in data)) for i in range(len(data[0]))] if data else []
        context = _digest(repr([(k, _plain(v)) for k, v in arguments.items() if k not in self.keys]).encode())
        return np.array(rows, dtype=np.int64).reshape(-1, 2), np.array(context, dtype=np.int64)

    def _load_from_state_dict(self, state, prefix, *rest):
        self._last = None  # the rows are about to be another data set's
        super()._load_from_state_dict(state, prefix, *rest)

    def __getstate__(self):
        return {**self.__dict__, "_last": None}  # weak references cannot be copied


def _arguments(args, kwargs):
    """All arguments by position or name; tensors as float64 or int64 arrays, so that a change of precision is none."""
    out = {}
    for key, value in [*enumerate(args), *sorted(kwargs.items())]:
        if torch.is_tensor(value):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value, dtype=np.float64 if value.dtype.kind == "f" else np.int64)
        out[key] = value
    return out


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    return value if isinstance(value, (str, int, float, type(None))) else type(value).__name__


def _digest(content):
    return np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), dtype=np.int64)
