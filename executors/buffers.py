"""Work buffers kept from call to call: fresh temporaries cost FFT kernels 2 to 2.8 times their time.

    with buffers.borrow((n,), "complex128") as spectrum:
        numpy.fft.fft(x, out=spectrum)

A buffer belongs to its borrower until the block ends; nobody else can be given it, however calls nest. Its contents are
undefined at first and lost at the end: never hand it, or a view of it, to a user.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_BYTES = 256 * 2**20  # kept per thread; a larger request is served and not kept

_Key = tuple[tuple[int, ...], Any, str]
_Array = np.ndarray[Any, Any]


class _Pool(threading.local):
    """Buffers of one thread that nobody uses now, oldest first."""

    def __init__(self) -> None:
        self.idle: dict[_Key, _Array] = {}
        self.nbytes = 0


_POOL = _Pool()


class borrow:
    """Lend a C-contiguous array of `shape` and `dtype` for the length of a ``with`` block.

    Parameters
    ----------
    shape : lengths of the axes, or one length.
    dtype : anything that NumPy takes as a dtype.
    slot : tells buffers of one shape and dtype apart that take turns; two borrowed at once are distinct anyway.
    """

    __slots__ = ("_array", "_key")

    def __init__(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike, slot: str = "") -> None:
        self._key: _Key = (shape if isinstance(shape, tuple) else (shape,), dtype, slot)

    def __enter__(self) -> _Array:
        # Taken out of the pool while in use, so that a nested borrower of the same key gets another one.
        array = _POOL.idle.pop(self._key, None)
        if array is None:
            array = np.empty(self._key[0], self._key[1])
        else:
            _POOL.nbytes -= array.nbytes
        self._array = array
        return array

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        array = self._array
        del self._array
        _keep(self._key, array)


def _keep(key: _Key, array: _Array) -> None:
    pool, nbytes = _POOL, array.nbytes
    if nbytes > MOST_BYTES or key in pool.idle:
        return
    while pool.nbytes + nbytes > MOST_BYTES:
        oldest = next(iter(pool.idle))
        pool.nbytes -= pool.idle.pop(oldest).nbytes
    pool.idle[key] = array
    pool.nbytes += nbytes


def kept_bytes() -> int:
    """Bytes that this thread's idle buffers hold."""
    return _POOL.nbytes


def clear() -> None:
    """Give this thread's idle buffers back to the system."""
    _POOL.idle.clear()
    _POOL.nbytes = 0
