"""One after the other: chunks in the caller's own thread, and threads that share one set of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .deadline import left_s
from .mapping import as_worker


def in_turn(work: Callable[[Any], Any], chunks: Iterable[Any], until: float | None) -> Iterator[Any]:
    """``work(chunk)`` for every chunk, here; a RunTimeoutError before one that would begin after `until`."""
    inside = as_worker(work)
    for chunk in chunks:
        left_s(until)
        yield inside(chunk)


def taken(lock: Any) -> bool:
    """Whether another thread holds `lock` now; nothing waits for it."""
    free = lock.acquire(blocking=False)
    if free:
        lock.release()
    return not free
