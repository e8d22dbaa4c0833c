r"""Patches of whitened photographs, as in sparse coding, and patches drawn from a known sparse dictionary.

The photographs are the two of scikit-learn (the extra ``photos``). Their grey values are filtered by
:math:`R(f) = |f| \exp(-(f/f_0)^4)`, scaled to unit variance within each photograph, and cut into 12 x 12 patches. Each
photograph is a board of tiles of which every fifth is held out: held-out patches overlap neither each other nor any
training patch, and training patches stay ``GAP`` pixels away from them. White noise of standard deviation ``NOISE`` is
added: the filter leaves directions of almost no variance (4e-6 against 7), in which the height of a density means nothing
and yet would decide every comparison.

Source: Olshausen and Field (1997), Sparse coding with an overcomplete basis set,
https://doi.org/10.1016/S0042-6989(97)00169-7.
Differs from the paper: two photographs in place of ten; f0 is their 200 cycles per picture of 512 pixels, taken per
pixel; the noise.
"""

import numpy as np

from .dataset import Dataset, NamedData
from .faults import DataError

SIDE = 12
CUTOFF = 200 / 512  # f0 in cycles per pixel
NOISE = 0.2
TILES = (7, 10)  # of a photograph, down and across
EVERY = 5  # one tile in five is held out
GAP = 4
NUM_TRAIN = 10_000
PAD = 24  # pixels of mirror image around a photograph, so that the filter meets no edge


def whiten(image, cutoff=CUTOFF):
    """Filter a grey image (H, W) by f exp(-(f / cutoff)^4), f in cycles per pixel; mean zero, scale as it comes out."""
    padded = np.pad(image, PAD, mode="reflect")
    f = np.hypot(np.fft.fftfreq(padded.shape[0])[:, None], np.fft.fftfreq(padded.shape[1]))
    flat = np.fft.ifft2(np.fft.fft2(padded) * f * np.exp(-((f / cutoff) ** 4))).real
    return flat[PAD:-PAD, PAD:-PAD]


def held_out_tiles(shape):
    """Which pixels of a photograph (H, W) lie in held-out tiles (bool), and their top left corners."""
    height, width = (size // tiles for size, tiles in zip(shape, TILES, strict=True))
    mask, corners = np.zeros(shape, bool), []
    for i in range(TILES[0]):
        for j in range(TILES[1]):
            if (j + 2 * i) % EVERY == 0:  # a knight's move apart
                mask[i * height : (i + 1) * height, j * width : (j + 1) * width] = True
                corners.append((i * height, j * width))
    return mask, corners, (height, width)


def patch_corners(shape, num, rng):
    """Top left corners of ``num`` training patches (distinct, at random) and of the held-out ones (a grid in each tile)."""
    mask, tiles, (height, width) = held_out_tiles(shape)
    near = np.pad(mask, GAP).cumsum(0).cumsum(1)  # sums over boxes, from a table of sums
    near = np.pad(near, ((1, 0), (1, 0)))
    reach = SIDE + 2 * GAP
    touches = near[reach:, reach:] - near[:-reach, reach:] - near[reach:, :-reach] + near[:-reach, :-reach] > 0
    free = np.argwhere(~touches)
    train = free[rng.choice(len(free), num, replace=False)]
    steps = [
        (i, j) for i in range(0, height - SIDE + 1, SIDE) for j in range(0, width - SIDE + 1, SIDE)
    ]  # multiples of SIDE: disjoint
    return train, np.array([(a + i, b + j) for a, b in tiles for i, j in steps])


def photographs():
    """The two photographs as grey float64 (427, 640) in [0, 1]; a DataError where scikit-learn or Pillow is missing."""
    try:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
    except ImportError as error:
        raise DataError(
            f"patches: the photographs come with scikit-learn, read by Pillow ({error}): pip install 'pyrarchy[photos]', "
            "or take the data set sparse_dictionary, which needs neither"
        ) from None
    return [image @ np.array([0.299, 0.587, 0.114]) / 255 for image in images]  # luma of ITU-R BT.601


def _patches(folder) -> Dataset:
    rng, parts = np.random.default_rng(0), ([], [])
    images = photographs()
    for image in images:
        flat = whiten(image)
        corners = patch_corners(flat.shape, NUM_TRAIN // len(images), rng)
        windows = np.lib.stride_tricks.sliding_window_view(flat / flat.std(), (SIDE, SIDE))
        for part, corner in zip(parts, corners, strict=True):
            part.append(windows[corner[:, 0], corner[:, 1]].reshape(-1, SIDE * SIDE))
    train, test = (np.concatenate(part) for part in parts)
    train, test = (rows + NOISE * rng.standard_normal(rows.shape) for rows in (train, test))
    entry = NAMED["patches"]
    return Dataset(
        "patches",
        train[rng.permutation(len(train))].astype(np.float32),
        test.astype(np.float32),
        image_shape=(SIDE, SIDE),
        source=entry.source,
        licence=entry.licence,
    )


def gabor_dictionary(num, side=SIDE, seed=0):
    """``num`` Gabor functions of unit norm at random places, orientations and wavelengths, (num, side**2).

    Centres within the middle of the patch, wavelengths of 4 to 8 pixels, an envelope of .35 to .5 wavelengths.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2.0
    atoms = np.empty((num, side, side))
    for k in range(num):
        centre = rng.uniform(-0.3 * side, 0.3 * side, 2)
        angle, wavelength, phase = rng.uniform(0, np.pi), rng.uniform(4, 8), rng.uniform(0, 2 * np.pi)
        width = wavelength * rng.uniform(0.35, 0.5)
        along = np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])
        across = -np.sin(angle) * (x - centre[0]) + np.cos(angle) * (y - centre[1])
        envelope = np.exp(-0.5 * (along**2 + (across / 1.5) ** 2) / width**2)
        atoms[k] = envelope * np.cos(2 * np.pi * along / wavelength + phase)
    atoms = atoms.reshape(num, -1)
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def _sparse_dictionary(folder) -> Dataset:
    rng, atoms = np.random.default_rng(1), gabor_dictionary(SIDE * SIDE)
    x = rng.laplace(size=(6000, len(atoms))) @ atoms + NOISE * rng.standard_normal((6000, SIDE * SIDE))
    x, entry = x.astype(np.float32), NAMED["sparse_dictionary"]
    return Dataset(
        "sparse_dictionary",
        x[:5000],
        x[5000:],
        image_shape=(SIDE, SIDE),
        source=entry.source,
        licence=entry.licence,
    )


NAMED = {
    "patches": NamedData(
        f"12x12 patches of two whitened photographs, white noise of sd {NOISE:g} added, real",
        "10,000 + 700 x 144",
        "CC BY 2.0, danielbuechele (china.jpg) and vultilion (flower.jpg), Flickr",
        "the photographs china.jpg and flower.jpg of scikit-learn, whitened as in Olshausen and Field (1997), Sparse coding "
        "with an overcomplete basis set, https://doi.org/10.1016/S0042-6989(97)00169-7",
        _patches,
        where="in scikit-learn: pip install 'pyrarchy[photos]'",
    ),
    "sparse_dictionary": NamedData(
        f"12x12 images, Laplace combinations of 144 known Gabor functions, white noise of sd {NOISE:g} (simulated)",
        "5,000 + 1,000 x 144",
        "simulated, no licence needed",
        "simulated from pyrarchy.zoo.SparseLinear's density with seeds 0 (dictionary) and 1 (codes and noise)",
        _sparse_dictionary,
    ),
}
