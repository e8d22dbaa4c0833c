r"""A guide is one method: :meth:`Guide.posterior`, asked at each latent site of the model, from the top down.

.. math:: q(z | x) = \prod_i q_i(z_i \mid z_{>i}, x)

At each site the guide is handed the model's own prior, already conditioned on the samples above, and returns the
distribution that is sampled instead. Mean-field, amortised, ladder, flow and exact guides are small overrides, and what
a ladder shares between p and q arrives inside ``prior``: nothing is copied and the top-down pass runs once.

This module is the only point of contact with Pyro's ``AutoMessenger``.
"""

import pyro.distributions as dist
import torch
from pyro.distributions.util import broadcast_shape
from pyro.infer.autoguide import AutoMessenger
from pyro.nn.module import pyro_method
from pyro.poutine.runtime import get_plates
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample


class Guide(AutoMessenger):
    """Base of all guides that walk the model top down.

    :param model: the model; it is run by the guide but not owned by it.

    Override :meth:`posterior`, and :meth:`encode` when the data are needed.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.guides import Guide
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z1", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> class Exact(Guide):
    ...     def encode(self, x):
    ...         return x / 2
    ...     def posterior(self, name, prior):
    ...         return dist.Normal(self.evidence, 0.5**0.5)
    >>> sorted(Exact(model)(torch.zeros(3)))
    ['x', 'z1']
    """

    def __init__(self, model):
        super().__init__(model)
        self._pyro_name = "guide"  # a root name, so that no parameter key is shared with the model
        self._asking = None

    @pyro_method  # without it the modules read by encode() would never be registered
    def __call__(self, *args, **kwargs):
        """Draw every latent and run the model on the draws.

        :returns: dictionary of all sample sites' values, latent and observed.
        """
        state = self.__dict__  # assignment to an attribute of a PyroModule searches all its registries first
        state["evidence"] = self.encode(*args, **kwargs)
        state["args_kwargs"] = args, kwargs
        state["_outer_plates"] = tuple(frame.name for frame in get_plates())
        try:
            with self:
                self.model(*args, **kwargs)
        finally:
            for name in ("evidence", "args_kwargs", "_outer_plates"):
                state.pop(name, None)
        nodes = self.trace.nodes.items()
        return {name: site["value"] for name, site in nodes if site["type"] == "sample" and not site_is_subsample(site)}

    def encode(self, *args, **kwargs):
        """What :meth:`posterior` needs of the data, computed once per pass and kept in ``self.evidence``."""

    def posterior(self, name, prior):
        """The distribution to sample at a latent site.

        :param str name: the site.
        :param prior: the model's distribution there, given the samples above.
        :returns: a distribution over the same event shape (or a tensor, for a point mass).
        """
        raise TypeError(f"{type(self).__name__} must override posterior(name, prior)")

    def get_posterior(self, name, prior):
        """The name that Pyro's AutoMessenger asks for."""
        return self.posterior(name, prior)

    def get_traces(self):
        """The traces ``(model_trace, guide_trace)`` of the last call, without subsample sites.

        As Pyro's own, in one walk over the sites: Pyro copies the whole trace three times, and asks twice a pass.
        """
        model_trace, guide_trace = Trace(), Trace()
        for name, site in self.trace.nodes.items():
            if site_is_subsample(site):
                continue
            if site["type"] == "sample" and not site["is_observed"]:
                guide_trace.add_node(name, **site)
                site = {**site, "fn": site["infer"]["prior"]}
            model_trace.add_node(name, **site)
        return model_trace, guide_trace

    def is_top(self):
        """Whether no latent of plate ``data`` has been sampled above the present site; globals do not count."""
        return not any(
            node["type"] == "sample"
            and not node["is_observed"]
            and any(frame.name == "data" for frame in node["cond_indep_stack"])
            for node in self.trace.nodes.values()
        )

    def _pyro_sample(self, msg):
        # AutoMessenger expands q to the prior's batch shape alone; where p(b) ignores a and q(b | a) does not, that
        # fails under particles, so both are expanded to their common shape here.
        if site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        if msg["is_observed"] and self._asking is None:
            return
        name, prior = msg["name"], msg["fn"]
        if self._asking is not None:
            raise ValueError(
                f"posterior('{self._asking}') sampled the site '{name}': its density would cancel from the bound "
                "silently. Return a distribution for each site of the model and sample nothing inside posterior()."
            )
        self.__dict__["_asking"] = name
        try:
            q = self.get_posterior(name, prior)
        finally:
            self.__dict__["_asking"] = None
        if isinstance(q, torch.Tensor):
            q = dist.Delta(q, event_dim=prior.event_dim)
        if not isinstance(q, torch.distributions.Distribution):
            raise TypeError(
                f"posterior('{name}') returned {type(q).__name__}; return a distribution with event shape "
                f"{tuple(prior.event_shape)}, or a tensor for a point mass."
            )
        if q.event_shape != prior.event_shape:
            raise ValueError(
                f"site '{name}': the guide's event shape {tuple(q.event_shape)} is not the prior's "
                f"{tuple(prior.event_shape)}. Check the dimension of the guide's output and its to_event()."
            )
        try:
            shape = broadcast_shape(prior.batch_shape, q.batch_shape)
        except ValueError:
            raise ValueError(
                f"site '{name}': the guide's batch shape {tuple(q.batch_shape)} does not broadcast with the prior's "
                f"{tuple(prior.batch_shape)}. Was the guide built or evaluated for another batch of data?"
            ) from None
        msg["infer"]["prior"] = prior if prior.batch_shape == shape else prior.expand(shape)
        msg["fn"] = q if q.batch_shape == shape else q.expand(shape)

    def __getstate__(self):
        # Copies drop the last trace; Pyro's own version fails when there is none yet.
        state = self.__dict__.copy()
        state.pop("trace", None)
        return state
