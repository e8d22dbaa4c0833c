r"""The marginal-KL objective: reconstruct, and match the prior on average only. It is *no* bound on log p(x).

.. math:: E_{q(z|x)}[\log p(x | z)] - KL(q(z) \| p(z)) = \mathrm{ELBO} + I_q(n; z), \qquad
          q(z) = \frac1N \sum_n q(z | x_n)

The average over data of the ELBO, without the information's cost. With an exact posterior it exceeds log p(x) by the
information, up to ln N nats: an autoencoder whose codes' distribution is held to the prior.

Source: Makhzani et al. (2016), Adversarial autoencoders, https://arxiv.org/abs/1511.05644 (which matches q(z) by a
discriminator); Hoffman & Johnson (2016), ELBO surgery.
Differs from the papers: q(z) is the exact mixture over the minibatch, or over all data by a weighting of the minibatch as
in Chen et al. (2018), https://arxiv.org/abs/1802.04942.
"""

import torch

from .elbo import KLBound
from .one_site import innermost


class MarginalKL(KLBound):
    """log_lik minus log q(z) + log p(z), q(z) the mixture over the rows of the batch. Not a lower bound.

    :param int num_particles: draws for each datum.
    :param int num_data: N, the rows of the whole data set: the mixture over the batch is then weighted to stand for that
        over all of them, 1 / N for a draw's own row, the rest shared by the others. ``None``: the batch is the data.
    :raises ValueError: naming the sites, for a pair with more than one latent.

    With a batch of B rows the information counts for ln B nats at most.
    """

    is_lower_bound = False

    def __init__(self, num_particles=1, plates=1, estimator=None, num_data=None):
        super().__init__(num_particles, plates, estimator)
        if num_data is not None and not (isinstance(num_data, int) and num_data >= 1):
            raise ValueError(f"num_data must be the number of rows of the data set, not {num_data!r}")
        self.num_data = num_data

    def check(self, terms):
        super().check(terms)
        sites = terms.paired_sites()
        if len(sites) != 1 or terms.layout.data_dim is None:
            raise ValueError(
                f"the marginal KL is defined for one latent of plate 'data', and the pair has {sites}: the aggregate of "
                "several is no mixture of densities at hand. Use ELBO."
            )
        if self.num_data is not None and self.num_data < terms.layout.batch:
            raise ValueError(f"num_data is {self.num_data}, fewer than the {terms.layout.batch} rows of the batch")

    def reduce(self, terms):
        """Mean over particles of log_lik + log p(z) - log q(z); (B,). Rows share q(z)."""
        (name,) = terms.paired_sites()
        value = sum(terms.tempered(n, v) for n, v in terms.log_obs.items())
        return (value - terms.tempered(name, self.log_aggregate(terms, name) - terms.log_p[name])).mean(0)

    def log_aggregate(self, terms, name):
        """log q(z) at the draws, (K, B)."""
        k, batch = terms.layout.num_particles, terms.layout.batch
        scores = _pairwise(
            terms.q[name], terms.values[name], k, batch
        )  # entry (k, b, j): draw of row b under row b + j
        n = self.num_data or batch
        own, other = (1.0, 0.0) if batch == 1 else (1 / n, (n - 1) / (n * (batch - 1)))
        weights = scores.new_full((batch,), other)
        weights[0] = own
        return (scores + weights.log()).logsumexp(-1)


def _pairwise(q, z, k, batch):
    """log q(z_kb | x_{b+j}) as (K, B, B), the own row (j = 0) first."""
    event = q.event_shape
    z = z.reshape(k, batch, *event)
    if isinstance(innermost(q), torch.distributions.Normal):  # all pairs at once
        full = q.batch_shape + event
        rows = (full.numel() // (batch * event.numel()), 1, batch, *event)  # the batch is scored, draws on the left
        loc, scale = (t.expand(full).reshape(rows) for t in (innermost(q).loc, innermost(q).scale))
        density = torch.distributions.Normal(loc, scale, validate_args=False).log_prob(z.unsqueeze(2))
        table = density.flatten(3).sum(-1) if event else density
        columns = (torch.arange(batch).unsqueeze(1) + torch.arange(batch)) % batch
        return table.gather(2, columns.to(table.device).expand(k, -1, -1))
    turned = (q.log_prob(z.roll(j, 1)).reshape(k, batch).roll(-j, 1) for j in range(batch))
    return torch.stack(list(turned), -1)
