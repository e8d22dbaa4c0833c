"""A .csv file as numbers and the names of its columns, or one sentence that says where it is no table of numbers."""

import csv
from array import array
from pathlib import Path

import numpy as np

from .faults import DataError

_GAPS = ("", "NA")


def read_csv(path: Path, *, gaps: bool = False):
    """Numbers (N, D) in float64, and the column names of a first line that holds no number, or ``None``.

    ``gaps`` reads an empty cell and NA as NaN. Raises :class:`~.faults.DataError` for anything else that is no number,
    and for lines of different lengths.
    """
    values, names, width = array("d"), None, None
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            for cells in reader:
                if not cells:
                    continue  # a blank line
                line = reader.line_num
                data = gaps and all(cell.strip() in _GAPS for cell in cells)  # a row of which nothing is known
                if width is None and not data and all(_number(cell) is None for cell in cells):
                    names, width = [cell.strip() for cell in cells], len(cells)
                    if len(set(names)) < width or "" in names:
                        raise DataError(f"{path}: line {line} repeats or leaves out a column name; name each once")
                    continue
                width = len(cells) if width is None else width
                if len(cells) != width:
                    found = f"line {line} has {len(cells)} columns but the lines above have {width}"
                    raise DataError(f"{path}: {found}; make every line equally long")
                for column, cell in enumerate(cells):
                    number = float("nan") if gaps and cell.strip() in _GAPS else _number(cell)
                    if number is None:
                        found = f"line {line}, column {column} (counted from 0) is {cell[:40]!r}, not a number"
                        hint = "below one header line, use commas and decimal points"
                        if cell.strip() in _GAPS:
                            hint = "fill it, or leave such rows out (fit does with --missing drop-rows)"
                        raise DataError(f"{path}: {found}; {hint}")
                    values.append(number)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a text file of comma-separated numbers ({error}); save it again") from error
    if not values:
        raise DataError(f"{path}: has no rows of numbers; save at least one")
    return np.frombuffer(values, dtype=np.float64).reshape(-1, width), names


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)  # Python reads 1_0 as ten; a csv file means something else
    except ValueError:
        return None
