"""The series that ship with the package."""

from __future__ import annotations

import numpy as np
import pytest
from pointsman import datasets


@pytest.mark.parametrize(
    ("name", "size", "first", "last", "low", "high"),
    [
        ("elnino", 732, 23.11, 22.07, 18, 30),
        ("sunspots", 309, 5.0, 2.9, 0, 200),
        ("co2", 2284, 316.1, 371.5, 310, 376),
        ("nile", 100, 1120.0, 740.0, 400, 1400),
    ],
)
def test_series_are_whole_and_in_order(name, size, first, last, low, high):
    series = datasets.load(name)
    assert (series.shape, series.dtype, series[0], series[-1]) == ((size,), np.float64, first, last)
    assert low < series.min() + 1e-9
    assert series.max() < high


def test_gaps_are_filled_between_their_neighbours():
    series = datasets.load("co2")
    assert np.abs(np.diff(series)).max() < 3.5  # a gap read as zero would jump by 300 ppm


def test_an_unknown_series_lists_the_known_ones():
    with pytest.raises(ValueError, match="'moon'; known are: elnino, sunspots, co2, nile"):
        datasets.load("moon")
