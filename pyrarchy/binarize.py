r"""How grey values in [0, 1] become the zeros and ones that a Bernoulli likelihood is about, and who needs it.

A Bernoulli likelihood of a grey pixel is not a density of anything, so the step from grey to binary is always said:

.. math:: x_{nd} \sim \mathrm{Bernoulli}(g_{nd}), \qquad g_{nd} \in [0, 1]

``"dynamic"`` draws anew each time a row is used (Burda, Grosse and Salakhutdinov 2015), ``"fixed"`` draws once from a
seed (Salakhutdinov and Murray 2008), ``"none"`` leaves the data alone. Held-out likelihoods under the two differ by
more than papers differ from each other, so reports name which was used.

Source: Salakhutdinov and Murray (2008), On the quantitative analysis of deep belief networks, ICML; Burda, Grosse and
Salakhutdinov (2015), https://arxiv.org/abs/1509.00519.
Differs from the paper: ``"fixed"`` draws its own zeros and ones, not the file of Larochelle and Murray (2011).
"""

from dataclasses import replace

import numpy as np

from .faults import DataError

_CHUNK = 1 << 24  # numbers looked at in one go, so that checking a file larger than memory does not load it

# What each likelihood is a density of. "binary" lies in "unit" lies in "real".
LIKELIHOODS = {"bernoulli": "binary", "continuous_bernoulli": "unit", "gaussian": "real"}


class Binarization:
    """Leave the data alone: the base, and the choice ``"none"``.

    ``prepare`` is applied to a data set once, before training; ``draw`` to a batch at each use.
    """

    name = "none"

    def __init__(self, seed: int = 0):
        self.seed = seed

    def prepare(self, dataset):
        """The :class:`~.datasets.Dataset` to train and evaluate on."""
        return dataset

    def draw(self, batch):
        """``batch``, a torch tensor (..., D), as it goes to the model."""
        return batch

    def _once(self, rows, stream: int):
        # One generator per part, so that the test rows do not depend on how many training rows there are.
        if rows is None:
            return None
        generator, drawn = np.random.default_rng([self.seed, stream]), np.empty(rows.shape, dtype=np.float32)
        for start in range(0, len(rows), 4096):
            part = rows[start : start + 4096]
            np.less(generator.random(part.shape), part, out=drawn[start : start + 4096], casting="unsafe")
        return drawn


class FixedBinarization(Binarization):
    """Training and test rows are drawn once, from ``seed``."""

    name = "fixed"

    def prepare(self, dataset):
        """The data set with both parts drawn once; its support is then "binary"."""
        _check_drawable(dataset, self.name)
        return replace(dataset, train=self._once(dataset.train, 0), test=self._once(dataset.test, 1), support="binary")


class DynamicBinarization(Binarization):
    """Training rows are drawn anew at each use, from torch's generator; test rows once, from ``seed``.

    The test rows are drawn once so that two evaluations are about the same data. A draw of zeros and ones is those
    zeros and ones, so ``draw`` leaves them as they are.
    """

    name = "dynamic"

    def prepare(self, dataset):
        """The data set with its training rows still grey and its test rows drawn once."""
        _check_drawable(dataset, self.name)
        return replace(dataset, test=self._once(dataset.test, 1))

    def draw(self, batch):
        """Zeros and ones of the shape, type and device of ``batch``, whose values are their probabilities."""
        import torch

        return torch.bernoulli(batch)


BINARIZATIONS = {kind.name: kind for kind in (DynamicBinarization, FixedBinarization, Binarization)}


def binarization(name: str, seed: int = 0) -> Binarization:
    """The binarization called "dynamic", "fixed" or "none"; ``seed`` is for what is drawn once.

    >>> binarization("fixed", seed=3).name
    'fixed'
    """
    if name not in BINARIZATIONS:
        raise DataError(f"binarize is {name!r}; give one of {', '.join(BINARIZATIONS)}")
    return BINARIZATIONS[name](seed)


def support_of(*arrays: np.ndarray) -> str:
    """Where all values lie: "binary" (each is 0 or 1), "unit" (in [0, 1]) or "real".

    >>> grey = np.array([[0.0, 0.5]])
    >>> support_of(np.eye(2)), support_of(grey), support_of(grey, 2 * np.eye(2))
    ('binary', 'unit', 'real')
    """
    support = "binary"
    for values in arrays:
        step = max(1, _CHUNK // max(1, values.shape[-1]))
        for start in range(0, len(values), step):
            part = values[start : start + step]
            if part.min() < 0 or part.max() > 1:
                return "real"
            if support == "binary" and not np.all((part == 0) | (part == 1)):
                support = "unit"
    return support


def check_support(dataset, likelihood: str, binarize: str = "none") -> None:
    """Raise :class:`~.files.DataError` when a likelihood is no density of the data, saying which option to pass.

    ``dataset`` is a :class:`~.datasets.Dataset`, ``likelihood`` one of ``LIKELIHOODS``, ``binarize`` one of
    ``BINARIZATIONS``.

    >>> from pyrarchy.datasets import load_data
    >>> check_support(load_data("digits"), "bernoulli", "dynamic")
    >>> check_support(load_data("digits"), "bernoulli")
    Traceback (most recent call last):
        ...
    pyrarchy.faults.DataError: digits: has grey values in [0, 1], but a bernoulli likelihood needs zeros and ones; pass \
--binarize dynamic or --binarize fixed, or use a pair with a Gaussian likelihood such as vae_gaussian
    """
    binarization(binarize)
    if likelihood not in LIKELIHOODS:
        raise DataError(f"likelihood is {likelihood!r}; give one of {', '.join(LIKELIHOODS)}")
    if binarize != "none":
        _check_drawable(dataset, binarize)
        if likelihood != "bernoulli":
            raise DataError(
                f"{dataset.name}: --binarize {binarize} makes zeros and ones, but a {likelihood} likelihood is about "
                "continuous values; pass --binarize none"
            )
        return
    needed = LIKELIHOODS[likelihood]
    order = ["binary", "unit", "real"]
    if order.index(dataset.support) <= order.index(needed):
        return
    if dataset.support == "unit":
        raise DataError(
            f"{dataset.name}: has grey values in [0, 1], but a {likelihood} likelihood needs zeros and ones; pass "
            "--binarize dynamic or --binarize fixed, or use a pair with a Gaussian likelihood such as vae_gaussian"
        )
    what = "zeros and ones" if needed == "binary" else "values in [0, 1]"
    also = " and pass --binarize dynamic or --binarize fixed" if needed == "binary" else ""
    raise DataError(
        f"{dataset.name}: has values {_range(dataset)}, but a {likelihood} likelihood needs {what}; use a pair with a "
        f"Gaussian likelihood such as vae_gaussian, or scale the data to [0, 1]{also}"
    )


def _check_drawable(dataset, binarize: str) -> None:
    if dataset.support == "real" or isinstance(dataset.train, tuple):
        raise DataError(
            f"{dataset.name}: has values {_range(dataset)}, which --binarize {binarize} cannot take as probabilities; "
            "scale the data to [0, 1], or pass --binarize none and use a pair with a Gaussian likelihood such as "
            "vae_gaussian"
        )


def _range(dataset) -> str:
    parts = dataset.train if isinstance(dataset.train, tuple) else (dataset.train, dataset.test)
    parts = [part for part in parts if part is not None]
    return f"from {min(part.min() for part in parts):g} to {max(part.max() for part in parts):g}"
