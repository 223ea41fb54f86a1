"""What is said to SQLite about a history: one statement per table and batch.

Behind a busy loop of Python or NumPy calls each row that SQLite hands over waits for the interpreter's lock (measured:
3 to 5 thousand rows a second with `executemany`, 200 thousand with one statement over `json_each`). So rows go in and
out as one JSON text.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import schema
from .attempts import Begun, is_gone
from .marks import DAY_S, Accused, Mark, Marks, Place, Wrong, both, latest
from .outcome import Cell, Outcome
from .sketch import Sketch
from .state import Key

Recent = tuple[str, str, float, float]
"""(variant, operation, seconds, when)"""


@dataclass
class Content:
    """What a file holds of the sketches, the ledger, the latest outcomes, and what is kept out.

    `damaged` are the operations of sketches that make no sense, and were left out: one name for each sketch.
    """

    cells: dict[Key, Sketch] = field(default_factory=dict)
    ledger: dict[str, float] = field(default_factory=dict)
    recent: list[Recent] = field(default_factory=list)
    memory: dict[Place, Mark] = field(default_factory=dict)
    wrong: dict[Accused, Wrong] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def _values(count: int) -> str:
    return ", ".join(f"json_extract(value, '$[{i}]')" for i in range(count))


_CELL = ", ".join(schema.CELL_COLUMNS)
_READ_CELLS = f"""
SELECT json_group_array(json_array({_CELL}, state)) FROM sketch
WHERE typeof(state) = 'text' AND ({_CELL}) IN (SELECT {_values(6)} FROM json_each(?))"""
_WRITE_CELLS = f"""
INSERT INTO sketch ({_CELL}, records, typical_s, expected_s, updated, state)
SELECT {_values(11)} FROM json_each(?) WHERE true
ON CONFLICT ({_CELL}) DO UPDATE SET records = excluded.records, typical_s = excluded.typical_s,
    expected_s = excluded.expected_s, updated = excluded.updated, state = excluded.state"""
_WRITE_OUTCOMES = f"""
INSERT INTO outcome ({", ".join(schema.OUTCOME_COLUMNS)})
SELECT {_values(len(schema.OUTCOME_COLUMNS))} FROM json_each(?)"""
_WRITE_LEDGER = """
INSERT INTO ledger (name, seconds) SELECT key, value FROM json_each(?) WHERE true
ON CONFLICT (name) DO UPDATE SET seconds = seconds + excluded.seconds"""
_RECENT = """
SELECT variant, operation, seconds, ended FROM outcome
WHERE failure IS NULL AND dtype <> '' ORDER BY id DESC LIMIT 10"""
_RESET = "INSERT INTO reset VALUES (?, 1) ON CONFLICT (operation) DO UPDATE SET generation = generation + 1"


def load(connection: sqlite3.Connection) -> Content:
    """Everything that is learned from; the log itself stays where it is. A ValueError where no sketch makes sense."""
    rows = connection.execute(f"SELECT {_CELL}, state FROM sketch").fetchall()
    version = schema.user_version(connection)  # an older one is opened read-only
    ledger = read_ledger(connection) if version >= 2 else {}
    kept_out = (read_memory(connection), read_wrong(connection)) if version >= 3 else ({}, {})
    cells, damaged = _cells(rows)
    if damaged and not cells:
        raise ValueError(f"none of its {len(damaged)} sketches makes sense")
    return Content(cells, ledger, connection.execute(_RECENT).fetchall()[::-1], *kept_out, damaged)


def add_outcomes(connection: sqlite3.Connection, outcomes: Sequence[Outcome]) -> None:
    """Append to the log."""
    if outcomes:
        connection.execute(_WRITE_OUTCOMES, (json.dumps([_row(outcome) for outcome in outcomes]),))


def merge_cells(connection: sqlite3.Connection, delta: Mapping[Key, Sketch], now: float) -> dict[Key, Sketch]:
    """Add `delta` to the rows of its cells, so that many processes add up; returns what stands there now.

    What is stamped later than `now` becomes present; a row that makes no sense is replaced.
    """
    if not delta:
        return {}
    keys = json.dumps([[*cell, context] for cell, context in delta])
    known, _ = _cells(json.loads(connection.execute(_READ_CELLS, (keys,)).fetchone()[0]))
    rows = []
    merged = {}
    for key, sketch in delta.items():
        whole = sketch.as_of(now).copy()
        if key in known:
            whole.merge(known[key].as_of(now, whole))
        merged[key] = whole
        typical = (whole.median_s, whole.expected_s) if whole.count else (None, None)
        rows.append([*key[0], key[1], whole.records, *typical, whole.last_seen, json.dumps(whole.to_json())])
    connection.execute(_WRITE_CELLS, (json.dumps(rows),))
    return merged


def add_ledger(connection: sqlite3.Connection, seconds: Mapping[str, float]) -> None:
    """Add to the totals."""
    if seconds:
        connection.execute(_WRITE_LEDGER, (json.dumps(dict(seconds)),))


def read_ledger(connection: sqlite3.Connection) -> dict[str, float]:
    """The totals, by name."""
    return dict(_sound(connection.execute("SELECT name, seconds FROM ledger"), "tn"))


def read_memory(connection: sqlite3.Connection) -> dict[Place, Mark]:
    """Where memory ends; a large run that has begun and whose process is gone counts as one that failed."""
    rows = _sound(connection.execute("SELECT * FROM memory_mark"), "tttnnnnnt")
    found = {(row[0], row[1], row[2]): Mark(*row[3:]) for row in rows}
    for _, begun in _attempts(connection):
        if is_gone(begun.owner):
            found = both(found, {begun.place: begun.as_mark()})
    return found


def read_wrong(connection: sqlite3.Connection) -> dict[Accused, Wrong]:
    """Who is disqualified."""
    rows = _sound(connection.execute("SELECT * FROM disqualified"), "tttttnt")
    return {(row[0], row[1], row[2]): Wrong(*row[3:]) for row in rows}


def merge_marks(connection: sqlite3.Connection, marks: Marks, now: float) -> None:
    """Put what `marks` holds and what the file holds together, on both sides; there are few rows of either."""
    memory, wrong = read_memory(connection), read_wrong(connection)
    whole, accused = both(memory, marks.memory), latest(wrong, marks.wrong)
    rows: list[tuple[Any, ...]] = [(*place, *mark) for place, mark in whole.items()]
    connection.executemany("INSERT OR REPLACE INTO memory_mark VALUES (?,?,?,?,?,?,?,?,?)", rows)
    rows = [(*who, *what) for who, what in accused.items() if wrong.get(who) != what]
    connection.executemany("INSERT OR REPLACE INTO disqualified VALUES (?,?,?,?,?,?,?)", rows)
    for number, begun in _attempts(connection):
        if begun.started < now - DAY_S or is_gone(begun.owner):
            end_attempts(connection, [number])
    marks.take(whole, accused)


def begin_attempt(connection: sqlite3.Connection, begun: Begun) -> int:
    """Note that a large run has begun; returns the number to end it by."""
    row = (*begun.place, begun.bytes, begun.spare, begun.started, begun.owner)
    cursor = connection.execute("INSERT INTO attempt VALUES (NULL,?,?,?,?,?,?,?)", row)
    return int(cursor.lastrowid or 0)


def end_attempts(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Note that runs have ended, whatever came of them."""
    connection.executemany("DELETE FROM attempt WHERE id = ?", [(number,) for number in numbers])


def _attempts(connection: sqlite3.Connection) -> list[tuple[int, Begun]]:
    rows = _sound(connection.execute("SELECT * FROM attempt"), "ntttnnnt")
    return [(row[0], Begun((row[1], row[2], row[3]), *row[4:])) for row in rows]


def trim(connection: sqlite3.Connection, log_rows: int) -> None:
    """Delete the oldest outcomes beyond `log_rows`."""
    connection.execute("DELETE FROM outcome WHERE id <= (SELECT max(id) FROM outcome) - ?", (log_rows,))


def reset(connection: sqlite3.Connection, operation: str | None) -> None:
    """Delete what is known of `operation`, or everything, and count that up for other processes to notice."""
    for table in ("sketch", "outcome", "memory_mark", "disqualified", "attempt"):
        if operation is None:
            connection.execute(f"DELETE FROM {table}")
        else:
            connection.execute(f"DELETE FROM {table} WHERE operation = ?", (operation,))
    if operation is None:
        connection.execute("DELETE FROM ledger")
    connection.execute(_RESET, (operation or "",))


def generations(connection: sqlite3.Connection) -> dict[str, int]:
    """How often each operation ("": everything) has been reset."""
    return dict(connection.execute("SELECT operation, generation FROM reset").fetchall())


def data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection has written."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _cells(rows: Iterable[Sequence[Any]]) -> tuple[dict[Key, Sketch], list[str]]:
    """The sketches by what they are of; and of those that make no sense the operations."""
    cells, damaged = {}, []
    for row in rows:
        try:
            if not all(isinstance(part, str) for part in row[:6]):
                raise TypeError("its key is no text")
            cells[Cell(*row[:5]), row[5]] = Sketch.from_json(json.loads(row[6]))
        except (ValueError, TypeError, RecursionError):
            damaged.append(str(row[0]))
    return cells, damaged


def _sound(rows: Iterable[tuple[Any, ...]], kinds: str) -> list[tuple[Any, ...]]:
    """The rows of these kinds (t: text, n: finite number): SQLite keeps whatever was put into a column."""

    def fits(part: Any, kind: str) -> bool:
        return isinstance(part, str) if kind == "t" else isinstance(part, int | float) and math.isfinite(part)

    return [row for row in rows if all(map(fits, row, kinds))]


def _row(outcome: Outcome) -> list[Any]:
    site = outcome.site
    return [
        outcome.when,
        *site.cell,
        outcome.context,
        outcome.rule,
        outcome.seconds,
        outcome.convert_s,
        outcome.transfer_s,
        outcome.import_s,
        outcome.compile_s,
        outcome.peak_bytes,
        site.size,
        site.work,
        outcome.failure,
        outcome.message[:500],
        outcome.label[:200],
        outcome.calls,
    ]
