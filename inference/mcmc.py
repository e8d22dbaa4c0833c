r"""The posterior of a model by Hamiltonian Monte Carlo (Pyro's NUTS): the reference that a guide is held against.

.. math:: z^{(1)}, z^{(2)}, \dots \to p(z \mid x; \theta)

No guide is involved, and the model's parameters theta stay as they are. The draws are Markov chains, so r_hat and ess mean
something: :func:`~pyrarchy.inference.summary` shows them here and never for a guide.

Source: Hoffman & Gelman (2014), https://arxiv.org/abs/1111.4246; r_hat and ess: Vehtari, Gelman, Simpson, Carpenter,
Burkner (2021), https://arxiv.org/abs/1903.08008.
"""

import time
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.poutine.util import prune_subsample_sites

from .arguments import blaming_data, whole
from .draw_plan import DrawPlan, as_numpy, squeezed
from .draws import Pair, sites_of, value_axes
from .groups import pack
from .isolation import isolated

GROUPS = ("posterior", "posterior_predictive", "log_likelihood", "sample_stats", "observed_data")


@dataclass
class MCMCResult:
    """Chains of draws from p(z | x).

    :ivar dict samples: latent site -> draws, (chains, draws, ...), on the site's own support.
    :ivar diverging: (chains, draws) bool: whether the step to this draw diverged; any at all is a warning.
    :ivar accept: (chains, draws) mean acceptance probability of the step's trajectory.
    :ivar step_size: (chains,) leapfrog step after the warm-up.
    :ivar int warmup: steps before the first draw, which are not kept.
    :ivar int seed: seed of the chains.
    :ivar float seconds: wall time of all chains.
    """

    samples: dict
    diverging: np.ndarray
    accept: np.ndarray
    step_size: np.ndarray
    warmup: int
    seed: int
    seconds: float

    @property
    def num_chains(self):
        """Number of chains."""
        return self.diverging.shape[0]

    @property
    def num_samples(self):
        """Draws per chain."""
        return self.diverging.shape[1]


def run_nuts(model, *args, num_samples=1000, warmup=500, chains=4, seed=0, target_accept=0.9, progress=False, **kwargs):
    """Sample the posterior of every latent site by NUTS, one chain after the other in this process.

    Parameter store, random generators and train/eval modes are left as they were, and so is every parameter. A chain
    depends on the seed and its own number alone: the first of four is the only one of one.

    :param model: the model; it runs in eval mode on ``*args`` and ``**kwargs``.
    :param int num_samples: draws kept per chain. ``warmup``: steps before them, in which step size and mass adapt.
    :param int chains: independent chains, each from its own random start; r_hat needs two at least.
    :param float target_accept: acceptance probability that the step size is adapted to; raise it against divergences.
    :param bool progress: whether to show Pyro's progress bars.
    :returns: :class:`MCMCResult`; :func:`mcmc_inference_data` packs it for ArviZ.
    :raises ValueError: for a discrete or a subsampled site (by name), a model without latents, or numbers below one.

    >>> import torch, pyro, pyro.distributions as dist
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> result = run_nuts(model, torch.tensor(2.0), num_samples=30, warmup=20, chains=2)
    >>> tuple(result.samples["mu"].shape), result.diverging.shape
    ((2, 30), (2, 30))
    """
    num_samples, warmup, chains = whole("num_samples", num_samples), whole("warmup", warmup), whole("chains", chains)
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept must lie in (0, 1), not {target_accept!r}")
    started, runs = time.perf_counter(), []
    with isolated(model, model, seed=seed), torch.enable_grad(), blaming_data(args, model, model):
        _check(model, args, kwargs)
        for chain_seed in np.random.SeedSequence(seed).generate_state(chains):
            pyro.set_rng_seed(int(chain_seed))
            runs.append(_chain(model, args, kwargs, num_samples, warmup, target_accept, progress))
    samples, diverging, accept, step_size = zip(*runs, strict=True)
    return MCMCResult(
        samples={name: torch.stack([s[name] for s in samples]) for name in samples[0]},
        diverging=np.stack(diverging),
        accept=np.stack(accept),
        step_size=np.array(step_size),
        warmup=warmup,
        seed=seed,
        seconds=time.perf_counter() - started,
    )


def _check(model, args, kwargs):
    """Refuse what NUTS cannot sample, naming the site; runs with Pyro's validation, which the chains do without."""
    with pyro.validation_enabled(True), torch.no_grad():
        full = poutine.trace(model).get_trace(*args, **kwargs)
    latents = sites_of(prune_subsample_sites(full), "latent")
    if not latents:
        raise ValueError("the model has no latent site to sample")
    discrete = [name for name, site in latents.items() if _is_discrete(site["fn"])]
    if discrete:
        raise ValueError(
            f"site(s) {discrete} are discrete, and NUTS follows gradients: sum them out of the model, or use a guide "
            "with the estimator 'vimco'"
        )
    if auxiliary := list(sites_of(full, "auxiliary")):
        raise ValueError(
            f"site(s) {auxiliary} are auxiliary likelihoods, which NUTS would take for further data: it would not sample "
            "p(z | x). Sample a model that observes x once."
        )
    for site in full.nodes.values():
        for frame in site.get("cond_indep_stack", ()):
            if frame.full_size is not None and frame.full_size != frame.size:
                raise ValueError(
                    f"site '{site['name']}' lies in the subsampled plate '{frame.name}': the density would change from "
                    "step to step. Give NUTS the whole data."
                )


def _is_discrete(fn):
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:  # a mixture does not know its support
        return False


def _chain(model, args, kwargs, num_samples, warmup, target_accept, progress):
    """One chain: site -> (draws, ...), diverging (draws,), accept (draws,), step size."""
    means = []

    def keep(kernel, samples, stage, i):
        if "warmup" not in stage.lower():
            means.append(getattr(kernel, "_mean_accept_prob", np.nan))  # Pyro keeps the running mean alone

    kernel = NUTS(model, target_accept_prob=target_accept)
    sampler = MCMC(
        kernel, num_samples, warmup, num_chains=1, hook_fn=keep, disable_progbar=not progress, disable_validation=True
    )
    sampler.run(*args, **kwargs)
    diverging = np.zeros(num_samples, bool)
    diverging[[i for i in sampler.diagnostics()["divergences"]["chain 0"] if i < num_samples]] = True
    sums = np.array(means) * np.arange(1, num_samples + 1)
    accept = np.clip(np.diff(sums, prepend=0.0), 0.0, 1.0)
    samples = {name: value.detach() for name, value in sampler.get_samples().items()}
    return samples, diverging, accept, float(kernel.step_size)


class _Chains(Pair):
    """The draws of chains as those of a pair: each pass is the model at the next draws."""

    def __init__(self, model, args, kwargs, plates, samples):
        self.samples = {name: value.flatten(0, 1) for name, value in samples.items()}
        self.next, self.event_dims = 0, None
        super().__init__(model, model, args, kwargs, plates)
        latents = sites_of(self.model_trace, "latent")
        for name in sorted(set(latents) ^ set(self.samples)):
            raise ValueError(
                f"site '{name}' is in {'the model' if name in latents else 'the chains'} alone: give the model that was "
                "sampled from"
            )
        for name, site in latents.items():
            if site["fn"].shape() != self.samples[name].shape[1:]:
                raise ValueError(
                    f"site '{name}' has shape {tuple(site['fn'].shape())} in the model, "
                    f"{tuple(self.samples[name].shape[1:])} in the chains: give the arguments that were sampled with"
                )
        self.event_dims = {name: site["fn"].event_dim for name, site in latents.items()}

    def posterior(self, num):
        """Traces of one pass at the next ``num`` draws (at the first one while the pair is set up)."""
        if self.event_dims is None:
            trace = self.forward(1, {name: value[0] for name, value in self.samples.items()})
            return trace, trace
        chosen = {name: value[self.next : self.next + num] for name, value in self.samples.items()}
        self.next += num
        values = {n: v[0] if num == 1 else self._on_the_plate(n, v) for n, v in chosen.items()}
        trace = self.forward(num, values)
        return trace, trace

    def _on_the_plate(self, name, value):
        """(num, batch..., event...) with an axis for each plate of the model that the site is not in."""
        batch = value.shape[1 : value.dim() - self.event_dims[name]]
        event = value.shape[value.dim() - self.event_dims[name] :]
        return value.reshape(len(value), *[1] * (self.plates - len(batch)), *batch, *event)


@torch.no_grad()
def mcmc_inference_data(
    model, args, result, kwargs=None, *, plates=1, coords=None, dims=None, byte_limit=2 * 1024**3, groups=None
):
    """Pack chains for ArviZ, in the groups of :func:`~pyrarchy.inference.to_inference_data`.

    The model runs once more at every draw, which gives the deterministic sites, the log-likelihood and the posterior
    predictive. In ``sample_stats``: ``lp`` = log p(x, z) in nats, on the sites' own support (as for a guide's draws,
    without the Jacobian of NUTS's unconstrained space), ``diverging`` and ``acceptance_rate``. The draws are of the
    posterior, so ``az.loo`` of this is right (unlike that of a guide's draws).

    :param model, args, kwargs: as they were given to :func:`run_nuts`; ``args`` a tuple.
    :param MCMCResult result: its chains.
    :param int plates: nested vectorised plates of the model; ``None`` runs it at one draw at a time.
    :param dict coords: dim -> labels. ``dims``: site -> names of its axes after the draws. Both override the plates'.
    :param int byte_limit: refuse to allocate more than this.
    :param groups: names from :data:`GROUPS`; all of them by default.
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x), with a real ``chain``.
    :raises ValueError: for another model or other arguments than the chains', an unknown group, or too large a result.
    """
    if not isinstance(args, tuple | list):
        raise TypeError(f"args must be a tuple of arguments, got {type(args).__name__}: write (x,)")
    if unknown := sorted(set(groups or ()) - set(GROUPS)):
        raise ValueError(f"unknown group(s) {unknown}; there are {list(GROUPS)}")
    wanted, size = set(groups or GROUPS), result.diverging.size
    with isolated(model, model, seed=result.seed):
        pair = _Chains(model, tuple(args), dict(kwargs or {}), plates, result.samples)
        plan = DrawPlan(pair, wanted, dims or {})
        plan.check_bytes(size, byte_limit)
        arrays = plan.fill(size)
    out = {group: {} for group in GROUPS}
    for (group, name), value in arrays.items():
        if group != "sample_stats" or name == "lp":  # the weights of a guide, which there is none of
            out[group][name] = value
    if "sample_stats" in wanted:
        out["sample_stats"] |= {"diverging": result.diverging.ravel(), "acceptance_rate": result.accept.ravel()}
    if "observed_data" in wanted:
        for name, site in sites_of(pair.model_trace, "data").items():
            shape, _ = squeezed(value_axes(site), site["value"].shape)
            out["observed_data"][name] = as_numpy(site["value"]).reshape(shape)
    labels = {name: as_numpy(torch.as_tensor(value)) for name, value in pair.indices.items()}
    attrs = {
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
        "sampler": "NUTS",
        "draws_of": "posterior",
        "warmup": result.warmup,
        "seed": result.seed,
        "sampling_time": result.seconds,
    }
    return pack(out, plan.dims, {**labels, **(coords or {})}, attrs, chains=result.num_chains)
