"""What every estimate of log p(x) by a mean of weights says of itself: its mean over the data, and two errors.

Another seed changes the weights (:attr:`MeanWeight.error_weights`), other data the mean as well
(:attr:`MeanWeight.error_log_p`). The log of a mean is biased by minus half the square of its error.
"""

from .log_weights import error_of_log_mean, error_of_mean, error_over_data


class MeanWeight:
    """Base of figures with ``log_p`` (N,) in nats, ``ess`` (N,), and ``num_weights``, the K weights behind each."""

    @property
    def mean_log_p(self):
        """Mean of log p(x) over the data, nats per datum."""
        return float(self.log_p.mean())

    @property
    def error_log_p(self):
        """Standard error of :attr:`mean_log_p` over the data; NaN for one datum."""
        return error_over_data(self.log_p)

    @property
    def errors_weights(self):
        """Monte Carlo standard error of each datum's ``log_p``, (N,) nats, by the delta method; NaN for K = 1.

        Where the weights have no variance (k-hat above .7) it is too small.
        """
        return error_of_log_mean(self.ess, self.num_weights)

    @property
    def error_weights(self):
        """Monte Carlo standard error of :attr:`mean_log_p` at the data given: what another seed would change."""
        return error_of_mean(self.errors_weights)
