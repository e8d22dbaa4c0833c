r"""ELBO surgery: what the average KL of a layer is spent on, telling data apart or missing the prior.

.. math:: \frac1N \sum_n KL(q(z | x_n) \| p(z)) = I_q(n; z) + KL(q(z) \| p(z)), \qquad
          q(z) = \frac1N \sum_n q(z | x_n), \quad I_q(n; z) \le \ln N

The first term is the information that a code has about which datum it came from; the second is what makes samples from the
prior differ from samples of codes. All three are means over the same draws, with the finite mixture q(z) evaluated
exactly: no classifier, and the identity holds to rounding.

Source: Hoffman & Johnson (2016), ELBO surgery, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf; Rosca,
Lakshminarayanan & Mohamed (2018), Distribution matching in variational inference, https://arxiv.org/abs/1802.06847.
"""

import math
from dataclasses import dataclass

import torch

from .aggregate import AggregatePosterior
from .isolation import isolated
from .preflight import check_rows_known
from .terms import make_terms, trace_pair

NEAR_CAP = 0.95


@dataclass(frozen=True)
class Surgery:
    """The three terms of a layer, nats per datum, and their Monte Carlo errors for the data given.

    :ivar str site: the layer.
    :ivar float average_kl, information, marginal_kl: the first is the sum of the others.
    :ivar tuple errors: standard errors of the three, in that order, from the draws.
    :ivar int num_data, num_samples: N and S, the draws for each datum.
    """

    site: str
    average_kl: float
    information: float
    marginal_kl: float
    errors: tuple
    num_data: int
    num_samples: int

    @property
    def cap(self):
        """ln N, the most that the information can be."""
        return math.log(self.num_data)

    @property
    def near_cap(self):
        """Whether the information is above 95 % of ln N: it then measures N and would rise with more data."""
        return self.num_data > 1 and self.information > NEAR_CAP * self.cap

    def table(self):
        """The terms as text, one line each, and a sentence where the information is near its cap."""
        names = ("average KL(q(z | x) || p(z))", "information I_q(n; z)", "marginal KL(q(z) || p(z))")
        values = (self.average_kl, self.information, self.marginal_kl)
        lines = [f"layer {self.site}: {self.num_data} data, {self.num_samples} draws each; nats per datum"]
        rows = zip(names, values, self.errors, strict=True)
        lines += [f"{name:<30}{value:>10.4f} +- {error:.4f}" for name, value, error in rows]
        lines.append(f"{'ln N, cap of the information':<30}{self.cap:>10.4f}")
        if self.near_cap:
            lines.append(
                "The information is near ln N: each code tells its datum apart from all others, so this is a statement "
                "about N. More data would raise it and lower the marginal KL."
            )
        return "\n".join(lines)

    def figures(self):
        """Plain numbers, for a JSON file."""
        names = ("average_kl", "information", "marginal_kl")
        out = {n: getattr(self, n) for n in names} | {f"{n}_error": e for n, e in zip(names, self.errors, strict=True)}
        return out | {"site": self.site, "cap": self.cap, "num_data": self.num_data, "num_samples": self.num_samples}


def surgery(model, guide, data, site=None, *, num_samples=10, seed=0, rows_per_pass=2000):
    """Cut the average KL of a layer in two.

    :param data: tensor (N, ...) or tuple of aligned tensors, the model's arguments: all data of the aggregate posterior.
    :param str site: a latent whose q is given x alone and whose prior is one density for all data: the top layer of a
        hierarchy. May be left out where the model has one latent.
    :param int num_samples: S >= 2 draws for each datum. The cost grows as S N^2.
    :param int rows_per_pass: S x data in a pass.
    :returns: :class:`Surgery`.
    :raises ValueError: naming the site, when its q(z | x) is no density at hand
        (:class:`~pyrarchy.inference.AggregatePosterior`), or when its prior depends on layers above or on the data. Then
        p(z) is an integral; :func:`index_code_information` needs none.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z1", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z1", dist.Normal(x, 0.01).to_event(1))
    >>> found = surgery(model, guide, torch.tensor([[-1.0], [1.0]]))
    >>> round(found.information, 4), round(found.cap, 4), found.near_cap
    (0.6931, 0.6931, True)
    """
    q = AggregatePosterior(model, guide, data, site)
    args = data if isinstance(data, tuple) else (data,)
    own, mixed, prior = _scores(model, guide, args, q, num_samples, seed, rows_per_pass, with_prior=True)
    terms = (own - prior, own - mixed, mixed - prior)
    means, errors = zip(*(_mean_and_error(term) for term in terms), strict=True)
    return Surgery(q.site, *means, errors, q.num_data, num_samples)


def index_code_information(model, guide, data, site=None, *, num_samples=10, seed=0, rows_per_pass=2000):
    """I_q(n; z) of a layer and its Monte Carlo error, in nats: it needs q(z | x) alone, so lower layers have it, too.

    Arguments as for :func:`surgery`, whose demand on the prior is not made here.
    """
    q = AggregatePosterior(model, guide, data, site)
    args = data if isinstance(data, tuple) else (data,)
    own, mixed, _ = _scores(model, guide, args, q, num_samples, seed, rows_per_pass, with_prior=False)
    return _mean_and_error(own - mixed)


def _scores(model, guide, args, q, num, seed, rows_per_pass, with_prior):
    """log q(z | x_n), log q(z) and log p(z) at S draws for each of N data: (S, N) each, float64."""
    if num < 2:
        raise ValueError(f"num_samples must be at least 2 for an error, not {num}")
    rows, parts = max(1, rows_per_pass // num), []
    with isolated(model, guide, seed=seed), torch.no_grad():
        for start in range(0, q.num_data, rows):
            part = tuple(q._rows(a, slice(start, start + rows)) for a in args)
            traces = trace_pair(model, guide, part, num_particles=num)
            check_rows_known(guide, traces[0].nodes)
            terms = make_terms(*traces, num_particles=num)
            z = terms.values[q.site]
            if with_prior:
                _check_common(terms.p[q.site], z, q.site)
            parts.append([t.double() for t in (terms.log_q[q.site], q.log_prob(z), terms.log_p[q.site])])
    return [torch.cat(column, 1) for column in zip(*parts, strict=True)]


def _check_common(prior, z, site):
    """Other draws of other data must have the same log-density under the site's prior as in their own places."""
    if not torch.allclose(prior.log_prob(z), prior.log_prob(z.flip(0, 1)).flip(0, 1), rtol=1e-4, atol=1e-4):
        raise ValueError(
            f"site '{site}': its prior is not the same for all data (it depends on latents above it, or on the data), so "
            f"p({site}) is an integral and its marginal KL is not at hand. Give the top site; index_code_information "
            "needs no prior."
        )


def _mean_and_error(term):
    """Mean of (S, N), and its error from the spread of the draws within each datum."""
    num, n = term.shape
    return term.mean().item(), math.sqrt(term.var(0).sum().item() / num) / n
