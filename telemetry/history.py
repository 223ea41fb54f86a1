"""What this machine has taught so far: in memory for choosing, in a file for the next process."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import threading
import time
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from . import lifetime
from .files import history_path
from .load import LoadMeter
from .marks import Marks
from .outcome import BUSY, QUIET, Outcome, Site
from .pace import Pace
from .recorder import LOG_ROWS, PATIENT_S, Recorder
from .state import Group, State
from .statements import Recent
from .trouble import HistoryWarning

__all__ = ["History", "HistoryWarning", "Subscriber"]

Subscriber = Callable[[list[Outcome], set[Group]], object]
"""Called with the new outcomes and the (operation, dtype) groups whose sketches have changed."""

WAITING = 100_000
"""How many outcomes may wait for the flusher; older ones are dropped and counted."""

_WRITE_EVERY_S, _IDLE_ROUNDS_S = 0.25, 1.0
_LOG_PER_SITE, _LOG_WAITING = 1000, 20_000  # rows of one site and write (the log is a sample), and of all

_log = logging.getLogger("pointsman")


class History:
    """Outcomes in, sketches out, kept in one SQLite file.

    The hot path appends ``(site, ended, seconds, rule, label, calls)``, `ended` being a `time.perf_counter` value, to
    `buffer` and calls `wake` if not `awake`. A thread that lives only while something is pending (the flusher) labels
    the outcomes by the machine's load, renews `state`, tells the subscribers, and writes at most every quarter of a
    second. No trouble with the file ever raises or changes a result: each kind is warned of once, as `HistoryWarning`.

    Parameters
    ----------
    path : the file; None: nothing but memory.
    background : whether the flusher runs; without it, only `flush` does anything (replay, tests).
    clock, monotonic : unix time and the clock of `ended`, in seconds.
    meter : reads the machine's load; None: a real one in the background, none (contexts stay as recorded) without.
    log_rows : how many raw outcomes the file keeps.
    """

    _flusher: threading.Thread | None
    _unwritten: State
    _unwritten_ledger: dict[str, float]
    _rows: list[Outcome]

    def __init__(
        self, path: Path | None = None, *, background: bool = True, clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.perf_counter, meter: LoadMeter | None = None, log_rows: int = LOG_ROWS,
    ) -> None:  # fmt: skip
        # Ten times the bound, so that what is dropped is counted by the flusher unless it is held up for seconds.
        self.buffer: deque[Any] = deque(maxlen=10 * WAITING)
        self.awake = not background
        self.state = State(clock)
        self.ledger: dict[str, float] = {}
        self.marks = Marks(clock)
        self.dropped = 0
        self.recent: deque[Recent] = deque(maxlen=10)
        self.location = ":memory:" if path is None else str(path)
        self._background, self._clock, self._monotonic = background, clock, monotonic
        self._meter = LoadMeter() if meter is None and background else meter
        self._subscribers: list[Callable[[], Subscriber | None]] = []
        self._warned: set[str] = set()
        self._closed = False
        self._begin()
        self._recorder: Recorder | None = None
        if path is not None:
            self._recorder = Recorder(path, self._warn_once, log_rows=log_rows, monotonic=monotonic)
            with self._disk:
                content = self._recorder.load()
            self.state.reload(content.cells)
            self.ledger = content.ledger
            self.recent.extend(content.recent)
            self.marks.take(content.memory, content.wrong)
        lifetime.free_in_child(self.marks)
        lifetime.look_after(self)

    @classmethod
    def open(cls, location: str | os.PathLike[str] | None = None, **options: Any) -> History:
        """The history kept at `location`; the same object for the same file within a process, while it is in use.

        Parameters
        ----------
        location : a file, a folder (which gets one file per host), ":memory:" (a private one each time), or None:
            the user's cache folder.
        options : as for the class; they count only where the file is not open yet.
        """
        if location is not None and os.fspath(location) == ":memory:":
            return cls(None, **options)
        path = history_path(location)
        with _OPENING:
            return _OPEN.get(str(path)) or _OPEN.setdefault(str(path), cls(path, **options))

    @property
    def status(self) -> str:
        """ "ok", "read-only" or "memory (why)"."""
        return "memory (as asked)" if self._recorder is None else self._recorder.status

    def now(self) -> float:
        """Unix time by this history's clock: what an outcome's `when` is measured in."""
        return self._clock()

    def record(self, outcome: Outcome) -> None:
        """Remember one outcome. Costs the caller about a microsecond."""
        self.buffer.append(outcome)
        if not self.awake:
            self.wake()

    def hurry(self) -> None:
        """Have the next round begin at once: what was recorded may change a choice."""
        self._pace.hurry()

    def wake(self) -> None:
        """See to it that the flusher runs; returns at once."""
        self.awake = True
        if not self._background or self._closed:
            return
        with self._waking:
            if self._flusher is None:
                if self._meter is not None:
                    self._meter.read()  # the first label is about what follows
                flusher = threading.Thread(target=self._run, name="pointsman-flusher", daemon=True)
                with contextlib.suppress(RuntimeError):  # the interpreter is ending: the last flush takes what waits
                    flusher.start()
                    self._flusher = flusher

    def flush(self) -> None:
        """Return when all that was recorded is in `state`, told to the subscribers, and on disk if that is possible.

        Not to be called while holding a lock that a subscriber takes.
        """
        with self._pace.waited_for(), self._rounds:
            self._round(PATIENT_S, force=True)
            self._catch_up()

    def breathe(self) -> None:
        """For subscribers, between two pieces of work: leave the interpreter to callers, unless somebody waits."""
        self._pace.breathe()

    def subscribe(self, callback: Subscriber) -> None:
        """Have `callback` called after each round. A bound method does not keep its object alive."""
        if hasattr(callback, "__self__"):
            self._subscribers.append(weakref.WeakMethod(callback))
        else:
            self._subscribers.append(lambda: callback)

    def add_ledger(self, name: str, seconds: float) -> None:
        """Add to one of the totals that are kept with the history."""
        with self._counting:
            self.ledger = {**self.ledger, name: self.ledger.get(name, 0.0) + seconds}
            self._unwritten_ledger[name] = self._unwritten_ledger.get(name, 0.0) + seconds
        if not self.awake:
            self.wake()

    def reset(self, operation: str | None = None) -> None:
        """Forget what was learned of `operation`, or everything, in memory and on disk; other processes notice."""
        with self._pace.waited_for(), self._rounds:
            waiting = self._drain()
            self.buffer.extend(item for item in waiting if operation not in (None, item[0].operation))
            gone = self.state.forget(operation)
            self.marks.forget(operation)
            self._unwritten.forget(operation)
            self._rows = [row for row in self._rows if operation not in (None, row.site.operation)]
            if operation is None:
                self.recent.clear()
                with self._counting:
                    self.ledger, self._unwritten_ledger = {}, {}
            if self._recorder is not None:
                with self._disk:
                    self._recorder.reset(operation)
            self._tell([], gone)

    def close(self) -> None:
        """Flush and let go of the file; what is recorded later is lost."""
        self.flush()
        with self._rounds:
            self._closed = True
            if self._recorder is not None:
                self._recorder.close()
        with _OPENING:
            if _OPEN.get(self.location) is self:
                del _OPEN[self.location]

    # The flusher

    def _begin(self) -> None:
        """(Re)create what belongs to this process alone: locks, thread, and what it has not written yet."""
        self._rounds = threading.RLock()
        self._disk = threading.RLock()  # held while SQLite is at work, so that a fork can wait for the end of that
        self._waking = threading.Lock()
        self._counting = threading.Lock()
        self._flusher = None
        self._pace = Pace()
        self._unwritten = State(self._clock)
        self._unwritten_ledger = {}
        self._rows = []
        self._wrote_at = float("-inf")

    def _run(self) -> None:
        idle_since = self._monotonic()
        pace = self._pace
        pace.start()
        while True:
            pace.wait()
            try:
                with pace.round():
                    if self._round(_WRITE_EVERY_S):
                        idle_since = self._monotonic()
            except Exception as error:  # a warning turned into an error, an outcome of nonsense: no thread may die
                _log.warning("%s: %s", type(error).__name__, error)
            if self._closed or self._monotonic() - idle_since >= _IDLE_ROUNDS_S:
                with self._waking:
                    self.awake = False  # first, then look: whoever appends from now on wakes us again
                    stuck = self.status != "ok"  # what cannot be written now waits for the next wake, or the exit
                    if self._closed or not (self.buffer or (self._pending and not stuck)):
                        self._flusher = None
                        return
                    self.awake = True

    @property
    def _pending(self) -> bool:
        return bool(self._rows or self._unwritten_ledger or len(self._unwritten) or self.marks.changed)

    def _round(self, patience_s: float, force: bool = False) -> bool:
        """One round; whether there was anything to do."""
        with self._rounds:
            outcomes = self._outcomes(self._drain())
            changed: set[Group] = set()
            if outcomes:
                fresh = State()
                fresh.apply(outcomes)
                changed = self.state.merge_from(fresh)
                self._unwritten.merge_from(fresh)
                self._keep_rows(outcomes)
                done = (o for o in outcomes[-100:] if o.failure is None and o.site.dtype)  # imports have none
                self.recent.extend((o.site.variant, o.site.operation, o.seconds, o.when) for o in done)
            due = force or self._monotonic() - self._wrote_at >= _WRITE_EVERY_S
            if self._pending and due and not self._closed:
                changed |= self._write(patience_s)
            if outcomes or changed:
                self._tell(outcomes, changed)
            return bool(outcomes)

    def _drain(self) -> list[Any]:
        buffer = self.buffer
        items = []
        for _ in range(len(buffer)):
            try:
                items.append(buffer.popleft())
            except IndexError:  # pragma: no cover - only a forked child's clear() can take them away
                break
        if len(items) > WAITING:
            self.dropped += len(items) - WAITING
            del items[:-WAITING]
        return items

    def _outcomes(self, items: list[Any]) -> list[Outcome]:
        """Full outcomes, labelled by the load of the time since the last round."""
        if not items:
            return []
        busy = self._meter is not None and self._meter.read().busy
        context = BUSY if busy else QUIET
        offset = self._clock() - self._monotonic()
        outcomes = []
        for item in items:
            if not isfinite(item[2]):  # of both forms: the seconds
                continue
            if type(item) is tuple:
                site, ended, seconds, rule, *more = item
                label, calls = more or ("", 1)
                # By position: three times as fast as by name, and this runs once per recorded call.
                when = ended + offset
                outcomes.append(
                    Outcome(site, when, seconds, 0.0, 0.0, 0.0, 0.0, 0, None, "", label, context, rule, calls)
                )
            else:
                outcomes.append(item._replace(context=BUSY) if busy else item)
        return outcomes

    def _keep_rows(self, outcomes: Sequence[Outcome]) -> None:
        if self._recorder is None or self._recorder.lost:
            return
        counts: Counter[Site] = Counter()
        for outcome in outcomes:
            counts[outcome.site] += 1
            if counts[outcome.site] <= _LOG_PER_SITE or outcome.failure is not None or outcome.cold:
                self._rows.append(outcome)
        del self._rows[:-_LOG_WAITING]

    def _catch_up(self) -> None:
        """Take over what other processes have written; who asks for a flush wants the whole of it."""
        if self._recorder is None or self._pending or self._closed:
            return
        with self._disk:
            content = self._recorder.look(self.marks)
        if content is None:
            return
        with self._counting:
            self.ledger = dict(content.ledger)
        self.recent = deque(content.recent, maxlen=10)
        self.marks.take(content.memory, content.wrong)
        self._tell([], self.state.reload(content.cells))

    def _write(self, patience_s: float) -> set[Group]:
        """Write what is unwritten; returns the groups whose sketches have changed by what others wrote."""
        self._wrote_at = self._monotonic()
        with self._counting:
            ledger, self._unwritten_ledger = self._unwritten_ledger, {}
        recorder = self._recorder
        written = None
        if recorder is not None:
            with self._disk:
                written = recorder.write(self._rows, self._unwritten, ledger, self.marks, self._clock(), patience_s)
        if recorder is None or recorder.lost:
            self._rows, self._unwritten, self.marks.changed = [], State(self._clock), False
            return set()
        if written is None:
            with self._counting:
                for name, seconds in ledger.items():
                    self._unwritten_ledger[name] = self._unwritten_ledger.get(name, 0.0) + seconds
            return set()
        self._rows, self._unwritten = [], State(self._clock)
        with self._counting:
            self.ledger = dict(written.ledger)
            for name, seconds in self._unwritten_ledger.items():
                self.ledger[name] = self.ledger.get(name, 0.0) + seconds
        if written.complete:
            return self.state.reload(written.cells)
        return self.state.replace(written.cells) if written.others else set()

    def _tell(self, outcomes: list[Outcome], changed: set[Group]) -> None:
        for reference in tuple(self._subscribers):
            callback = reference()
            if callback is None:
                self._subscribers.remove(reference)
                continue
            try:
                callback(outcomes, changed)
            except Exception as error:
                self._warn_once(
                    f"subscriber {type(error).__name__}",
                    f"asked to pass on what was learned: {callback!r} raised {type(error).__name__}: {error}; "
                    "choices may be stale, results are not affected. Please report this",
                )

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(HistoryWarning(text), stacklevel=2)

    def _leave(self) -> None:
        """Write what waits and close the file, which puts SQLite's log back into it: a lone file can be copied."""
        if not self._background:
            return
        with self._pace.waited_for():
            if self.buffer or self._pending:
                self._round(patience_s=1.0, force=True)
            if self._recorder is not None and self._rounds.acquire(timeout=1.0):
                with contextlib.suppress(sqlite3.Error):  # another process is at it: it will do so
                    self._recorder.close()
                self._rounds.release()

    def _after_fork(self) -> None:
        self.buffer.clear()  # the parent still has all of it, and will write it
        self.awake = not self._background
        self._begin()
        self.state.after_fork()
        if self._recorder is not None:
            self._recorder.after_fork()


def kept_in() -> Path | None:
    """The folder of a history file that this process has open; None where nothing is kept on disk."""
    kept = (Path(h.location).parent for h in tuple(_OPEN.values()) if not h.status.startswith("memory"))
    return next(kept, None)


_OPENING = threading.Lock()
_OPEN: weakref.WeakValueDictionary[str, History] = weakref.WeakValueDictionary()
lifetime.free_in_child(sys.modules[__name__], "_OPENING")
