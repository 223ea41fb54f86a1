"""The tables of a history file: older ones are migrated in one piece, and the views answer a reader's questions."""

from __future__ import annotations

import sqlite3

import pytest
from histories import counts, opened, query
from pointsman.telemetry import schema
from pointsman.telemetry.outcome import Failure


def test_an_older_file_is_migrated_and_keeps_what_it_knew(path, outcome):
    path.parent.mkdir()
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(connection, 1)
    assert "rule" not in {row[1] for row in connection.execute("PRAGMA table_info(outcome)")}
    state = '{"n":2,"t":0.5,"w":0.0,"e":0,"z":1.0,"s":1.0,"b":[-64,2.0,0.5],"r":[1.0,0.25,0.0,1.0,0.25,0.0]}'
    cell = ("fft", "numpy", "float64", "20", "", "quiet")
    connection.execute("INSERT INTO sketch VALUES (?,?,?,?,?,?, 2, 0.25, 0.25, 1.0, ?)", (*cell, state))
    connection.execute(
        "INSERT INTO outcome (ended, operation, variant, dtype, shape_class, detail, context, seconds, convert_s, "
        "transfer_s, import_s, compile_s, peak_bytes, size, work, message, label) "
        "VALUES (1.0, ?,?,?,?,?,?, 0.25, 0,0,0,0,0, 1, 1.0, '', '')",
        cell,
    )
    connection.close()

    history = opened(path)
    assert history.status == "ok"
    assert counts(history) == {"numpy": 2}
    history.record(outcome(0.25, rule="learned"))
    history.add_ledger("explored_s", 0.1)
    history.flush()
    history.close()
    assert query(path, "PRAGMA user_version") == [(schema.VERSION,)]
    assert query(path, "SELECT name FROM _sqlite_migrations ORDER BY id") == [("v1",), ("v2",), ("v3",)]
    assert query(path, "SELECT rule FROM outcome ORDER BY id") == [("",), ("learned",)]
    assert counts(opened(path)) == {"numpy": 3}


def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(path, monkeypatch):
    path.parent.mkdir()
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(connection, 1)
    monkeypatch.setattr(schema, "_SECOND", schema._SECOND + "; SELECT nonsense")
    with pytest.raises(sqlite3.OperationalError, match="nonsense"):
        schema.migrate(connection)
    assert schema.user_version(connection) == 1
    assert "rule" not in {row[1] for row in connection.execute("PRAGMA table_info(outcome)")}
    monkeypatch.undo()
    schema.migrate(connection)
    assert schema.user_version(connection) == schema.VERSION
    connection.close()


def test_the_views_answer_the_questions_a_reader_has(path, outcome):
    history = opened(path)
    for seconds, variant in ((0.02, "numpy"), (0.01, "torch"), (0.03, "jax")):
        history.record(outcome(seconds, variant=variant, rule="explore"))
    history.record(outcome(variant="jax", failure=Failure.OUT_OF_MEMORY, message="no room"))
    history.flush()
    assert query(path, "SELECT operation, variant, records FROM what_is_fastest") == [("fft", "torch", 1)]
    assert query(path, "SELECT variant, failure, message FROM failures") == [("jax", "out of memory", "no room")]
    assert query(path, "SELECT count(*), min(ended) FROM recent_outcomes") == [(4, "2023-11-14 22:13:20")]
    history.close()
