"""Objectives by name, as the command line and run folders write them: ``elbo``, ``iwae:50``, ``renyi:0.5:10`` ..."""

import math

MOST = 10**6  # of any argument: what is beyond overflows later, in other words

# name -> (class in pyrarchy.inference, types of its arguments, what it is)
OBJECTIVES = {
    "elbo": ("ELBO", ((int, "particles", 1),), "the evidence lower bound, sampled KL"),
    "analytic": ("AnalyticELBO", ((int, "particles", 1),), "the ELBO with each KL in closed form"),
    "iwae": ("ImportanceWeighted", ((int, "K", None),), "the importance-weighted bound"),
    "renyi": ("Renyi", ((float, "alpha", None), (int, "K", 1)), "the variational Renyi bound"),
    "vrmax": ("VRMax", ((int, "K", None),), "the largest weight; not a lower bound"),
    "freebits": (
        "FreeBits",
        ((float, "nats", None), (int, "particles", 1)),
        "the ELBO with a floor on each layer's KL",
    ),
    "miwae": ("MIWAE", ((int, "M", None), (int, "K", None)), "the mean of M bounds of K samples"),
    "piwae": ("PIWAE", ((int, "M", None), (int, "K", None)), "the model on M K samples, the guide on miwae"),
    "ciwae": ("CIWAE", ((float, "beta", None), (int, "K", None)), "beta ELBO + (1 - beta) iwae"),
    "tvo": ("Thermodynamic", ((int, "intervals", None), (int, "K", None)), "the thermodynamic objective, left sum"),
    "marginal": (
        "MarginalKL",
        ((int, "particles", 1),),
        "the prior matched by the batch's average posterior alone; not a lower bound",
    ),
    "jackknife": ("Jackknife", ((int, "K", None),), "iwae with its first-order bias off; not a lower bound"),
    "trace_elbo": (
        "Trace_ELBO",
        ((int, "particles", 1),),
        "Pyro's own ELBO: takes a subsampled plate where global and local latents mix",
    ),
}

# Objectives of Pyro's: they form their gradient themselves and know no temperature.
OF_PYRO = ("trace_elbo",)

# How a gradient is formed; pyrarchy.inference.estimators has the same names.
ESTIMATORS = ("plain", "stl", "dreg", "rws-dreg", "wake", "sleep", "score", "vimco")


# Bounds over importance weights: under a temperature they would bound another quantity than log p(x).
OVER_WEIGHTS = ("iwae", "renyi", "vrmax", "miwae", "piwae", "ciwae", "tvo", "jackknife")


def _form(name):
    """How an objective is written: ``renyi:alpha[:K]``."""
    return name + "".join(
        f":{label}" if default is None else f"[:{label}]" for _, label, default in OBJECTIVES[name][1]
    )


def describe_objectives():
    """One line per objective: how to write it and what it is."""
    return "\n".join(f"{_form(name):<28}{what}" for name, (_, _, what) in OBJECTIVES.items())


def parse_objective(text):
    """Name and arguments of an objective, checked without importing torch.

    :returns: (class name, list of arguments).
    :raises ValueError: for an unknown name (the valid ones are listed) or wrong arguments.

    >>> parse_objective("iwae:50")
    ('ImportanceWeighted', [50])
    """
    name, *given = text.split(":")
    if name not in OBJECTIVES:
        raise ValueError(f"no objective is called '{name}'. The objectives are: {', '.join(map(_form, OBJECTIVES))}")
    class_name, arguments, _ = OBJECTIVES[name]
    form = _form(name)
    if len(given) > len(arguments):
        raise ValueError(f"objective '{text}' has too many parts: write {form}")
    values = []
    for (kind, label, default), part in zip(arguments, [*given, *[None] * (len(arguments) - len(given))], strict=True):
        if part is None and default is None:
            raise ValueError(f"objective '{text}' lacks {label}: write {form}")
        try:
            values.append(default if part is None else kind(part))
            if not math.isfinite(values[-1]):
                raise ValueError
        except (ValueError, OverflowError):
            needed = "a whole number" if kind is int else "a number"
            raise ValueError(f"objective '{text}': {label} must be {needed}, not '{part}'") from None
        if kind is int and values[-1] < 1:
            raise ValueError(f"objective '{text}': {label} must be at least 1")
        if kind is int and values[-1] > MOST:
            raise ValueError(f"objective '{text}': {label} must be at most {MOST}")
        if abs(values[-1]) > MOST:
            raise ValueError(f"objective '{text}': {label} must be from -1e6 to 1e6")
    return class_name, values


def make_objective(text, estimator=None):
    """The objective that a text names: a :class:`~pyrarchy.inference.Bound`, or one of Pyro's own (:data:`OF_PYRO`).

    :param str estimator: how its gradient is formed, one of :data:`ESTIMATORS`; the plain one by default.
    :raises ValueError: for a text that names none, and an estimator that its objective has no use for.
    """
    class_name, arguments = parse_objective(text)
    if text.split(":")[0] in OF_PYRO:
        if estimator not in (None, "plain"):
            raise ValueError(f"objective '{text}' is Pyro's own and forms its gradient itself: leave the estimator "
                             f"'{estimator}' away, or use elbo")  # fmt: skip
        from pyro import infer

        return getattr(infer, class_name)(*arguments, max_plate_nesting=1, vectorize_particles=True)
    from . import inference

    return getattr(inference, class_name)(*arguments, estimator=estimator)
