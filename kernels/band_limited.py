r"""Inverse Fourier transforms of spectra that are zero beyond a band: the shorter the band, the less work.

A scaled wavelet leaves only the lowest K of L bins. Where L = Q P and K is Q at most, samples q P + p are

.. math:: w_{qP+p} = \frac{1}{L} \sum_{r<Q} e^{2\pi i r q / Q} \left( e^{2\pi i r p / L} X_r \right),

P transforms of length Q instead of one of length L. They lie side by side, so that several are computed with the same
instructions, and give the samples in their order. Longer bands of long series are split once more: the inner sum then
also runs over the bins r + m Q, a transform of length P (Bailey, J. Supercomput. 4 (1990), algorithm 1). Nothing is
interpolated: the result is that of the plain transform within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from .spectra import Kept

Array: TypeAlias = np.ndarray[Any, Any]
Work: TypeAlias = tuple[Array, Callable[[], Array]]
"""An array to write spectra to, and what makes samples of them, once; they last as long as the block."""


Fill: TypeAlias = Callable[[Array, Array, Array, Any, Array], object]
"""``fill(spectrum, filters, turns, factor, z)``; see `wavelet_loops`."""


class Inverse(Protocol):
    """Whose inverse transforms."""

    @property
    def scaled(self) -> bool:
        """They divide by their length."""

    def along(
        self, shape: tuple[int, int, int, int], dtype: Any, into: Array | None = None
    ) -> AbstractContextManager[Work]:
        """Lend room for spectra along the last axis but one of `shape`; samples in `into` if that can be."""


KEPT = Kept(64 << 20)
BLOCK = 1 << 15  # complex samples of several rows at a time: they stay in the second-level cache
LONG = 1 << 13  # samples from which a full spectrum is transformed in two steps
NOTHING = {"f": 1e-8, "d": 1e-17}  # of a filter's peak: far below what rounding leaves of the rest


@dataclass(frozen=True, eq=False)
class Group:
    """Filters next to each other whose bands are about as long.

    Attributes
    ----------
    rows : which filters.
    filters : (rows, bins) their bands, from bin zero on; real.
    steps : Q; a divisor of the transform's length.
    whole : bands longer than Q: all bins are transformed, in two steps.
    """

    rows: slice
    filters: Array
    steps: int
    whole: bool


@lru_cache(maxsize=256)
def divisors(size: int) -> tuple[int, ...]:
    """Divisors of `size` from itself down, each half of the one before it at most; those of 8 and more."""
    found, last = [size], size
    for part in range(2, size // 8 + 1):
        if size % part == 0 and 2 * (size // part) <= last:
            last = size // part
            found.append(last)
    return tuple(found)


class Groups:
    """Groups to keep: with the bytes of their filters, as `Kept` asks for them."""

    def __init__(self, members: list[Group]) -> None:
        self.members = members
        self.nbytes = sum(group.filters.nbytes for group in members)


def grouped(filters: Callable[[slice, int], Array], ends: Array, size: int) -> list[Group]:
    """Group filters over bins 0 to size // 2 by the length of their bands.

    Parameters
    ----------
    filters : ``filters(rows, end)`` gives the filters of a slice of rows up to bin `end`.
    ends : length of each one's band, at least 1, never rising.
    size : length of the transforms.
    """
    possible = divisors(size)
    steps = [min(q for q in possible if q >= end) for end in ends]
    middle = min(possible, key=lambda q: abs(q * q - size))
    even = size >= LONG and size < 16 * middle * middle < 256 * size
    found, low = [], 0
    while low < len(steps):
        high = low
        while high < len(steps) and steps[high] == steps[low]:
            high += 1
        rows, twice = slice(low, high), even and 2 * steps[low] >= size
        found.append(Group(rows, filters(rows, int(ends[low])), middle if twice else steps[low], twice))
        low = high
    return found


def turns(size: int, steps: int, dtype: Any) -> Array:
    """(Q, P) factors exp(2 pi i r p / L), kept; not to be written to."""
    return KEPT.get(("turns", size, steps, np.dtype(dtype).char), partial(_turns, size, steps, dtype))


def _turns(size: int, steps: int, dtype: Any) -> Array:
    angles = np.multiply.outer(np.arange(steps), np.arange(size // steps)) * (2.0 * np.pi / size)
    found: Array = np.exp(1j * angles).astype(dtype)
    return found


def inverses(
    spectrum: Array, groups: list[Group], size: int, inverse: Inverse, into: Array | None = None,
    fill: Fill | None = None,
) -> Iterator[tuple[slice, Array]]:  # fmt: skip
    """Filter the lowest bins of `spectrum` and transform back, some filters at a time.

    Parameters
    ----------
    spectrum : complex (rows, bins).
    groups : from `grouped`.
    size : L, length of the transforms.
    inverse : whose transforms.
    into : complex (rows, filters, L), where the samples are to stay if need be; None: in a buffer.
    fill : writes the filtered, turned and filled up spectra of a band; None: NumPy does.

    Yields
    ------
    Which filters, and complex samples (rows, those filters, L), lost when the next are asked for if not in `into`.
    """
    for group in groups:
        count = group.rows.stop - group.rows.start
        step = max(1, BLOCK // (size * max(len(spectrum), 1)))
        for low in range(0, count, step):
            part = slice(low, min(low + step, count))
            which = slice(group.rows.start + part.start, group.rows.start + part.stop)
            shape = (len(spectrum), part.stop - part.start, group.steps, size // group.steps)
            room = None if into is None else into[:, which].reshape(shape)
            with inverse.along(shape, spectrum.dtype, room) as (z, run):
                if group.whole:
                    _whole(spectrum, group.filters[part], z, inverse)
                elif fill is None:
                    _short(spectrum, group.filters[part], z, inverse)
                else:
                    steps, apart = shape[2:]
                    factor = spectrum.real.dtype.type(1 / apart if inverse.scaled else 1 / (steps * apart))
                    fill(spectrum, group.filters[part], turns(size, steps, z.dtype), factor, z)
                samples = run()
                if room is not None and not np.may_share_memory(samples, room):  # an array of the library's own
                    np.copyto(room, samples)
                yield which, samples.reshape(*shape[:2], size)


def _short(spectrum: Array, filters: Array, z: Array, inverse: Inverse) -> None:
    steps, apart = z.shape[2:]
    bins = filters.shape[-1]
    z[:, :, bins:] = 0
    factor = filters.dtype.type(1 / apart if inverse.scaled else 1 / (steps * apart))
    if apart == 1:
        np.multiply(spectrum[:, None, :bins], filters if factor == 1 else filters * factor, out=z[:, :, :bins, 0])
    else:
        band = spectrum[:, None, :bins] * (filters * factor)
        np.multiply(band[..., None], turns(steps * apart, steps, z.dtype)[:bins], out=z[:, :, :bins])


def _whole(spectrum: Array, filters: Array, z: Array, inverse: Inverse) -> None:
    rows, count, steps, apart = z.shape
    bins, size = filters.shape[-1], steps * apart
    with inverse.along((rows, count, apart, steps), z.dtype) as (inner, run):
        flat = inner.reshape(rows, count, size)
        factor = filters.dtype.type(1.0 if inverse.scaled else 1.0 / size)
        np.multiply(spectrum[:, None, :bins], filters * factor, out=flat[..., :bins])
        flat[..., bins:] = 0
        np.multiply(run().swapaxes(-1, -2), turns(size, steps, z.dtype), out=z)
