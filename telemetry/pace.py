"""When the flusher works, and how it leaves the interpreter to others, who else wait for it in turns of 5 ms."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

FIRST_ROUND_S, SLOWEST_ROUND_S, GROWTH = 0.02, 0.5, 1.25
"""A fresh start learns fast."""
RESTS, LONGEST_REST_S = 40.0, 1.0
"""Rest after a round, as a multiple of the work in it."""
PAUSES, LONGEST_PAUSE_S = 2.0, 0.01
"""The same after each piece of a round: a call that comes meanwhile waits for a piece, not for the whole."""


class Pace:
    """The rounds of one flusher thread.

    Parameters
    ----------
    clock, sleep : where time comes from and goes to.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._news = threading.Event()
        self._round_s = FIRST_ROUND_S
        self._rest_s = self._worked_s = self._since = 0.0
        self._thread: int | None = None
        self._waiting = 0  # callers who want a round to end

    def start(self) -> None:
        """Begin anew, on the calling thread."""
        self._thread = threading.get_ident()
        self._round_s, self._rest_s = max(FIRST_ROUND_S, self._round_s / 4.0), 0.0

    def hurry(self) -> None:
        """Have the next round begin at once."""
        self._news.set()

    def wait(self) -> None:
        """Return when the next round is due."""
        self._sleep(self._rest_s)
        news = self._news.wait(self._round_s)
        self._news.clear()
        self._round_s = FIRST_ROUND_S if news else min(self._round_s * GROWTH, SLOWEST_ROUND_S)

    @contextlib.contextmanager
    def round(self) -> Iterator[None]:
        """To be held during a round."""
        self._worked_s, self._since = 0.0, self._clock()
        try:
            yield
        finally:
            self._worked_s += self._clock() - self._since
            self._rest_s = min(RESTS * self._worked_s, LONGEST_REST_S)

    def breathe(self) -> None:
        """Between two pieces of a round: rest, if this is the flusher's thread and nobody waits for the end."""
        if self._waiting or threading.get_ident() != self._thread:
            return
        worked_s = self._clock() - self._since
        self._worked_s += worked_s
        self._sleep(min(PAUSES * worked_s, LONGEST_PAUSE_S))
        self._since = self._clock()

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """To be held by who waits for a round to end."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
