"""Conversions used again: the copy of an array that cannot change is made once for as long as the array lives.

Only JAX arrays are remembered. They are immutable, and to give one to another library means to copy it. All else is
converted each time, because nothing tells whether it has changed since: a NumPy array has no version, and the version
of a tensor (`_version`) does not count what is written through ``t.numpy()``, ``t.data`` or DLPack. Between NumPy and
torch on the host a conversion shares memory anyway and costs 0.6 us.

A copy is found by the array itself, never by its `id` alone: a weak reference must still lead to the same object. It
goes when its array dies, and the oldest go when all together exceed `MOST_BYTES`. NumPy copies are read-only, and a
tensor that has been written to is not used again; only functions that promise to leave their arguments alone
(`Variant.reads_only`) are given any, and only where their result goes back to JAX, which copies it: so nobody outside
can come to hold one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..telemetry import lifetime
from .conversion import kind_of

MOST_BYTES = 256 * 2**20
"""Of all copies together; a larger one is not kept."""
LEAST_BYTES = 2**16
"""Below, copying takes some microseconds, hardly more than finding a copy."""
IMMUTABLE = frozenset({"jax"})
"""Kinds of arrays that never change."""

_Convert = Callable[[Any], Any]


class _Copy(NamedTuple):
    """What is kept of one conversion."""

    source: weakref.ref[Any]
    value: Any
    version: int | None  # of a tensor: whether anybody has written to it
    nbytes: int


class Copies:
    """Copies of immutable arrays by (array, target); thread-safe.

    Parameters
    ----------
    most_bytes, least_bytes : bounds on all copies together, and on one that is worth keeping.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, least_bytes: int = LEAST_BYTES) -> None:
        self.most_bytes, self.least_bytes = most_bytes, least_bytes
        self.nbytes = 0
        self._kept: dict[tuple[int, Any], _Copy] = {}
        self._lock = threading.RLock()  # an array may die, and its copy go, at any line below
        lifetime.free_in_child(self)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, x: Any, target: Any, convert: _Convert) -> Any:
        """``convert(x)``, or what that gave before for this very object and the same `target`."""
        nbytes = x.size * x.dtype.itemsize
        if not self.least_bytes <= nbytes <= self.most_bytes:
            return convert(x)
        key = (id(x), target)
        found = self._kept.get(key)
        # A deleted (donated) array holds nothing any more: its own conversion says so.
        if found is not None and not x.is_deleted() and found.source() is x:
            if getattr(found.value, "_version", None) == found.version:
                return found.value
            self._drop(key, found.source)
        value = convert(x)
        self._keep(key, x, value, nbytes)
        return value

    def clear(self) -> None:
        """Give all copies back."""
        with self._lock:
            self._kept.clear()
            self.nbytes = 0

    def _keep(self, key: tuple[int, Any], x: Any, value: Any, nbytes: int) -> None:
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        source = weakref.ref(x, lambda dead: self._drop(key, dead))
        with self._lock:
            self._take_out(key)
            self._kept[key] = _Copy(source, value, getattr(value, "_version", None), nbytes)
            self.nbytes += nbytes
            while self.nbytes > self.most_bytes:
                self._take_out(next(iter(self._kept)))

    def _drop(self, key: tuple[int, Any], source: weakref.ref[Any]) -> None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None and found.source is source:  # not that of a later array with the same `id`
                self._take_out(key)

    def _take_out(self, key: tuple[int, Any]) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.nbytes -= found.nbytes


COPIES = Copies()


def reusing(convert: _Convert, target: Any) -> _Convert:
    """`convert`, with what it makes of immutable arrays kept; `target` tells kinds and devices apart."""

    def into(x: Any) -> Any:
        return COPIES.get(x, target, convert) if kind_of(x) in IMMUTABLE else convert(x)

    return into
