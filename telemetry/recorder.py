"""The one place that opens a history file, and survives whatever is the matter with it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import schema, statements
from .attempts import Begun
from .files import create_private, identity, is_foreign, is_writable, move_aside, on_network
from .marks import Marks
from .outcome import Outcome
from .sketch import Sketch
from .state import Key, State
from .statements import Content
from .trouble import Trouble, leak, trouble_of

LOG_ROWS = 200_000
"""How many raw outcomes are kept; the sketches remember the rest."""

PATIENT_S = 5.0
"""How long somebody who waits for the disk lets others finish."""

_RELOAD_S = 30.0
_LOCKED_RETRY_S = 1.0
_FULL_RETRY_S = 60.0
_ERRORS = (sqlite3.Error, OSError, ValueError, KeyError, TypeError)  # the last three: content that makes no sense


@dataclass
class Written:
    """What the file holds after a write: the touched cells, or all of them where others have written as well."""

    cells: Mapping[Key, Sketch] = field(default_factory=dict)
    others: bool = False  # other processes have written since the last complete look
    complete: bool = False
    ledger: dict[str, float] = field(default_factory=dict)
    resets: set[str] = field(default_factory=set)  # operations ("": everything) that another process has reset


class Recorder:
    """A history file that may be absent, locked, full, foreign or broken: none of that raises.

    `status` says how it stands; ``warn(kind, text)`` is told of each trouble. Not thread-safe: its owner locks.
    """

    def __init__(
        self,
        path: Path,
        warn: Callable[[str, str], None],
        *,
        log_rows: int = LOG_ROWS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.status = "ok"
        self.log_rows = log_rows
        self._warn = warn
        self._monotonic = monotonic
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._lost = False
        self._retry_at = float("-inf")
        self._data_version = -1
        self._generations: dict[str, int] = {}
        self._others_wrote = False
        self._reloaded_at = float("-inf")
        self._until_trim = 0
        self._over: list[int] = []  # large runs that have ended and could not be struck out then

    def __del__(self) -> None:
        self.close()

    @property
    def lost(self) -> bool:
        """Whether nothing will be written any more."""
        return self._lost

    def load(self) -> Content:
        """All that the file holds; empty where there is none yet or it cannot be read."""
        try:
            connection = self._ready(PATIENT_S, create=False)
            if connection is None:
                return Content()
            self._data_version = statements.data_version(connection)
            content = statements.load(connection)
        except _ERRORS as error:
            self._survive(error, insist=True)
            return Content()
        self._reloaded_at = self._monotonic()
        self._tell_damaged(content)
        if self._lost:  # read-only: one look is all there is
            self.close()
        return content

    def look(self, marks: Marks) -> Content | None:
        """All that the file holds, if other processes have written since the last complete look; else None.

        What they have reset is forgotten from `marks`.
        """
        try:
            connection = self._ready(PATIENT_S, create=False)
            if connection is None or self._lost:
                return None
            version = statements.data_version(connection)  # first: what is written meanwhile shows the next time
            if version == self._data_version and not self._others_wrote:
                return None
            generations = statements.generations(connection)
            content = statements.load(connection)
        except _ERRORS as error:
            self._survive(error, insist=True)
            return None
        for name in self._reset_since(generations):
            marks.forget(name or None)
        self._generations, self._data_version = generations, version
        self._others_wrote, self._reloaded_at = False, self._monotonic()
        return content

    def write(
        self, outcomes: Sequence[Outcome], delta: State, ledger: Mapping[str, float], marks: Marks, now: float,
        patience_s: float,
    ) -> Written | None:  # fmt: skip
        """Add outcomes, sketches, ledger entries and marks to the file in one transaction; None: not now, keep them.

        Where another process has reset operations, their part of `delta` and `marks` is forgotten first. `marks` then
        holds what others have marked as well. `now` is unix time.
        """
        try:
            connection = self._ready(patience_s, create=True)
            if connection is None:
                return None
            with _transaction(connection):
                written = self._notice(connection)
                for name in written.resets:
                    delta.forget(name or None)
                    marks.forget(name or None)
                kept = [o for o in outcomes if not written.resets & {"", o.site.operation}]
                statements.add_outcomes(connection, kept)
                written.cells = statements.merge_cells(connection, delta.cells, now)
                statements.add_ledger(connection, {} if "" in written.resets else ledger)
                over = tuple(self._over)
                statements.end_attempts(connection, over)
                changed, marks.changed = marks.changed, False  # first: what is marked meanwhile waits for the next time
                if changed or written.others:
                    statements.merge_marks(connection, marks, now)
                self._trim(connection, len(kept))
                written.ledger = statements.read_ledger(connection)
                if written.complete:
                    written.cells = statements.load(connection).cells
                generations = statements.generations(connection)
                version = statements.data_version(connection)
        except _ERRORS as error:
            marks.changed = True
            self._survive(error, insist=patience_s >= PATIENT_S)
            return None
        del self._over[: len(over)]
        self.status, self._retry_at = "ok", float("-inf")
        self._generations, self._data_version = generations, version
        if written.complete:
            self._others_wrote, self._reloaded_at = False, self._monotonic()
        return written

    def announce(self, begun: Begun, patience_s: float) -> int | None:
        """Have it in the file at once that a large run has begun; None where that cannot be, now or at all."""
        try:
            connection = self._ready(patience_s, create=True)
            return None if connection is None else statements.begin_attempt(connection, begun)
        except _ERRORS as error:
            self._survive(error, insist=False)
            return None

    def retract(self, number: int, patience_s: float) -> None:
        """Strike out what `announce` gave this number, now or with the next write."""
        self._over.append(number)
        try:
            connection = self._ready(patience_s, create=False)
            if connection is not None:
                statements.end_attempts(connection, self._over)
                self._over.clear()
        except _ERRORS as error:
            self._survive(error, insist=False)

    def reset(self, operation: str | None) -> bool:
        """Delete what is known of `operation`, or everything, and let other processes notice; whether that worked."""
        self._retry_at = float("-inf")
        try:
            connection = self._ready(PATIENT_S, create=False)
            if connection is None:
                return not self.path.exists()
            with _transaction(connection):
                statements.reset(connection, operation)
                generations = statements.generations(connection)
        except _ERRORS as error:
            self._survive(error, insist=True)
            return False
        self._generations = generations
        return True

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def after_fork(self) -> None:
        """Let go of the parent's connection without closing it: that would touch the parent's file and locks."""
        connection, self._connection = self._connection, None
        if connection is not None:
            leak(connection)

    # Opening

    def _ready(self, patience_s: float, *, create: bool) -> sqlite3.Connection | None:
        """A connection to a current file that waits `patience_s` for locks; None: there is none to be had."""
        waiting = self._monotonic() < self._retry_at and patience_s < PATIENT_S
        if self._lost or waiting:
            return None
        if self._connection is not None and identity(self.path) != self._identity:
            self.close()  # deleted or moved by someone else: nobody would ever read what we wrote there
        if self._connection is None:
            self._connection = self._open(patience_s, create)
        if self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
        return self._connection

    def _open(self, patience_s: float, create: bool) -> sqlite3.Connection | None:
        if not self.path.exists():
            if not create:
                return None
            create_private(self.path)
        writable = is_writable(self.path)
        before, self._identity = self._identity, identity(self.path)
        target = self.path.as_uri() + ("" if writable else "?mode=ro&immutable=1")
        connection = sqlite3.connect(
            target, uri=True, timeout=patience_s, isolation_level=None, check_same_thread=False
        )
        usable = False
        try:
            usable = self._prepare(connection, writable, create, patience_s)
            if usable and writable and before != self._identity:
                self._generations = statements.generations(connection)
        finally:
            if not usable:
                connection.close()
        return connection if usable else None

    def _prepare(self, connection: sqlite3.Connection, writable: bool, create: bool, patience_s: float) -> bool:
        version = schema.user_version(connection)
        if version > schema.VERSION:
            self._lose(f"memory (the file's schema is version {version}, this pointsman knows {schema.VERSION})")
            self._tell("newer", "was written by a newer pointsman; upgrade pointsman or choose another file")
            return False
        if not writable:
            self._lose("read-only")
            self._tell("read-only", "may only be read; make the file and its folder writable or choose another file")
            return version > 0
        if version < schema.VERSION:
            if version == 0 and not create:
                return False  # still empty: nothing to load, and creating tables can wait
            schema.migrate(connection)
        # A write-ahead log needs memory that all users share, which network file systems do not give.
        self._set_journal(connection, "delete" if on_network(self.path) else "wal", patience_s)
        connection.execute("PRAGMA synchronous = NORMAL")
        self._data_version = -1  # numbers of another connection do not compare: look at everything once
        return True

    def _set_journal(self, connection: sqlite3.Connection, mode: str, patience_s: float) -> None:
        deadline = self._monotonic() + patience_s
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != mode:
            try:
                connection.execute(f"PRAGMA journal_mode = {mode}")
                return
            except sqlite3.OperationalError as error:  # SQLite's own patience does not cover this switch
                if trouble_of(error) is not Trouble.LOCKED or self._monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    # While it is open

    def _notice(self, connection: sqlite3.Connection) -> Written:
        """What other processes have done since the last look."""
        written = Written()
        if statements.data_version(connection) != self._data_version:
            self._others_wrote = True
            written.resets = self._reset_since(statements.generations(connection))
        due = self._monotonic() - self._reloaded_at >= _RELOAD_S
        written.others = self._others_wrote
        written.complete = bool(written.resets) or (self._others_wrote and due)
        return written

    def _reset_since(self, now: Mapping[str, int]) -> set[str]:
        return {name for name, count in now.items() if count != self._generations.get(name, 0)}

    def _trim(self, connection: sqlite3.Connection, added: int) -> None:
        """Bound the log on a process's first write, then after each twentieth of the bound."""
        self._until_trim -= added
        if self._until_trim <= 0:
            statements.trim(connection, self.log_rows)
            self._until_trim = max(self.log_rows // 20, 1)

    # When something is the matter

    def _survive(self, error: Exception, insist: bool) -> None:
        trouble = trouble_of(error)
        text = f"{type(error).__name__}: {error}"
        if trouble is Trouble.LOCKED:
            self._retry_at = self._monotonic() + _LOCKED_RETRY_S
            if insist:
                self._tell("locked", f"is locked by another process ({text}); end that one, writing is tried again")
            return
        self.close()
        if trouble is Trouble.FULL:
            self.status = f"memory ({text})"
            self._retry_at = self._monotonic() + _FULL_RETRY_S
            self._tell("full", f"cannot grow ({text}); free some space or choose another file")
        elif trouble is Trouble.CORRUPT:
            self._start_anew(text)
        elif trouble is Trouble.READ_ONLY:
            self._lose("read-only")
            self._tell("read-only", f"may only be read ({text}); make it writable or choose another file")
        else:
            self._lose(f"memory ({text})")
            self._tell("unusable", f"cannot be used ({text}); choose another file")

    def _start_anew(self, text: str) -> None:
        if is_foreign(self.path):
            self._lose(f"memory ({self.path.name} is no history)")
            self._tell("foreign", "is something else, and is left as it is; choose another file")
            return
        try:
            aside = move_aside(self.path, self._identity)
        except OSError as error:
            self._lose(f"memory ({text}; {error})")
            self._tell("corrupt", f"is damaged ({text}) and cannot be moved aside ({error}); delete it")
            return
        if aside is not None:
            asked = f"asked to keep the history in {self.path}: what was found there is damaged ({text})"
            self._warn("corrupt", f"{asked} and was moved to {aside.name}; a new file is begun, nothing is to be done")

    def _lose(self, status: str) -> None:
        self._lost, self.status = True, status

    def _tell_damaged(self, content: Content) -> None:
        if content.damaged:
            found = f"{len(content.damaged)} damaged among those of {', '.join(sorted(set(content.damaged)))}"
            cure = "new calls replace them, `pointsman history reset --operation NAME` deletes them"
            self._warn("sketches", f"asked to read the sketches in {self.path}: {found} and left out; {cure}")

    def _tell(self, kind: str, what: str) -> None:
        self._warn(
            kind,
            f"asked to keep the history in {self.path}: that file {what}. Meanwhile this process learns in memory; "
            "results are not affected",
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # after some errors SQLite has rolled back by itself
            connection.execute("ROLLBACK")
