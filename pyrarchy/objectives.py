"""Objectives by name, as the command line and run folders write them: ``elbo``, ``iwae:50``, ``renyi:0.5:10`` ..."""

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
}


def describe_objectives():
    """One line per objective: how to write it and what it is."""
    lines = []
    for name, (_, arguments, what) in OBJECTIVES.items():
        form = name + "".join(f":{label}" if default is None else f"[:{label}]" for _, label, default in arguments)
        lines.append(f"{form:<28}{what}")
    return "\n".join(lines)


def parse_objective(text):
    """Name and arguments of an objective, checked without importing torch.

    :returns: (class name, list of arguments).
    :raises ValueError: for an unknown name (the valid ones are listed) or wrong arguments.

    >>> parse_objective("iwae:50")
    ('ImportanceWeighted', [50])
    """
    name, *given = text.split(":")
    if name not in OBJECTIVES:
        raise ValueError(f"no objective is called '{name}'. The objectives are:\n{describe_objectives()}")
    class_name, arguments, _ = OBJECTIVES[name]
    form = ":".join([name, *(label for _, label, _ in arguments)])
    if len(given) > len(arguments):
        raise ValueError(f"objective '{text}' has too many parts: write {form}")
    values = []
    for (kind, label, default), part in zip(arguments, [*given, *[None] * (len(arguments) - len(given))], strict=True):
        if part is None and default is None:
            raise ValueError(f"objective '{text}' lacks {label}: write {form}")
        try:
            values.append(default if part is None else kind(part))
        except ValueError:
            raise ValueError(f"objective '{text}': {label} must be {kind.__name__}, not '{part}'") from None
        if kind is int and values[-1] < 1:
            raise ValueError(f"objective '{text}': {label} must be at least 1")
    return class_name, values


def make_objective(text):
    """The objective that a text names, as an instance of a :class:`~pyrarchy.inference.Bound`."""
    class_name, arguments = parse_objective(text)
    from . import inference

    return getattr(inference, class_name)(*arguments)
