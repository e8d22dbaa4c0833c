r"""Which of a dictionary's atoms are edges: oriented and localised at once, as receptive fields of simple cells are.

Of an atom a, an image with P the power spectrum of its deviation from its mean (padded with zeros to 64 x 64),

.. math:: \text{orientation} = \max_\alpha \frac{\sum_{|\angle f - \alpha| < \pi/8} P(f)}{\sum_f P(f)}, \qquad
          \text{localisation} = \max_{\text{windows}} \frac{\sum_{\text{window}} a^2}{\sum a^2}

with angles of a frequency modulo pi and windows of half the image's height and width. An atom that favours no direction, or
no place, has 1/4 of either in the limit of many pixels. An atom is an edge where both exceed ``THRESHOLD``. A plane wave is
oriented but not localised, a single pixel localised but not oriented, white noise neither, a Gabor function both.

Source: the project's own measure, after the description of the learned bases in Olshausen and Field (1997),
https://doi.org/10.1016/S0042-6989(97)00169-7.
"""

from typing import NamedTuple

import numpy as np

THRESHOLD = 0.55
ANGLES = 48  # axes tried, over half a turn
PADDED = 64


class EdgeScores(NamedTuple):
    """Per atom (K,): ``orientation`` and ``localisation``, shares in [0, 1]; and whether it ``is_edge``."""

    orientation: np.ndarray
    localisation: np.ndarray
    is_edge: np.ndarray


def edge_scores(atoms, image_shape, threshold=THRESHOLD):
    """Grade atoms by orientation and localisation.

    :param atoms: array (K, D), a row for each atom (the transpose of a model's W), in any scale.
    :param image_shape: (height, width) with height * width = D.
    :returns: :class:`EdgeScores`.
    :raises ValueError: for shapes that do not fit, or an atom that is constant.

    >>> import numpy as np
    >>> y, x = np.mgrid[:12, :12] - 5.5
    >>> wave = np.cos(2 * np.pi * x / 6)
    >>> gabor = wave * np.exp(-(x**2 + y**2) / (2 * 2.5**2))
    >>> edge_scores(np.stack([wave.ravel(), gabor.ravel()]), (12, 12)).is_edge
    array([False,  True])
    """
    atoms = np.asarray(atoms, float)
    height, width = image_shape
    if atoms.ndim != 2 or atoms.shape[1] != height * width:
        raise ValueError(f"atoms has shape {atoms.shape}; images of {image_shape} need (K, {height * width})")
    images = atoms.reshape(-1, height, width)
    centred = images - images.mean((1, 2), keepdims=True)
    constant = np.flatnonzero(np.abs(centred).max((1, 2)) <= 1e-12 * np.abs(images).max((1, 2)))
    if constant.size:
        raise ValueError(f"atom(s) {constant.tolist()} are constant: they have no orientation")
    orientation, localisation = _orientation(centred), _localisation(images)
    return EdgeScores(orientation, localisation, (orientation > threshold) & (localisation > threshold))


def _orientation(images):
    size = max(PADDED, *images.shape[1:])
    power = np.abs(np.fft.fft2(images, (size, size))) ** 2
    f = np.fft.fftfreq(size)
    inside = np.hypot(f[:, None], f) < 0.5  # a disc: the corners of the square would favour the diagonals
    angle = np.arctan2(f[:, None], f)[inside] % np.pi
    power = power[:, inside]
    apart = np.abs(angle - np.arange(ANGLES)[:, None] * np.pi / ANGLES)
    band = np.minimum(apart, np.pi - apart) < np.pi / 8
    return (power @ band.T).max(1) / power.sum(1)


def _localisation(images):
    height, width = (size // 2 for size in images.shape[1:])
    table = np.pad((images**2).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))  # sums over boxes
    boxes = (
        table[:, height:, width:]
        - table[:, :-height, width:]
        - table[:, height:, :-width]
        + table[:, :-height, :-width]
    )
    return boxes.max((1, 2)) / table[:, -1, -1]
