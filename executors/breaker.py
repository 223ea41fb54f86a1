"""Keeps a variant that failed out of the choice for a while, then lets it try again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

from ..telemetry.marks import Marks
from ..telemetry.outcome import Failure
from . import registry

Key = tuple[str, str, str, str]
"""(operation, variant, dtype, size class)"""

_FIRST_S = 1.0
_LONGEST_S = 300.0
_MESSAGE = 120  # characters kept of a failure's own words


@dataclass
class _Open:
    """One open breaker."""

    count: int
    wait_s: float
    until: float
    reason: str
    told: bool = False  # that its wait has ended


class Breakers:
    """Breakers of one process; thread-safe. Asking changes nothing, so that deciding and explaining stay pure.

    Parameters
    ----------
    clock : seconds that only grow; injected by tests.

    Attributes
    ----------
    marks : what is kept out beyond this process: where memory ends, and variants that gave wrong results.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[Key, _Open] = {}
        self.marks = Marks()

    def why_closed_out(self, key: Key) -> str | None:
        """None if `key` may run; else the sentence why not.

        `key` is (operation, variant, dtype, size class): without the dtype, a variant that cannot do float16 would be
        kept out of float64 as well.
        """
        if self.marks.wrong:
            why = self._disqualified(key)
            if why is not None:
                return why
        entry = self._open.get(key)
        return None if entry is None else self._sentence(entry)

    def disqualify(self, key: Key, backend: str, evidence: str) -> None:
        """Keep a variant out at every size, and in later processes: it computed something wrong.

        A new version of the backend's library, or of pointsman, may try again.
        """
        self.marks.disqualify(key[:3], backend, version_of(backend), evidence)

    def _disqualified(self, key: Key) -> str | None:
        found = self.marks.wrong.get(key[:3])
        if found is None or found.version != version_of(found.backend):
            return None
        return (
            f"disqualified, {Failure.WRONG_RESULT} ({found.evidence}) with {found.version}; another version, or "
            f"`pointsman history reset --operation {key[0]}`, lets it run again"
        )

    def failed(self, key: Key, failure: Failure, message: str) -> None:
        """Open the breaker of `key`: for good if it is unsupported, else for 1 s, doubling up to 5 min."""
        if failure is Failure.USER_ERROR:
            return
        with self._lock:
            self._open[key] = self._opened(self._open.get(key), failure, message)

    def succeeded(self, key: Key) -> None:
        """Close the breaker of `key`; what works again at one size may try again at once at the others."""
        if key in self._open:
            with self._lock:
                self._open.pop(key, None)
                now = self._clock()
                for other, entry in self._open.items():
                    if other[:3] == key[:3] and now < entry.until < math.inf:
                        entry.until = now

    def due_groups(self) -> set[tuple[str, str]]:
        """(operation, dtype) of breakers whose wait has ended since this was last asked: choices to make again."""
        now = self._clock()
        with self._lock:
            due = [(key, entry) for key, entry in self._open.items() if entry.until <= now and not entry.told]
            for _, entry in due:
                entry.told = True
        return {(key[0], key[2]) for key, _ in due}

    @property
    def any_open(self) -> bool:
        """Whether anything is kept out, or was and may try again."""
        return bool(self._open)

    def clear(self) -> None:
        """Close every breaker and forget every mark."""
        with self._lock:
            self._open.clear()
        self.marks.forget()

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


@lru_cache(maxsize=64)
def version_of(backend: str) -> str:
    """What computes on a backend: its library's version, and ours, whose code the variants are."""
    try:
        library = registry.executor(backend).version()
    except (ValueError, ImportError):
        library = ""
    try:
        own = metadata.version("pointsman")
    except metadata.PackageNotFoundError:
        own = ""
    return f"{backend} {library or '?'} and pointsman {own or '?'}"


registry.on_change(version_of.cache_clear)
