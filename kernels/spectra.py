"""Linear filters through the Fourier transform: good lengths, kept work arrays, kept spectra."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from ..telemetry.lifetime import free_in_child
from .transforms import NUMPY, Engine

Array = np.ndarray[Any, Any]
_REAL: dict[str, Any] = {"f": np.float32, "F": np.float32, "d": np.float64, "D": np.float64}
LEAST_PASSES = 2.4
"""Operations to a sample and octave of length, where all prime factors are 5 at most: 2 for 2, 2.15 for 5; more than
that is not awkward yet."""
_LEAST = {char: float(np.finfo(real).tiny) for char, real in _REAL.items()}


@lru_cache(maxsize=4096)
def fast_length(n: int) -> int:
    """The smallest even 2^a 3^b 5^c that is at least `n`: lengths that every FFT library is quick at."""
    best = 1 << max(1, (n - 1).bit_length())
    five = 1
    while five < best:
        three = five
        while three < best:
            two = 2 * three
            while two < n:
                two *= 2
            best = min(best, two)
            three *= 3
        five *= 5
    return best


@lru_cache(maxsize=4096)
def awkwardness(n: int) -> float:
    """How many times as long a transform of length `n` takes as one of a length 2^a 3^b 5^c near it.

    A mixed-radix transform passes over the samples once for each prime factor p, p operations to a sample; what it
    would spend on large ones bounds Bluestein's way around them: three transforms of twice the length.
    """
    left, passes, p = n, 0.0, 2
    while p * p <= left:
        while left % p == 0:
            left, passes = left // p, passes + p
        p += 1 if p == 2 else 2
    passes += left if left > 1 else 0.0
    octaves = math.log2(max(n, 2))
    return max(1.0, min(passes / (LEAST_PASSES * octaves), 6.0 * (1.0 + 1.0 / octaves)))


def flops(lengths: Sequence[int]) -> float:
    """Elementary operations of one real transform of that shape."""
    total, factor = 1, 0.0
    for n in lengths:
        total *= n
        factor += awkwardness(n) / len(lengths)  # as much of the work lies along each axis
    return 2.5 * total * max(total - 1, 1).bit_length() * factor


def filtered(
    x: Array,
    response: Array,
    sizes: tuple[int, ...],
    cut: tuple[slice, ...],
    scale: float = 1.0,
    engine: Engine = NUMPY,
) -> Array:
    """Apply a filter to the last one or two axes of `x`: transform, multiply, transform back, cut, scale.

    Parameters
    ----------
    x : samples, real or complex.
    response : the filter's spectrum over `sizes`, real transform where `x` is real.
    sizes : transform lengths of the last axes, one or two.
    cut : what to keep of the last axes.
    scale : factor on the result.
    engine : whose transforms; see `transforms`.

    Returns
    -------
    A fresh array of `x`'s dtype. Everything before it lives in work arrays that are kept: fresh temporaries made these
    filters 2 to 2.8 times slower.
    """
    char, wanted = x.dtype.char, scale if engine.scaled else scale / math.prod(sizes)
    if abs(wanted) < _LEAST[char] <= abs(scale):  # the two in one would lose digits that each of them has
        y = filtered(x, response, sizes, cut, 1.0, engine)
        y *= _REAL[char](scale)
        return y
    axes, factor = len(sizes), _REAL[char](wanted)
    lead = x.shape[: x.ndim - axes]
    rows, step = math.prod(lead), max(engine.at_once // math.prod(sizes), engine.least)
    if rows <= step:
        return _one_block(x, response, sizes, cut, factor, engine)
    stack = x.reshape(rows, *x.shape[x.ndim - axes :])
    y = np.empty((rows, *(part.stop - part.start for part in cut)), x.dtype)
    for low in range(0, rows, step):
        block = slice(low, low + step) if step > 1 else low
        _one_block(stack[block], response, sizes, cut, factor, engine, out=y[block])
    return y.reshape(*lead, *y.shape[1:])


def _one_block(
    x: Array,
    response: Array,
    sizes: tuple[int, ...],
    cut: tuple[slice, ...],
    factor: Any,
    engine: Engine,
    out: Array | None = None,
) -> Array:
    with engine.pair(x.shape, sizes, x.dtype) as pair:
        spectrum = pair.forward(x)
        np.multiply(spectrum, response, out=spectrum)
        # The inverse transform's own factor goes into the pass that copies the result out in any case.
        y: Array = np.multiply(pair.backward(cut), factor, out=out)
    return y


def workspace(rows: int, sizes: Sequence[int]) -> float:
    """Bytes that `filtered` needs beside operands and result, at 8 bytes a real number, on the hungriest engine."""
    total = math.prod(sizes)
    return 16.0 * (min(rows * total, max(NUMPY.at_once, total)) + total)


class Kept:
    """Arrays worth keeping between calls, least recently used first to go. Thread-safe.

    Parameters
    ----------
    bytes_most : bound on what is kept; an array above a half of it is never kept.
    """

    def __init__(self, bytes_most: int) -> None:
        self._bytes_most = bytes_most
        self._bytes = 0
        self._arrays: OrderedDict[Hashable, Array] = OrderedDict()
        self._lock = Lock()
        free_in_child(self)

    def get(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """The array kept under `key`, made now if there is none. Callers must not write to it."""
        with self._lock:
            found = self._arrays.get(key)
            if found is not None:
                self._arrays.move_to_end(key)
                return found
        made = make()
        if made.nbytes <= self._bytes_most // 2:
            with self._lock:
                if key not in self._arrays:  # another thread may have been quicker
                    self._arrays[key] = made
                    self._bytes += made.nbytes
                while self._bytes > self._bytes_most:
                    self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return made

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return self._bytes
