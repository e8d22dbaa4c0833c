"""Options of a pair as they stand on the command line: ``key=value``."""

MOST = 10**9


def parse_options(texts, defaults, name):
    """Options from ``key=value`` texts, converted to the types of their defaults.

    :param dict defaults: key -> value where nothing is said. ``name``: the pair's, for messages.
    :raises ValueError: for an unknown key (the valid ones are listed) or a value of another type.

    >>> parse_options(["z_dim=3", "hidden=20,10"], {"z_dim": 8, "hidden": (200,)}, "vae")
    {'z_dim': 3, 'hidden': (20, 10)}
    """
    out = {}
    for text in texts:
        key, sep, value = text.partition("=")
        if not sep:
            raise ValueError(f"option '{text}' is not of the form key=value")
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"pair {name} has no option '{key}'; it has: {known}")
        out[key] = _convert(key, value, defaults[key])
    return out


def _convert(key, text, default):
    try:
        if isinstance(default, bool) or default is None:
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            return words[text.lower()]
        if isinstance(default, tuple):
            kind = type(default[0]) if default else int
            return tuple(_size(kind(part)) for part in text.split(","))
        return _size(type(default)(text))
    except (KeyError, ValueError):
        wanted = f"like {','.join(map(str, default)) if isinstance(default, tuple) else default}"
        if isinstance(default, bool) or default is None:
            wanted = "true or false"
        raise ValueError(f"option {key}={text}: give a value {wanted}") from None


def _size(value):
    """A value as it is; whole numbers are sizes and counts, so those below one or beyond any memory are refused."""
    if isinstance(value, int) and not 1 <= value <= MOST:
        raise ValueError
    return value
