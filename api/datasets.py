"""Real series in the public domain, for the demo, the docs and the tests. Their sources stand in data/README.md."""

from __future__ import annotations

import csv
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

SERIES: dict[str, str] = {
    "elnino": "monthly sea surface temperature, Nino 1+2 region, 1950-2010, degrees C",
    "sunspots": "yearly sunspot number, 1700-2008",
    "co2": "weekly CO2 at Mauna Loa, 1958-2001, ppm; gaps filled by linear interpolation",
    "nile": "yearly flow of the Nile at Aswan, 1871-1970, 10^8 m^3",
}


def load(name: str) -> NDArray[np.float64]:
    """Give one series as a 1-D float64 array, oldest value first.

    Parameters
    ----------
    name : "elnino" (732 months), "sunspots" (309 years), "co2" (2284 weeks) or "nile" (100 years).

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.

    Examples
    --------
    >>> load("nile")[:3]
    array([1120., 1160.,  963.])
    """
    if name not in SERIES:
        raise ValueError(f"no series is called {name!r}; known are: {', '.join(SERIES)}")
    text = files("pointsman").joinpath("data", f"{name}.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))[1:]
    # The first column is the date; the rest are values in the order of time (elnino has a column per month).
    values = np.array([float(cell or "nan") for row in rows for cell in row[1:]])
    missing = np.isnan(values)
    if missing.any():
        at = np.arange(values.size)
        values[missing] = np.interp(at[missing], at[~missing], values[~missing])
    return values
