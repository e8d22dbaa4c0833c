r"""Joint guide: one distribution over all latents at once, stacked into one unconstrained vector. An ordinary Pyro guide.

.. math:: q(z) = q_u(u) \prod_i \left|\frac{\partial u_i}{\partial z_i}\right|, \qquad u = (T_1^{-1}(z_1), \dots)

The density of u sits on the auxiliary site ``joint``, that of the change of variables on each latent's own site (a
point mass with that log-density). So total weights are exact, and a rate per site, which a joint density does not
have, is refused by :mod:`pyrarchy.inference`.

Source: Kucukelbir et al. (2017), https://arxiv.org/abs/1603.00788.
"""

from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from .example_data import DataRows, latent_sites


class Joint(PyroModule):
    """Base: subclasses write :meth:`distribution`, the density of the stacked vector.

    :param model: the model; its latents are continuous and its sites do not depend on chance.
    :param model_args, model_kwargs: example arguments, or the data themselves when latents lie in plate ``data``.
    :raises ValueError: for a discrete site, or a latent in a subsampled plate (u would change its length); when called
        on other data than the example's and a latent is in plate ``data``. Each names the site.
    """

    AUXILIARY = "joint"

    def __init__(self, model, *model_args, **model_kwargs):
        super().__init__("guide")
        self._model = (model,)  # in a tuple: the model is not the guide's to train
        self._sites = latent_sites(model, model_args, model_kwargs)
        for site in self._sites.values():
            for frame in site.frames:
                if frame.full_size not in (None, frame.size):
                    raise ValueError(
                        f"site '{site.name}' lies in the subsampled plate '{frame.name}': a joint density needs all rows "
                        "at once. Run the model on all rows, or use MeanField, which has a row for each."
                    )
        self.register_buffer("start", torch.cat([s.start.reshape(-1) for s in self._sites.values()]))
        self._local = [s.name for s in self._sites.values() if s.frame("data")]
        sizes = [s.frame("data").size for s in self._sites.values() if s.frame("data")]
        self.data = DataRows(model_args, model_kwargs, sizes[0]) if sizes else None

    @property
    def model(self):
        """The model that the guide was built with."""
        return self._model[0]

    @property
    def dim(self):
        """Length of the stacked vector."""
        return len(self.start)

    def distribution(self):
        """The density of the stacked vector: a reparameterised distribution of event shape (dim,)."""
        raise TypeError(f"{type(self).__name__} must override distribution()")

    def forward(self, *args, **kwargs):
        """Draw all latents; returns a dictionary site -> value."""
        self._check_data(args, kwargs)
        u = pyro.sample(self.AUXILIARY, self.distribution(), infer={"is_auxiliary": True})
        # The plates are this pass's own, so that particles and other outer plates stay to their left.
        frames = {f.name: f for site in self._sites.values() for f in site.frames}
        plates = {name: pyro.plate(name, f.size, dim=f.dim) for name, f in frames.items()}
        values, position = {}, 0
        for name, site in self._sites.items():
            size = site.start.numel()
            part = u[..., position : position + size]
            position += size
            # Outer dimensions of u lie left of the model's plates, in whose places u has dimensions of size one.
            shape = torch.broadcast_shapes(site.start.shape, u.shape[:-1] + (1,) * site.event_dim)
            unconstrained = part.reshape(shape)
            value = site.transform(unconstrained)
            log_density = -site.transform.log_abs_det_jacobian(unconstrained, value)
            with ExitStack() as stack:
                for frame in site.frames:
                    stack.enter_context(plates[frame.name])
                event_dim = value.dim() - log_density.dim()
                values[name] = pyro.sample(name, dist.Delta(value, log_density=log_density, event_dim=event_dim))
        return values

    def _check_data(self, args, kwargs):
        if self.data is None:
            return
        rows = self.data.find(args, kwargs)
        example = self.data.own()
        if rows is None or not torch.equal(rows, example):
            raise ValueError(
                f"site(s) {self._local} have one entry per datum in the joint density, made for the {len(example)} rows of "
                f"the example data in their order, and these data are others: {type(self).__name__} has no posterior "
                "for them. Build and train a guide on these data, or amortise."
            )
