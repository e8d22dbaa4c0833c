r"""A family of its own for each site: globals mean-field, locals amortised or a ladder, in one guide.

.. math:: q(z | x) = \prod_i q_i(z_i \mid z_{>i}, x), \qquad q_i \text{ of the guide that site } i \text{ was given to}

Since a guide is one method, guides compose by delegation: each site's question goes to one of them.

Source: none; the delegation is this package's own.
"""

from .base import Guide


class PerSite(Guide):
    """Delegates :meth:`Guide.posterior` to one of several guides, which become this one's parts.

    :param model: the model; all parts were built with it.
    :param dict parts: site's name, or a predicate ``f(name) -> bool``, to a :class:`Guide`. Names come first, then the
        predicates in their order. One guide may serve many sites.
    :param Guide default: serves the sites that nothing in ``parts`` covers; ``None`` for none.
    :raises TypeError: for a part that is no :class:`Guide`, or a key that is neither name nor predicate.
    :raises ValueError: for a part built with another model; and, in a pass, for a site without a guide, or a name that
        is no latent site of the model. Each names the site.

    Parts with free parameters per site keep those of their own sites alone.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.guides import Amortized, MeanField, PerSite
    >>> def model(x):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", len(x), dim=-1):
    ...         z = pyro.sample("z1", dist.Normal(mu, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> local = Amortized(model, lambda x: {"z1": dist.Normal(x / 2, 0.7)})
    >>> guide = PerSite(model, {"mu": MeanField(model, torch.zeros(3)), "z1": local})
    >>> {name: tuple(p.shape) for name, p in guide.named_parameters()}
    {'part_0.locs.mu': (), 'part_0.raw_scales.mu': ()}
    """

    def __init__(self, model, parts, default=None):
        super().__init__(model)
        guides = [*parts.values(), *([default] if default is not None else [])]
        for key, guide in [*parts.items(), *([("default", default)] if default is not None else [])]:
            if not isinstance(key, str) and not callable(key):
                raise TypeError(f"a key of parts must be a site's name or a predicate, not {key!r}")
            if not isinstance(guide, Guide):
                raise TypeError(f"the part for {_label(key)} is a {type(guide).__name__}, not a guide of one method: "
                                "give a pyrarchy.guides.Guide")  # fmt: skip
            if guide.model is not model:
                raise ValueError(
                    f"the part for {_label(key)}, a {type(guide).__name__}, was built with another model than the one "
                    "given: build it with this model"
                )
        self._names = {key: guide for key, guide in parts.items() if isinstance(key, str)}
        self._predicates = [(key, guide) for key, guide in parts.items() if not isinstance(key, str)]
        self._default = default
        self._parts = list({id(guide): guide for guide in guides}.values())
        for i, guide in enumerate(self._parts):
            setattr(self, f"part_{i}", guide)  # one by one: a ModuleList would leave them names that collide
            if hasattr(guide, "restrict"):
                guide.restrict([name for name in guide.sites if self.part(name) is guide])

    def part(self, name):
        """The guide that serves a site, or ``None``."""
        if name in self._names:
            return self._names[name]
        return next((guide for predicate, guide in self._predicates if predicate(name)), self._default)

    def __call__(self, *args, **kwargs):
        """One pass, as :meth:`Guide.__call__`; then sees that every name in ``parts`` was a latent site."""
        out = super().__call__(*args, **kwargs)
        latent = {n for n, site in self.trace.nodes.items() if site["type"] == "sample" and not site["is_observed"]}
        if unknown := sorted(set(self._names) - latent):
            raise ValueError(f"parts name site(s) {unknown}, which the model does not sample; it has {sorted(latent)}")
        return out

    def encode(self, *args, **kwargs):
        """What each part needs of the data, in the order of the parts."""
        return [guide.encode(*args, **kwargs) for guide in self._parts]

    def posterior(self, name, prior):
        """What the site's own guide answers, with this pass's evidence and this pass's samples above."""
        guide = self.part(name)
        if guide is None:
            raise ValueError(
                f"no part of the guide serves the model's latent site '{name}': name it, or give a default"
            )
        place = next(i for i, one in enumerate(self._parts) if one is guide)
        state = guide.__dict__
        state["evidence"], state["args_kwargs"], state["_outer_plates"] = (
            self.evidence[place],
            self.args_kwargs,
            self._outer_plates,
        )
        state["trace"] = self.trace
        try:
            return guide.posterior(name, prior)
        finally:
            for key in ("evidence", "args_kwargs", "_outer_plates", "trace"):
                state.pop(key, None)


def _label(key):
    return f"site '{key}'" if isinstance(key, str) and key != "default" else "the default" if key == "default" else key
