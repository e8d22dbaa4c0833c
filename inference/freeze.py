"""Score a pair again at the same latents: with every parameter held constant, or at latents from elsewhere.

A gradient estimator that treats theta, phi and the path through z differently needs two tables of one pass: the live one
and a *frozen* one, at the same live z but with all parameters of model and guide detached. Live minus frozen has value
zero and carries the direct gradient of the parameters; frozen carries the path through z. Parameters that model and
guide share (a ladder's) thereby split by role, with nothing copied.
"""

from contextlib import contextmanager

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from .announce import plain_submodules, unannounced
from .isolation import root_modules
from .layout import log_density
from .terms import check_sites, is_latent, trace_pair


class FixValues(Messenger):
    """Give latent sites a value in place of a draw; a guide's density is then taken at that value.

    Values are passed as new tensor objects, because flows remember the inverse of the very object that they made, with
    the parameters that they had.
    """

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if msg["is_observed"] or msg["name"] not in self.values:
            return
        value = self.values[msg["name"]]
        msg["value"] = value if site_is_subsample(msg) else value.view_as(value)
        msg["done"] = True


class DetachParams(Messenger):
    """Detach the value of every ``pyro.param`` statement, free ones and those of modules."""

    def _pyro_post_param(self, msg):
        value = msg["value"]
        detached = value.detach()
        detached.unconstrained = getattr(value, "unconstrained", lambda: detached)
        msg["value"] = detached


@contextmanager
def frozen(model, guide):
    """Run with all parameters of model and guide detached, those of shared modules included.

    ``requires_grad_(False)`` would not do (reading a PyroModule's parameter turns it on again), nor would
    ``functional_call`` (a module shared by two roots would keep the detached tensors).
    """
    swapped = []
    seen = set()
    try:
        for root in root_modules(model, guide):
            for module in root.modules():
                if id(module) in seen:
                    continue
                seen.add(id(module))
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        swapped.append((module._parameters, name, parameter))
                        module._parameters[name] = parameter.detach()
                for name, buffer in module._buffers.items():
                    if buffer is not None:  # batch statistics must not count this pass a second time
                        swapped.append((module._buffers, name, buffer))
                        module._buffers[name] = buffer.clone()
                if isinstance(module, torch.nn.RNNBase):  # it reads a list of its own
                    swapped.append((module.__dict__, "_flat_weights", module._flat_weights))
                    module.__dict__["_flat_weights"] = [w.detach() for w in module._flat_weights]
        with DetachParams(), unannounced(plain_submodules(model, guide)):
            yield
    finally:
        for place, name, parameter in swapped:
            place[name] = parameter


def log_prob(guide, values, *args, num_particles=1, plates=1, **kwargs):
    """log q(z | x) of a guide at latents from elsewhere.

    :param dict values: site -> value, for every site that the guide samples; particles leftmost when there are several.
    :param args: the model's arguments.
    :returns: dictionary site -> log-density, nats, masked as the site is, of the site's batch shape.
    :raises ValueError: when ``values`` misses a site of the guide or has one that the guide does not sample.
    """
    model = getattr(guide, "model", None)
    with FixValues(values):
        if model is not None:
            model_trace, guide_trace = trace_pair(
                model, guide, args, kwargs, num_particles=num_particles, plates=plates
            )
            check_sites(model_trace, guide_trace)
        else:
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    drawn = {n: s for n, s in guide_trace.nodes.items() if is_latent(s) and not site_is_subsample(s)}
    missing, invented = sorted(set(drawn) - set(values)), sorted(set(values) - set(drawn))
    if missing or invented:
        raise ValueError(
            f"the values {'miss site(s) ' + str(missing) if missing else 'have unknown site(s) ' + str(invented)}: the "
            f"guide samples {sorted(drawn)}. Give one value for each."
        )
    return {n: log_density(s) for n, s in drawn.items()}
