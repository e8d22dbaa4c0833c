r"""The aggregate posterior: where the guide puts the data, as one distribution that can be sampled and scored.

.. math:: q(z) = \frac1N \sum_{n=1}^N q(z \mid x_n)

The best prior for a fitted guide is its aggregate posterior, and where it differs from p(z) samples from the prior are of
latents that the decoder was never trained on. With N data and a tractable q it is an exact mixture of N components: no
classifier is needed to compare it with p(z).

Source: Hoffman & Johnson (2016), ELBO surgery, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf;
Tomczak & Welling (2018), https://arxiv.org/abs/1705.07120.
"""

import math

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from .isolation import buffers_kept, isolated
from .one_site import innermost
from .terms import is_latent, trace_pair

TABLE = 2**22  # entries (values x data) that are scored at once: 32 MiB


class AggregatePosterior(dist.TorchDistribution):
    """The mixture of a guide's answers for all rows of a data set, with equal weights; batch shape (), no gradient to it.

    :param model, guide: the pair.
    :param data: tensor (N, ...), or the tuple of the model's arguments; those of N rows are the data.
    :param str site: a latent site whose q(z | x) is given x alone; may be left out where the model has one latent.
    :param int batch_size: rows encoded at a time.
    :raises ValueError: naming the site, when the model lacks it, when its q depends on the samples above it or is no
        density (a joint guide's), or when it is not in the data's plate.

    For diagonal Gaussians ``log_prob`` is one matrix product a block, in float64 whatever the dtype of the data, since
    the expanded square cancels.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyrarchy.inference import AggregatePosterior
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z1", dist.Normal(x / 2, 0.5**0.5).to_event(1))
    >>> q = AggregatePosterior(model, guide, torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
    >>> q.mean, q.variance, q.log_prob(torch.zeros(3, 2)).shape
    (tensor([0., 0.]), tensor([1.5000, 0.5000]), torch.Size([3]))
    """

    arg_constraints = {}  # noqa: RUF012  (torch's own name and form)
    support = constraints.real_vector

    def __init__(self, model, guide, data, site=None, batch_size=1000):
        args = data if isinstance(data, tuple) else (data,)
        self.num_data = len(args[0])
        self.components = []
        with isolated(model, guide, seed=0), buffers_kept(model, guide), torch.no_grad():
            for start in range(0, self.num_data, batch_size):
                rows = tuple(self._rows(a, slice(start, start + batch_size)) for a in args)
                self.site, q = _answer(model, guide, rows, site)
                self.components.append(q)
            example = q.sample()  # inside, where the generator is put back
        self._loc = self._scale = None
        if all(isinstance(innermost(q), torch.distributions.Normal) for q in self.components):
            inner = [(innermost(q), q.batch_shape + q.event_shape) for q in self.components]
            self._loc = torch.cat([q.loc.expand(shape) for q, shape in inner])
            self._scale = torch.cat([q.scale.expand(shape) for q, shape in inner])
            self._prepare()
        self._example = example[0]
        super().__init__(torch.Size(), self._example.shape, validate_args=False)

    def _rows(self, argument, rows):
        is_data = isinstance(argument, torch.Tensor) and argument.shape[:1] == (self.num_data,)
        return argument[rows] if is_data else argument

    def _prepare(self):
        """The mixture's log-densities as one affine map of (z^2, z), z centred: weights (N, 2D), offsets (N,)."""
        loc, scale = self._loc.double(), self._scale.double()
        self._centre = loc.mean(0)
        precision = scale**-2
        shift = loc - self._centre
        self._weights = torch.cat([-0.5 * precision, precision * shift], 1)
        constant = 0.5 * loc.shape[1] * math.log(2 * math.pi) + math.log(self.num_data)
        self._offsets = -0.5 * (precision * shift**2).sum(1) - scale.log().sum(1) - constant

    def log_prob(self, value):
        """Values (..., z_dim) to their exact log-density (...), nats: a sum over all N components."""
        if value.shape[-1:] != self.event_shape:
            raise ValueError(
                f"site '{self.site}': values of shape {tuple(value.shape)} do not end in the site's event shape "
                f"{tuple(self.event_shape)}"
            )
        z = value.reshape(-1, self.event_shape[-1])
        score = self._score_gaussian if self._loc is not None else self._score
        step = max(1, TABLE // min(self.num_data, 2**16))
        parts = [score(z[start : start + step]) for start in range(0, len(z), step)]
        out = torch.cat(parts) if parts else z.new_zeros(0)
        return out.reshape(value.shape[:-1]).to(value.dtype)

    def _score_gaussian(self, z):
        z = z.double() - self._centre
        features = torch.cat([z**2, z], 1)
        step = max(1, TABLE // len(z))
        total = None
        for start in range(0, self.num_data, step):
            rows = slice(start, start + step)
            part = torch.addmm(self._offsets[rows], features, self._weights[rows].T).logsumexp(1)
            total = part if total is None else torch.logaddexp(total, part)
        return total

    def _score(self, z):
        pairs = ((q, z.unsqueeze(1).expand(-1, q.batch_shape[0], -1)) for q in self.components)
        parts = [q.log_prob(value).logsumexp(1) for q, value in pairs]
        return torch.stack(parts).logsumexp(0) - math.log(self.num_data)

    def sample(self, sample_shape=()):
        """Draws (*sample_shape, z_dim): a datum at random, then a draw from its posterior."""
        sample_shape = torch.Size(sample_shape)
        picks = torch.randint(self.num_data, (sample_shape.numel(),))
        with torch.no_grad():
            out = self._draw_gaussian(picks) if self._loc is not None else self._draw(picks)
        return out.reshape(sample_shape + self.event_shape)

    def _draw_gaussian(self, picks):
        picks = picks.to(self._loc.device)
        return torch.normal(self._loc[picks], self._scale[picks])

    def _draw(self, picks):
        out = self._example.new_empty(len(picks), *self.event_shape)
        start = 0
        for q in self.components:
            size = q.batch_shape[0]
            here = ((picks >= start) & (picks < start + size)).nonzero().squeeze(-1)
            row = picks[here] - start
            start += size
            if len(here):  # the k-th pick of a row takes its k-th draw
                nth = torch.zeros_like(row)
                seen = {}
                for i, r in enumerate(row.tolist()):
                    nth[i] = seen.get(r, 0)
                    seen[r] = seen.get(r, 0) + 1
                out[here] = q.sample((max(seen.values()),))[nth, row]
        return out

    @property
    def mean(self):
        """(z_dim,)."""
        return self._moments()[0]

    @property
    def covariance_matrix(self):
        """(z_dim, z_dim): the mean of the covariances and the covariance of the means."""
        return self._moments()[1]

    @property
    def variance(self):
        """(z_dim,)."""
        return self.covariance_matrix.diagonal()

    def _moments(self):
        means, within = [], 0.0
        for q in self.components:
            try:
                means.append(q.mean.double())
                within = within + self._covariance(q).double() / self.num_data
            except NotImplementedError:
                raise ValueError(
                    f"site '{self.site}': {type(q).__name__} has no moments in closed form; estimate them from sample()"
                ) from None
        means = torch.cat(means)
        centred = means - means.mean(0)
        return means.mean(0).to(self._example.dtype), (within + centred.T @ centred / self.num_data).to(
            self._example.dtype
        )

    @staticmethod
    def _covariance(q):
        """Sum over a block's components of their covariances."""
        if hasattr(q, "covariance_matrix"):
            return q.covariance_matrix.sum(0)
        if isinstance(innermost(q), torch.distributions.Normal):
            return q.variance.sum(0).diag()
        raise NotImplementedError


def _plate_size(node):
    return next((f.size for f in node["cond_indep_stack"] if f.name == "data"), None)


def _answer(model, guide, rows, site):
    """Name of the site and the guide's distribution there, of batch shape (n,), or a ValueError that names the site."""
    (_, first), (model_trace, second) = (trace_pair(model, guide, rows) for _ in range(2))
    latents = [n for n, s in model_trace.nodes.items() if is_latent(s)]
    local = [n for n in latents if _plate_size(model_trace.nodes[n]) is not None]
    if site not in local and (site in latents or (site is None and not local)):
        which = f"site '{site}' lies" if site else f"the latents {latents} lie"
        remedy = f"Give site=, one of {local}" if local else "Judge it as a whole: evaluate, global_k_hat, loo"
        raise ValueError(
            f"{which} outside plate 'data': there is one posterior for all data, so no codes of single data and no average "
            f"over them. {remedy}."
        )
    if site is None and len(latents) == 1:
        (site,) = latents
    if site not in latents:
        raise ValueError(f"site {site!r} is no latent of the model: give site=, one of {latents}")
    if site not in first.nodes:
        raise ValueError(
            f"site '{site}' is not sampled by the guide, which has {[n for n in first.nodes if n in latents]}"
        )
    node, q = first.nodes[site], first.nodes[site]["fn"]
    if q.batch_shape != (_plate_size(node),) or len(q.event_shape) != 1:
        raise ValueError(
            f"site '{site}': its batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)} are not those "
            "of one vector per datum of plate 'data', the aggregate's components. Make a number a vector of one, "
            "Normal(loc.unsqueeze(-1), scale).to_event(1), and leave other plates out."
        )
    if isinstance(innermost(q), dist.Delta):
        raise ValueError(f"site '{site}': the guide has no density of its own there (a point mass, or a joint guide's)")
    # copies of the value: a flow remembers the inverse of the very object that it made
    if not torch.equal(*(fn.log_prob(node["value"].clone()) for fn in (q, second.nodes[site]["fn"]))):
        raise ValueError(
            f"site '{site}': q depends on the samples of other sites, so q({site} | x) is an integral over them and not "
            "at hand. Ask for a site whose q is given x alone (the top one of a top-down guide, z1 of a bottom-up one)."
        )
    return site, q
