"""Linear filters through the Fourier transform on NumPy: good lengths, kept buffers, kept spectra."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from ..executors import buffers
from ..telemetry.lifetime import free_in_child

Array = np.ndarray[Any, Any]
_TAKES_OUT = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


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


def flops(lengths: Sequence[int]) -> float:
    """Elementary operations of one real transform of that shape."""
    total = 1
    for n in lengths:
        total *= n
    return 2.5 * total * max(total - 1, 1).bit_length()


def filtered(
    x: Array, response: Array, sizes: tuple[int, ...], cut: tuple[slice, ...], scale: float | None = None
) -> Array:
    """Apply a filter to the last one or two axes of `x`: transform, multiply, transform back, cut, scale.

    Parameters
    ----------
    x : samples, real or complex.
    response : the filter's spectrum over `sizes`, real transform where `x` is real.
    sizes : transform lengths of the last axes, one or two.
    cut : what to keep of the last axes.
    scale : factor on the result; None for one.

    Returns
    -------
    A fresh array of `x`'s dtype. Everything before it lives in kept buffers: a fresh temporary above 128 KiB costs
    page faults on every call, which made these filters 2 to 2.8 times slower.
    """
    real = x.dtype.kind != "c"
    last = sizes[-1]
    bins = last // 2 + 1 if real else last
    outer = (*x.shape[:-2], sizes[0]) if len(sizes) == 2 else x.shape[:-1]
    with (
        buffers.borrow((*outer, bins), response.dtype) as spectrum,
        buffers.borrow((*_rows_cut(outer, cut), last), x.dtype) as result,
    ):
        forward: Any = np.fft.rfft if real else np.fft.fft
        backward: Any = np.fft.irfft if real else np.fft.ifft
        if len(sizes) == 2:
            n0 = x.shape[-2]
            _into(forward, x, last, spectrum[..., :n0, :])
            spectrum[..., n0:, :] = 0
            _into(np.fft.fft, spectrum, None, spectrum, axis=-2)
            np.multiply(spectrum, response, out=spectrum)
            _into(np.fft.ifft, spectrum, None, spectrum, axis=-2)
            _into(backward, spectrum[..., cut[0], :], last, result)  # rows that are cut away are not transformed
        else:
            _into(forward, x, last, spectrum)
            np.multiply(spectrum, response, out=spectrum)
            _into(backward, spectrum, last, result)
        kept: Array = result[..., cut[-1]]
        if scale is None:
            return kept.copy()
        scaled: Array = kept * x.dtype.type(scale)
        return scaled


def _rows_cut(outer: tuple[int, ...], cut: tuple[slice, ...]) -> tuple[int, ...]:
    return (*outer[:-1], cut[0].stop - cut[0].start) if len(cut) == 2 else outer


def _into(transform: Any, x: Array, n: int | None, out: Array, axis: int = -1) -> None:
    if _TAKES_OUT:
        transform(x, n, axis=axis, out=out)
    else:  # NumPy before 2.0 has no `out`, and answers in double precision
        out[...] = transform(x, n, axis=axis)


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
