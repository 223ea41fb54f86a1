"""Loops of the wavelet transforms that Numba compiles: variants of `cwt` and of `wavelet_coherence` (contracts there).

The Fourier transforms stay SciPy's, or NumPy's. What is between them passes through memory once instead of several
times: the spectra of a block are filtered, turned and filled up in one go, and smoothing in scale ends in the quotient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

WIDE = 256  # samples of all scales that are smoothed together: with their sums they stay in the second-level cache


def build_fill(span: Any) -> Callable[..., Any]:
    """The spectra that `band_limited` transforms: of each row and filter, times turns, and zeros beyond the band."""

    def fill(spectrum: Any, filters: Any, turns: Any, factor: Any, z: Any) -> None:
        rows, count, steps, apart = z.shape
        bins = filters.shape[1]
        for place in span(rows * count):
            row, which = place // count, place % count
            for r in range(bins):
                weighted = spectrum[row, r] * (filters[which, r] * factor)
                for p in range(apart):
                    z[row, which, r, p] = weighted * turns[r, p]
            for r in range(bins, steps):
                for p in range(apart):
                    z[row, which, r, p] = 0

    return fill


def build_finish(span: Any) -> Callable[..., Any]:
    """Coherency of what has been smoothed in time: smoothed in scale, and the cross spectrum over the powers' root."""

    def finish(values: Any, whole: int, part: Any, floors: Any, out: Any) -> None:
        count, n = out.shape
        edge = whole + 1
        one = part / part if part > 0 else part + 1  # of the values' own precision
        for tile in span((n + WIDE - 1) // WIDE):
            low = tile * WIDE
            high = min(n, low + WIDE)
            cross, powers = values[0, 0, low:high].copy(), values[0, 1, low:high].copy()
            for j in range(count):
                for i in range(high - low):
                    cross[i] = part * (values[j, 0, low + i] + values[j + 2 * edge, 0, low + i])
                    powers[i] = part * (values[j, 1, low + i] + values[j + 2 * edge, 1, low + i])
                for k in range(j + 1, j + 2 * edge):
                    for i in range(high - low):
                        cross[i] += values[k, 0, low + i]
                        powers[i] += values[k, 1, low + i]
                for i in range(high - low):
                    first, second = powers[i].real, powers[i].imag
                    if first > floors[j, 0].real and second > floors[j, 0].imag:
                        found = cross[i] * (one / math.sqrt(first * second))
                        size = found.real * found.real + found.imag * found.imag
                        if size > 1:
                            found = found * (one / math.sqrt(size))
                        out[j, low + i] = found
                    else:
                        out[j, low + i] = math.nan

    return finish
