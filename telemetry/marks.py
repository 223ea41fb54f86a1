"""What is kept out of the choice, and still is in the next process: where memory ends, and variants that err."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

Place = tuple[str, str, str]
"""(operation, variant, device): what a workspace is held against"""

Accused = tuple[str, str, str]
"""(operation, variant, dtype): what a wrong result is held against"""

DAY_S = 86_400.0
"""For so long a workspace that failed is not tried again; then it may be."""

EASED = 1.25
"""With so many times the memory to spare that there was at the failure, it is tried again at once."""

_MESSAGE = 120


class Mark(NamedTuple):
    """How far memory goes at one place: the largest workspace that fitted, the smallest that failed.

    Bytes, and unix times; 0 for what is not known. `spare` is what there was to spare when it failed.
    """

    fitted: int = 0
    fitted_at: float = 0.0
    failed: int = 0
    failed_at: float = 0.0
    spare: int = 0
    message: str = ""

    def merged(self, other: Mark) -> Mark:
        """What both together say; where a size is said to fit and to fail, the later word counts."""
        fitted, fitted_at = max((self.fitted, self.fitted_at), (other.fitted, other.fitted_at))
        failing = [mark for mark in (self, other) if mark.failed]
        if not failing:
            return Mark(fitted, fitted_at)
        failed = min(mark.failed for mark in failing)
        last = max(failing, key=lambda mark: (mark.failed_at, mark.spare, mark.message))
        if fitted >= failed:
            if fitted_at > last.failed_at:
                return Mark(fitted, fitted_at)
            fitted, fitted_at = 0, 0.0  # it did fit once: memory has become scarcer
        return Mark(fitted, fitted_at, failed, last.failed_at, last.spare, last.message)


class Wrong(NamedTuple):
    """A variant that gave a wrong result: with which library, when (unix time), and what was found."""

    backend: str
    version: str
    since: float
    evidence: str


class Held(str):
    """The sentence why a workspace is not tried. It steers: where nothing else is left, it is tried all the same."""

    __slots__ = ()


class Marks:
    """Marks of one history; thread-safe. Asking changes nothing.

    Parameters
    ----------
    clock : unix time in seconds.

    Attributes
    ----------
    memory, wrong : what is known; replaced as a whole, never changed, so that readers need no lock.
    changed : whether something is not written yet.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.memory: Mapping[Place, Mark] = {}
        self.wrong: Mapping[Accused, Wrong] = {}
        self.changed = False

    def why_not(self, place: Place, nbytes: int, spare: int = 0) -> Held | None:
        """None if `nbytes` may be tried; else the sentence why not.

        What failed at one size is kept out at every larger one too: for a day, or until there is notably more memory
        to spare than there was.

        Parameters
        ----------
        spare : bytes to spare now; 0 where that is not known.
        """
        mark = self.memory.get(place)
        if mark is None or not mark.failed or nbytes < mark.failed:
            return None
        left_s = mark.failed_at + DAY_S - self._clock()
        if left_s <= 0 or (mark.spare and spare > EASED * mark.spare):
            return None
        fitted = f"{_mib(mark.fitted)} fitted" if mark.fitted else "nothing is known to fit"
        sooner = f", or with more than {_mib(int(EASED * mark.spare))} to spare" if mark.spare else ""
        return Held(
            f"needs {_mib(nbytes)}, and {_mib(mark.failed)} failed ({mark.message}); {fitted}; "
            f"tried again in {left_s / 3600:.1f} h{sooner}"
        )

    def failed(self, place: Place, nbytes: int, message: str = "", spare: int = 0) -> None:
        """Mark that `nbytes` did not fit while there were `spare` bytes to spare."""
        why = f"out of memory: {message}"[:_MESSAGE] if message else "out of memory"
        self._mark(place, Mark(failed=nbytes, failed_at=self._clock(), spare=spare, message=why))

    def fitted(self, place: Place, nbytes: int) -> None:
        """Mark that `nbytes` did fit."""
        mark = self.memory.get(place)
        if mark is not None and nbytes <= mark.fitted:
            return  # the common case takes no lock
        self._mark(place, Mark(fitted=nbytes, fitted_at=self._clock()))

    def disqualify(self, accused: Accused, backend: str, version: str, evidence: str) -> None:
        """Keep a variant out for good, as long as `version` is what computes it."""
        with self._lock:
            self.wrong = {**self.wrong, accused: Wrong(backend, version, self._clock(), evidence[:500])}
            self.changed = True

    def take(self, memory: Mapping[Place, Mark], wrong: Mapping[Accused, Wrong]) -> None:
        """Take over what a file holds, beside what is known here."""
        with self._lock:
            self.memory, self.wrong = both(self.memory, memory), latest(self.wrong, wrong)

    def forget(self, operation: str | None = None) -> None:
        """Drop the marks of `operation`, or all."""
        with self._lock:
            self.memory = {k: v for k, v in self.memory.items() if operation not in (None, k[0])}
            self.wrong = {k: v for k, v in self.wrong.items() if operation not in (None, k[0])}

    def _mark(self, place: Place, fresh: Mark) -> None:
        with self._lock:
            self.memory = both(self.memory, {place: fresh})
            self.changed = True


def both(one: Mapping[Place, Mark], other: Mapping[Place, Mark]) -> dict[Place, Mark]:
    """The marks of both, merged."""
    return {**one, **{place: one.get(place, Mark()).merged(mark) for place, mark in other.items()}}


def latest(one: Mapping[Accused, Wrong], other: Mapping[Accused, Wrong]) -> dict[Accused, Wrong]:
    """Who is disqualified by either, with the later evidence."""
    return {**one, **{who: max(one.get(who, what), what, key=lambda w: w.since) for who, what in other.items()}}


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"
