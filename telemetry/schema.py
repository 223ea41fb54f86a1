"""The layout of a history file, and how an older one becomes a current one."""

from __future__ import annotations

import sqlite3
from typing import Any

VERSION = 3
"""What `PRAGMA user_version` says of a current file."""

CELL_COLUMNS = ("operation", "variant", "dtype", "shape_class", "detail", "context")

OUTCOME_COLUMNS = (
    "ended",
    *CELL_COLUMNS,
    "rule",
    "seconds",
    "convert_s",
    "transfer_s",
    "import_s",
    "compile_s",
    "peak_bytes",
    "size",
    "work",
    "failure",
    "message",
    "label",
    "calls",
)

_FIRST = """
CREATE TABLE sketch (
    operation TEXT NOT NULL, variant TEXT NOT NULL, dtype TEXT NOT NULL, shape_class TEXT NOT NULL,
    detail TEXT NOT NULL, context TEXT NOT NULL,
    records INTEGER NOT NULL, typical_s REAL, expected_s REAL, updated REAL NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (operation, variant, dtype, shape_class, detail, context)
) WITHOUT ROWID;
CREATE TABLE outcome (
    id INTEGER PRIMARY KEY, ended REAL NOT NULL,
    operation TEXT NOT NULL, variant TEXT NOT NULL, dtype TEXT NOT NULL, shape_class TEXT NOT NULL,
    detail TEXT NOT NULL, context TEXT NOT NULL,
    seconds REAL NOT NULL, convert_s REAL NOT NULL, transfer_s REAL NOT NULL, import_s REAL NOT NULL,
    compile_s REAL NOT NULL, peak_bytes INTEGER NOT NULL, size INTEGER NOT NULL, work REAL NOT NULL,
    failure TEXT, message TEXT NOT NULL, label TEXT NOT NULL
);
CREATE VIEW what_is_fastest AS
SELECT operation, dtype, shape_class, detail, context, variant, expected_s, typical_s, records,
       datetime(updated, 'unixepoch') AS updated
FROM (SELECT *, row_number() OVER (
          PARTITION BY operation, dtype, shape_class, detail, context ORDER BY expected_s) AS place
      FROM sketch WHERE expected_s IS NOT NULL)
WHERE place = 1;
CREATE VIEW failures AS
SELECT id, datetime(ended, 'unixepoch') AS ended, operation, variant, dtype, shape_class, detail, failure, message,
       label
FROM outcome WHERE failure IS NOT NULL ORDER BY id DESC
"""

_SECOND = """
ALTER TABLE outcome ADD COLUMN rule TEXT NOT NULL DEFAULT '';
ALTER TABLE outcome ADD COLUMN calls INTEGER NOT NULL DEFAULT 1;
CREATE TABLE ledger (name TEXT PRIMARY KEY, seconds REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE reset (operation TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIEW recent_outcomes AS
SELECT id, datetime(ended, 'unixepoch') AS ended, operation, variant, dtype, shape_class, detail, context, rule,
       seconds, calls, failure, label
FROM outcome ORDER BY id DESC LIMIT 1000
"""

_THIRD = """
CREATE TABLE memory_mark (
    operation TEXT NOT NULL, variant TEXT NOT NULL, device TEXT NOT NULL,
    fitted INTEGER NOT NULL, fitted_at REAL NOT NULL, failed INTEGER NOT NULL, failed_at REAL NOT NULL,
    spare INTEGER NOT NULL, message TEXT NOT NULL,
    PRIMARY KEY (operation, variant, device)
) WITHOUT ROWID;
CREATE TABLE disqualified (
    operation TEXT NOT NULL, variant TEXT NOT NULL, dtype TEXT NOT NULL,
    backend TEXT NOT NULL, version TEXT NOT NULL, since REAL NOT NULL, evidence TEXT NOT NULL,
    PRIMARY KEY (operation, variant, dtype)
) WITHOUT ROWID;
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY, operation TEXT NOT NULL, variant TEXT NOT NULL, device TEXT NOT NULL,
    bytes INTEGER NOT NULL, spare INTEGER NOT NULL, started REAL NOT NULL, owner TEXT NOT NULL
)
"""


def migrate(connection: sqlite3.Connection, version: int = VERSION) -> None:
    """Bring an empty or older file up to `version`; all steps and their records in one transaction, or none.

    Several processes may try at once: the second one waits and finds nothing left to do.
    """
    from sqlite_utils import Database  # costs 0.2 to 0.4 s: only for a new or an older file

    connection.execute("BEGIN IMMEDIATE")
    try:
        if user_version(connection) < version:
            _migrations().apply(Database(connection), stop_before=None if version == VERSION else f"v{version + 1}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def user_version(connection: sqlite3.Connection) -> int:
    """Schema version of the file; 0 for an empty one. The first statement that really reads a file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrations() -> Any:
    from sqlite_utils.migrations import Migrations

    steps = Migrations("pointsman-history")

    @steps(name="v1")
    def first(db: Any) -> None:
        """Sketches and the log behind them."""
        _run(db, _FIRST, 1)

    @steps(name="v2")
    def second(db: Any) -> None:
        """The rule behind each choice, sampled calls, totals in seconds, and resets that other processes notice."""
        _run(db, _SECOND, 2)

    @steps(name="v3")
    def third(db: Any) -> None:
        """Where memory ends, variants that gave wrong results, and large runs that have begun."""
        _run(db, _THIRD, 3)

    return steps


def _run(db: Any, script: str, version: int) -> None:
    for statement in script.split(";"):  # executescript would commit the transaction first
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {version}")
