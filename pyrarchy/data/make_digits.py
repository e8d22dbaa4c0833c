"""Write digits.npz, the 8x8 handwritten digits that the package carries, from scikit-learn's copy of the UCI file.

Run ``python pyrarchy/data/make_digits.py`` (it needs scikit-learn). The arrays are ``images`` uint8 (1797, 64), pixels
0..16 in scikit-learn's row order; ``labels`` uint8 (1797,); ``order`` int16 (1797,), whose first 1,500 rows train.

The rows come ordered by writer (13 of them). A cut at row 1,500 would therefore test on writers who are not in the
training set, and a prefix of the training set would be a single writer's. The order is a permutation instead, so that
training and test rows are exchangeable, which the standard error of a held-out log-likelihood supposes.

Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, CC BY 4.0. The rows are the test part of that data set.
"""

import sys
from pathlib import Path

import numpy as np

from pyrarchy.files import shuffled


def digits_arrays() -> dict[str, np.ndarray]:
    """The three arrays of digits.npz, from scikit-learn's copy."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = images.astype(np.uint8)
    if not np.array_equal(pixels, images):
        raise ValueError("scikit-learn's digits are no longer whole numbers; digits.npz cannot hold them as uint8")
    return {
        "images": pixels,
        "labels": labels.astype(np.uint8),
        "order": shuffled(len(images), seed=0).astype(np.int16),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("digits.npz")
    np.savez_compressed(target, **digits_arrays())
    print(f"wrote {target}, {target.stat().st_size} bytes")
