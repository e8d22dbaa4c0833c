"""Data sets of images: digits, which ship in the package, MNIST and Fashion-MNIST, which are fetched.

Source: Alpaydin and Kaynak (1998), https://doi.org/10.24432/C50P49; LeCun, Cortes and Burges (1998),
http://yann.lecun.com/exdb/mnist; Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747.
"""

from pathlib import Path

import numpy as np

from .dataset import Dataset, NamedData
from .faults import DataError
from .fetch import REMOTES, find, places, read_idx


def _digits(folder) -> Dataset:
    with np.load(Path(__file__).with_name("data") / "digits.npz", allow_pickle=False) as archive:
        images, labels, order = archive["images"], archive["labels"].astype(np.int64), archive["order"]
    rows, labels = images[order].astype(np.float32) / np.float32(16), labels[order]
    train, test, entry = rows[:1500], rows[1500:], NAMED["digits"]
    return Dataset("digits", train, test, labels[:1500], labels[1500:], (8, 8), "unit", {}, entry.source, entry.licence)


def _idx_images(name: str, folder) -> Dataset:
    found = find(name, folder)
    if found is None:
        looked = ", ".join(str(place) for place in places(name, folder))
        raise DataError(f"{name}: its four files are in none of {looked}; get them with: pyrarchy data fetch {name}")
    arrays = {}
    for file, digest in REMOTES[name].files.items():
        path = found / f"{file}.gz"
        arrays[file] = read_idx(path if path.is_file() else found / file, digest)
    train, test = (
        arrays[f"{part}-images-idx3-ubyte"].reshape(-1, 784).astype(np.float32) / np.float32(255)
        for part in ("train", "t10k")
    )
    labels = (arrays[f"{part}-labels-idx1-ubyte"].astype(np.int64) for part in ("train", "t10k"))
    entry = NAMED[name]
    return Dataset(name, train, test, *labels, (28, 28), "unit", {}, entry.source, entry.licence)


NAMED = {
    "digits": NamedData(
        "8x8 handwritten digits, 13 writers, grey in [0, 1]",
        "1,500 + 297 x 64",
        "CC BY 4.0",
        "Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49",
        _digits,
    ),
    "mnist": NamedData(
        "28x28 handwritten digits, grey in [0, 1]",
        "60,000 + 10,000 x 784",
        "CC BY-SA 3.0",
        "LeCun, Cortes and Burges (1998), http://yann.lecun.com/exdb/mnist",
        lambda folder: _idx_images("mnist", folder),
    ),
    "fashion_mnist": NamedData(
        "28x28 pictures of clothes, grey in [0, 1]",
        "60,000 + 10,000 x 784",
        "MIT",
        "Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747",
        lambda folder: _idx_images("fashion_mnist", folder),
    ),
}
