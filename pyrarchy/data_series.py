"""Time series, all in the package; a row is one whole series, a column one step in time.

The numbers are those of statsmodels' datasets ``nile`` and ``elnino``, whose files say that they are in the public domain.
"""

from pathlib import Path

import numpy as np

from .dataset import Dataset, NamedData

EVERY = 5  # one year in five is held out


def _nile(folder) -> Dataset:
    years, flow = _columns("nile")
    entry, coords = NAMED["nile"], {"column": [str(int(year)) for year in years]}
    return Dataset(
        "nile", flow.astype(np.float32)[None].copy(), coords=coords, source=entry.source, licence=entry.licence
    )


def _elnino(folder) -> Dataset:
    table = _columns("elnino").T
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    held = np.arange(len(table)) % EVERY == EVERY // 2
    usual = table[~held, 1:].mean(0)
    rows = np.ascontiguousarray(table[:, 1:] - usual, dtype=np.float32)
    entry, coords = NAMED["elnino"], {"column": months}
    return Dataset("elnino", rows[~held], rows[held], coords=coords, source=entry.source, licence=entry.licence)


def _columns(name: str) -> np.ndarray:
    path = Path(__file__).with_name("data") / f"{name}.csv"
    return np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)


NAMED = {
    "nile": NamedData(
        "annual flow of the Nile at Aswan, 1871 to 1970, in 10^8 cubic metres: one series",
        "1 x 100",
        "public domain",
        "Cobb (1978), The problem of the Nile, https://doi.org/10.1093/biomet/65.2.243; the rows are those of nile in "
        "statsmodels",
        _nile,
    ),
    "elnino": NamedData(
        "sea-surface temperature of the eastern Pacific (Nino 1+2), degrees above the month's mean over the training "
        "years; a row is a year, January to December, 1950 to 2010; one year in five is held out",
        "49 + 12 x 12",
        "public domain",
        "NOAA, ERSST.V3B, https://www.cpc.ncep.noaa.gov/data/indices/; the rows are those of elnino in statsmodels",
        _elnino,
    ),
}
