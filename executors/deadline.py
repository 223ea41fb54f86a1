"""The time until which a run may go on: by `time.monotonic`, or None for ever."""

from __future__ import annotations

import queue
import time
from typing import TypeVar

from .errors import RunTimeoutError

T = TypeVar("T")


def in_time(until: float | None) -> bool:
    """Whether more may be begun."""
    return until is None or time.monotonic() < until


def left_s(until: float | None) -> float | None:
    """Seconds until `until`, None where it is None; a RunTimeoutError where it has passed."""
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0.0:
        raise RunTimeoutError("the run's time is over")
    return left


def arrived(results: queue.SimpleQueue[T], until: float | None) -> T:
    """The next of `results`, past `until` too if there is one; a RunTimeoutError where none comes in time."""
    while results.empty():
        try:
            return results.get(timeout=left_s(until))
        except queue.Empty:
            continue  # and `left_s` raises
    return results.get()
