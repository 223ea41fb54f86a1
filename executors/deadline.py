"""The time until which a run may go on: by `time.monotonic`, or None for ever."""

from __future__ import annotations

import time

from .errors import RunTimeoutError


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
