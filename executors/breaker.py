"""Keeps a variant that failed out of the choice for a while, then lets it try again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from ..telemetry.outcome import Failure

Key = tuple[str, str, str, str]
"""(operation, variant, dtype, size class)"""

_FIRST_S = 1.0
_LONGEST_S = 300.0
_MESSAGE = 120  # characters kept of a failure's own words


@dataclass
class _Open:
    """One open breaker. `bytes`: the smallest need that failed, where the failure is one of memory."""

    count: int
    wait_s: float
    until: float
    reason: str
    bytes: int = 0
    told: bool = False  # that its wait has ended


class Breakers:
    """Breakers of one process; thread-safe. Asking changes nothing, so that deciding and explaining stay pure.

    Parameters
    ----------
    clock : seconds that only grow; injected by tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[Key, _Open] = {}
        self._full: dict[Hashable, _Open] = {}  # marks of memory
        self._fitted: dict[Hashable, int] = {}

    def why_closed_out(self, key: Key) -> str | None:
        """None if `key` may run; else the sentence why not.

        `key` is (operation, variant, dtype, size class): without the dtype, a variant that cannot do float16 would be
        kept out of float64 as well.
        """
        entry = self._open.get(key)
        return None if entry is None else self._sentence(entry)

    def failed(self, key: Key, failure: Failure, message: str) -> None:
        """Open the breaker of `key`: for good if it is unsupported, else for 1 s, doubling up to 5 min."""
        if failure is Failure.USER_ERROR:
            return
        with self._lock:
            self._open[key] = self._opened(self._open.get(key), failure, message)

    def succeeded(self, key: Key) -> None:
        """Close the breaker of `key`."""
        if key in self._open:
            with self._lock:
                self._open.pop(key, None)

    def due_groups(self) -> set[tuple[str, str]]:
        """(operation, dtype) of breakers whose wait has ended since this was last asked: choices to make again."""
        now = self._clock()
        with self._lock:
            due = [(key, entry) for key, entry in self._open.items() if entry.until <= now and not entry.told]
            for _, entry in due:
                entry.told = True
        return {(key[0], key[2]) for key, _ in due}

    def fits(self, place: Hashable, nbytes: int) -> str | None:
        """None if `nbytes` may be tried; else the sentence why not.

        `place` is (operation, variant, device): what failed at one size is kept out at every larger one too.
        """
        mark = self._full.get(place)
        if mark is None or nbytes < mark.bytes:
            return None
        sentence = self._sentence(mark)
        if sentence is None:
            return None
        fitted = self._fitted.get(place)
        known = f"{_mib(fitted)} fitted" if fitted else "nothing is known to fit"
        return f"needs {_mib(nbytes)}, and {_mib(mark.bytes)} {sentence}; {known}"

    def too_much(self, place: Hashable, nbytes: int, message: str = "") -> None:
        """Mark that `nbytes` did not fit."""
        with self._lock:
            before = self._full.get(place)
            mark = self._opened(before, Failure.OUT_OF_MEMORY, message)
            mark.bytes = min(nbytes, before.bytes) if before else nbytes
            self._full[place] = mark
            if self._fitted.get(place, 0) >= mark.bytes:  # it did fit once: memory has become scarcer
                self._fitted[place] = 0

    def fitted(self, place: Hashable, nbytes: int) -> None:
        """Mark that `nbytes` did fit."""
        mark = self._full.get(place)
        if mark is None and self._fitted.get(place, 0) >= nbytes:
            return  # the common case takes no lock
        with self._lock:
            self._fitted[place] = max(nbytes, self._fitted.get(place, 0))
            if mark is not None and nbytes >= mark.bytes:
                self._full.pop(place, None)

    @property
    def any_open(self) -> bool:
        """Whether anything is kept out, or was and may try again."""
        return bool(self._open)

    def clear(self) -> None:
        """Close every breaker and forget every mark."""
        with self._lock:
            self._open.clear()
            self._full.clear()
            self._fitted.clear()

    def _opened(self, before: _Open | None, failure: Failure, message: str) -> _Open:
        now = self._clock()
        reason = f"{failure}: {message}"[:_MESSAGE] if message else str(failure)
        count = 1 if before is None else before.count + 1
        if failure is Failure.UNSUPPORTED or (before is not None and math.isinf(before.until)):
            return _Open(count, math.inf, math.inf, reason)
        if before is None:
            return _Open(count, _FIRST_S, now + _FIRST_S, reason)
        if now < before.until:
            # An attempt that began before the breaker opened: the same trouble, not a failed retry.
            return _Open(count, before.wait_s, before.until, reason)
        wait_s = min(2 * before.wait_s, _LONGEST_S)
        return _Open(count, wait_s, now + wait_s, reason)

    def _sentence(self, entry: _Open) -> str | None:
        left_s = entry.until - self._clock()
        if left_s <= 0:
            return None
        times = "once" if entry.count == 1 else f"{entry.count} times"
        when = "not tried again in this process" if math.isinf(left_s) else f"tried again in {left_s:.1f} s"
        return f"failed {times} ({entry.reason}), {when}"


def _mib(nbytes: int | None) -> str:
    return f"{(nbytes or 0) / 2**20:.1f} MiB"
