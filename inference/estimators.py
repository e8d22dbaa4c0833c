r"""How a bound's gradient is formed. The value reported is the bound, whatever the estimator.

With :math:`w_k = \partial f / \partial \log w_k` for a bound f of the log-weights (for L_K the normalised weights), held
constant, live densities :math:`p_1, q_1` and frozen ones :math:`p_2, q_2` (see :mod:`~pyrarchy.inference.freeze`), the
surrogates per datum, summed over particles, are

================  =========================================================  ==================================
plain             :math:`w\,(p_1 - q_1)`                                     what autograd gives
STL               :math:`w\,(p_1 - q_2)`                                     unbiased where f is linear (K = 1)
DReG              :math:`w\,(p_1 - p_2) + (w - h)\,(p_2 - q_2)`              unbiased
RWS-DReG          :math:`w\,(p_1 - p_2) + h\,(p_2 - q_2)`                    the wake gradient, reparameterised
wake-phi          :math:`w\,(p_1 - p_2) + w\,(q_1 - q_2)`                    the guide minimises KL(p || q)
sleep-phi         :math:`w\,(p_1 - p_2) + \log q(z' | x')`                   z', x' dreamed by the model
================  =========================================================  ==================================

where h is the second derivative :math:`\partial^2 f / \partial \log w_k^2`; for L_K, :math:`w - h = w^2`. theta always
follows its bound.

Source: Roeder, Wu & Duvenaud (2017), https://arxiv.org/abs/1703.09194 (STL); Tucker et al. (2018),
https://arxiv.org/abs/1810.04152 (DReG); Bornschein & Bengio (2015), https://arxiv.org/abs/1406.2751 (wake-sleep).
"""

from .one_site import reweighted_path, score, single_site


class Estimator:
    """Base: a surrogate whose gradient is the estimate; see :meth:`surrogate`."""

    name = "estimator"
    reparameterised = True
    takes_auxiliary = False  # whether auxiliary terms can be added: their gradient reaches the guide through z

    def check(self, bound, terms):
        """Refuse a bound or a pair for which the estimate would be wrong; the reason names it."""
        if self.reparameterised:
            rough = sorted(name for name, q in terms.q.items() if not q.has_rsample)
            if rough:
                raise ValueError(
                    f"site(s) {rough} have no reparameterised sampler ({type(terms.q[rough[0]]).__name__}), so the "
                    "guide's gradient would be lost. Use estimator='vimco' or 'score' (or Pyro's TraceEnum_ELBO with a "
                    "plain guide, to sum discrete sites out)."
                )

    def check_coupled(self, bound, terms, names):
        """Refuse a pair whose parts ``names`` make one datum's log-weights depend on the draws of the others."""
        raise ValueError(
            f"estimator '{self.name}' weighs the path of each draw by its own weight, but the batch normalisation(s) "
            f"{names} read latents in training mode, so that every weight depends on the draws of the whole batch: the "
            "gradient would be biased. Use estimator='plain', or normalise only what reads the data."
        )

    def is_plain(self, bound):
        """Whether the surrogate is the bound itself."""
        return False

    def surrogate(self, bound, terms, run):
        """A tensor (B,) whose gradient estimates the bound's; its value is of no use.

        :param Bound bound: the objective.
        :param Terms terms: the live table.
        :param Run run: what made the table, to run the pair again.
        """
        raise TypeError(f"{type(self).__name__} must override surrogate(bound, terms, run)")

    def __repr__(self):
        return self.name


def log_p(terms):
    """log p(x, z), (K, B)."""
    return terms.log_lik + sum(terms.log_p.values())


def log_q(terms):
    """log q(z | x), (K, B)."""
    return sum(terms.log_q.values())


class Plain(Estimator):
    """The reparameterised gradient: autograd through the bound itself (for PIWAE, through both of its bounds)."""

    name = "plain"
    takes_auxiliary = True

    def is_plain(self, bound):
        return not getattr(bound, "split", False)

    def surrogate(self, bound, terms, run):
        if self.is_plain(bound):
            return bound.reduce(terms)
        log_w = terms.log_w.detach()
        w, v = bound.gradient(log_w), bound.gradient(log_w, guide=True)
        name = None if run.watch is None else single_site(terms, run.watch)
        if name is not None:
            return reweighted_path(terms, run.watch, name, w, v) - (v * score(terms, name)).sum(0)
        still = run.freeze(terms)
        return (w * (log_p(terms) - log_p(still)) + v * (log_p(still) - log_q(terms))).sum(0)


class WeightEstimator(Estimator):
    """Base of estimators for bounds that are functions of the log-weights."""

    def check(self, bound, terms):
        super().check(bound, terms)
        if not hasattr(bound, "of_weights") or terms.is_tempered:
            what = (
                "under a temperature" if hasattr(bound, "of_weights") else "which is no function of the weights alone"
            )
            raise ValueError(f"estimator '{self.name}' does not apply to {bound!r}, {what}; use estimator='plain'")
        if bound.kinked:
            raise ValueError(
                f"estimator '{self.name}' differentiates the weights of {bound!r}, which jump where the largest changes: "
                "it would be biased. Use estimator='plain'."
            )

    def surrogate(self, bound, terms, run):
        log_w = terms.log_w.detach()
        w, v = bound.gradient(log_w), bound.gradient(log_w, guide=True)
        path = self.path(bound, log_w, v)
        name = None if path is None or run.watch is None else single_site(terms, run.watch)
        if name is not None:
            return reweighted_path(terms, run.watch, name, w, path)
        return self.combine(w, v, path, terms, run.freeze(terms)).sum(0)

    def path(self, bound, log_w, v):
        """Weights (K, B) of the path through z, or ``None`` where the guide does not follow the path."""
        return None

    def combine(self, w, v, path, live, still):
        """The surrogate (K, B) from theta's weights ``w``, phi's ``v``, the path's, and the two tables."""
        return w * (log_p(live) - log_p(still)) + path * (log_p(still) - log_q(still))


class STL(WeightEstimator):
    """Sticking the landing: no score of q in the path. Biased for K > 1 (the score's mean is then not zero)."""

    name = "stl"
    takes_auxiliary = True

    def check_coupled(self, bound, terms, names):
        # A linear bound weighs all draws alike, and the score that is left out has mean zero over the whole batch.
        if bound.curvature(terms.log_w.detach()).any():
            super().check_coupled(bound, terms, names)

    def path(self, bound, log_w, v):
        return v


class DReG(WeightEstimator):
    """Doubly reparameterised: unbiased for every smooth bound, and zero for every sample where q is the posterior."""

    name = "dreg"
    takes_auxiliary = True

    def path(self, bound, log_w, v):
        return v - bound.curvature(log_w)


class RWSDReG(WeightEstimator):
    """The wake-phi gradient, doubly reparameterised."""

    name = "rws-dreg"

    def check(self, bound, terms):
        super().check(bound, terms)
        _check_wake(self, bound)

    def path(self, bound, log_w, v):
        return bound.curvature(log_w)


class WakePhi(WeightEstimator):
    """Wake-phi: the guide follows sum_k w_k grad log q(z_k), z held constant, which minimises KL(p || q)."""

    name = "wake"
    reparameterised = False

    def check(self, bound, terms):
        super().check(bound, terms)
        _check_wake(self, bound)

    def combine(self, w, v, path, live, still):
        return w * (log_p(live) - log_p(still)) + v * (log_q(live) - log_q(still))


class SleepPhi(WeightEstimator):
    """Sleep-phi: the guide is trained on latents and data dreamed by the model; theta follows its bound."""

    name = "sleep"
    reparameterised = False

    def combine(self, w, v, path, live, still):
        return w * (log_p(live) - log_p(still))

    def surrogate(self, bound, terms, run):
        return super().surrogate(bound, terms, run) + run.dream() / terms.layout.batch


def _check_wake(estimator, bound):
    if bound.num_particles < 2 or not bound.normalised:
        raise ValueError(
            f"estimator '{estimator.name}' weights log q by normalised importance weights, which needs L_K or MIWAE with "
            f"K >= 2, not {bound!r}: with one sample the weight is constant and the gradient has mean zero"
        )


class Score(WeightEstimator):
    """The score function, with the other particles' mean as baseline (leave one out): for discrete sites.

    Sites with a reparameterised sampler keep their path; K >= 2, because the baseline is made of the others.
    """

    name = "score"
    reparameterised = False

    def check(self, bound, terms):
        Estimator.check(self, bound, terms)
        if not hasattr(bound, "of_weights"):  # one that a temperature would spoil has refused it by itself
            raise ValueError(f"estimator '{self.name}' needs a bound of the weights, not {bound!r}")
        if bound.num_particles < 2:
            raise ValueError(f"estimator '{self.name}' takes its baseline from the other particles: give K >= 2")

    def advantage(self, bound, log_w):
        """What each particle's score is multiplied by: (K, B)."""
        k = len(log_w)
        mean_of_others = (log_w.sum(0) - log_w) / (k - 1)
        return bound.of_weights_for_guide(log_w) - bound.of_each_replaced(log_w, mean_of_others)

    def surrogate(self, bound, terms, run):
        rough = [name for name, q in terms.q.items() if not q.has_rsample]
        direct = Plain().surrogate(bound, terms, run)
        if not rough:
            return direct
        gain = self.advantage(bound, terms.tempered_log_w().detach())
        return direct + (gain * sum(terms.log_q[name] for name in rough)).sum(0)


class VIMCO(Score):
    """The score function on L_K with the leave-one-out bound as baseline.

    Each particle's weight is replaced by the geometric mean of the others in its baseline.

    Source: Mnih & Rezende (2016), https://arxiv.org/abs/1602.06725.
    """

    name = "vimco"

    def check(self, bound, terms):
        super().check(bound, terms)
        _check_wake(self, bound)


ESTIMATORS = {kind.name: kind for kind in (Plain, STL, DReG, RWSDReG, WakePhi, SleepPhi, Score, VIMCO)}


def make_estimator(estimator):
    """An estimator by name or as it is; ``None`` is the plain one. Unknown names list the valid ones."""
    if estimator is None:
        return Plain()
    if isinstance(estimator, Estimator):
        return estimator
    if estimator not in ESTIMATORS:
        raise ValueError(f"no estimator is called {estimator!r}; there are {', '.join(ESTIMATORS)}")
    return ESTIMATORS[estimator]()
