r"""The width of the strokes in an image of writing, from its ink and its outline.

.. math:: w = 2 \sum_i x_i \Big/ \sum_i |\nabla x|_i

A stroke of width w and length l has ink w l and an outline of 2 l (and 2 w at its ends), and the total variation of a grey
image is the length of its outline. There is no threshold, so 8 x 8 images will do.

Source: the coarea formula, Fleming & Rishel (1960), https://doi.org/10.1007/BF01236935.
"""

import numpy as np


def stroke_width(images, image_shape):
    """Mean width of the strokes, in pixels, of each image.

    :param images: (N, height x width) in [0, 1], ink being 1.
    :param image_shape: (height, width).
    :returns: (N,), biased by the ends of short strokes (down) and by strokes as thin as a pixel (up); NaN if blank.
    :raises ValueError: for images that do not fit the shape.

    >>> import numpy as np
    >>> image = np.zeros((8, 100)); image[2:5] = 1  # three pixels wide, from edge to edge
    >>> stroke_width(image.reshape(1, -1), (8, 100)).round(2).tolist()
    [2.93]
    """
    images = np.asarray(images, np.float64)
    if images.ndim != 2 or images.shape[1] != np.prod(image_shape):
        raise ValueError(f"images of shape {images.shape} are not (N, {image_shape[0]} x {image_shape[1]})")
    whole = np.pad(images.reshape(-1, *image_shape), ((0, 0), (1, 1), (1, 1)))  # ink at the edge has an outline there
    down, right = np.diff(whole, axis=1), np.diff(whole, axis=2)
    # both at the corners where four pixels meet: taken at different places they would favour one diagonal
    down, right = 0.5 * (down[:, :, 1:] + down[:, :, :-1]), 0.5 * (right[:, 1:] + right[:, :-1])
    outline = np.hypot(down, right).sum((1, 2))
    return np.divide(2 * images.sum(1), outline, out=np.full(len(images), np.nan), where=outline > 0)
