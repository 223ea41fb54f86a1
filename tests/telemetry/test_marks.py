"""Marks: how far memory goes, merged in any order, kept with the history and read by the next process."""

from __future__ import annotations

import sqlite3

import pytest
from clocks import Clock
from pointsman.telemetry import schema, statements
from pointsman.telemetry.history import History, HistoryWarning
from pointsman.telemetry.marks import DAY_S, Mark, Marks, both

PLACE = ("fft", "torch", "cuda:0")
MIB = 2**20
HOUR = 3600.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, clock):
    def open_():
        return History(tmp_path / "history.sqlite", background=False, clock=clock, monotonic=clock)

    return open_


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


def test_what_did_not_fit_keeps_larger_requests_out_too(clock):
    marks = Marks(clock)
    marks.fitted(PLACE, 10 * MIB)
    marks.failed(PLACE, 40 * MIB, "CUDA out of memory")
    assert marks.why_not(PLACE, 39 * MIB) is None
    clock.advance(2 * HOUR)
    assert marks.why_not(PLACE, 80 * MIB) == (
        "needs 80.0 MiB, and 40.0 MiB failed (out of memory: CUDA out of memory); 10.0 MiB fitted; "
        "tried again in 22.0 h"
    )
    marks.failed(PLACE, 20 * MIB)
    assert marks.why_not(PLACE, 20 * MIB) is not None
    assert marks.why_not(("fft", "torch", "cuda:1"), 80 * MIB) is None


def test_a_mark_is_lifted_after_a_day_and_forgotten_when_as_much_fits(clock):
    marks = Marks(clock)
    marks.failed(PLACE, 40 * MIB)
    clock.advance(DAY_S - 1)
    assert marks.why_not(PLACE, 80 * MIB) is not None
    clock.advance(1)
    assert marks.why_not(PLACE, 80 * MIB) is None  # it may try
    marks.failed(PLACE, 80 * MIB)
    assert marks.why_not(PLACE, 40 * MIB) is not None  # and has failed: another day, from the smallest that ever did
    marks.fitted(PLACE, 30 * MIB)
    assert marks.why_not(PLACE, 40 * MIB) is not None
    clock.advance(1)
    marks.fitted(PLACE, 40 * MIB)
    assert marks.why_not(PLACE, 80 * MIB) is None
    assert marks.memory[PLACE] == Mark(40 * MIB, clock())


def test_with_more_memory_to_spare_than_there_was_it_is_tried_at_once(clock):
    marks = Marks(clock)
    marks.failed(PLACE, 40 * MIB, spare=100 * MIB)
    assert "or with more than 125.0 MiB to spare" in marks.why_not(PLACE, 40 * MIB, spare=100 * MIB)
    assert marks.why_not(PLACE, 40 * MIB, spare=125 * MIB) is not None
    assert marks.why_not(PLACE, 40 * MIB, spare=126 * MIB) is None
    assert marks.why_not(PLACE, 40 * MIB) is not None


def test_a_size_that_fitted_once_and_fails_now_counts_as_failing(clock):
    marks = Marks(clock)
    marks.fitted(PLACE, 50 * MIB)
    clock.advance(1)
    marks.failed(PLACE, 40 * MIB)
    assert "nothing is known to fit" in marks.why_not(PLACE, 45 * MIB)


def test_merging_takes_the_largest_that_fitted_and_the_smallest_that_failed_in_any_order():
    marks = [
        Mark(fitted=10, fitted_at=1.0),
        Mark(fitted=20, fitted_at=2.0, failed=90, failed_at=3.0, spare=7, message="a"),
        Mark(failed=50, failed_at=2.0, message="b"),
    ]
    expected = Mark(20, 2.0, 50, 3.0, 7, "a")
    for one, two, three in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)):
        assert marks[one].merged(marks[two]).merged(marks[three]) == expected
    assert expected.merged(expected) == expected
    assert both({PLACE: marks[0]}, {PLACE: marks[2]})[PLACE] == Mark(10, 1.0, 50, 2.0, 0, "b")


# ---- kept with the history


def test_another_process_reads_them(opened):
    one, other = opened(), opened()
    one.marks.failed(PLACE, 40 * MIB, "no room", spare=5)
    one.marks.fitted(PLACE, 10 * MIB)
    one.flush()
    third = opened()
    assert third.marks.memory == one.marks.memory != {}
    other.marks.fitted(PLACE, 20 * MIB)
    other.flush()
    one.flush()
    assert one.marks.memory[PLACE] == other.marks.memory[PLACE]
    assert (one.marks.memory[PLACE].fitted, one.marks.memory[PLACE].failed) == (20 * MIB, 40 * MIB)


def test_marks_marked_while_the_file_is_locked_are_written_later(opened, path):
    history = opened()
    history.flush()
    history.marks.fitted(PLACE, MIB)
    history.flush()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    history.marks.failed(PLACE, 40 * MIB)
    history._round(0.0, force=True)
    assert history.marks.changed
    blocker.execute("ROLLBACK")
    blocker.close()
    history.flush()
    assert opened().marks.memory[PLACE].failed == 40 * MIB


def test_marks_of_a_write_that_failed_half_way_are_written_with_the_next(opened, monkeypatch):
    history = opened()
    history.flush()

    def full(*_):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(statements, "trim", full)
    history.marks.failed(PLACE, 40 * MIB)
    with pytest.warns(HistoryWarning, match="disk is full"):
        history.flush()
    monkeypatch.undo()
    assert opened().marks.memory == {}
    history._recorder._retry_at = float("-inf")
    history.flush()
    assert opened().marks.memory[PLACE].failed == 40 * MIB


def test_a_reset_forgets_them_here_and_elsewhere(opened):
    one, other = opened(), opened()
    for history in (one, other):
        history.marks.failed(PLACE, 40 * MIB)
        history.marks.failed(("sort", "torch", "cuda:0"), 40 * MIB)
        history.flush()
    one.reset("fft")
    other.marks.fitted(("sort", "torch", "cuda:0"), MIB)
    other.flush()
    assert set(other.marks.memory) == set(one.marks.memory) == {("sort", "torch", "cuda:0")}
    assert set(opened().marks.memory) == {("sort", "torch", "cuda:0")}


def test_a_file_of_the_second_schema_is_brought_up_to_date(opened, path):
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(connection, 2)
    connection.close()
    history = opened()
    assert history.status == "ok"
    history.marks.failed(PLACE, 40 * MIB)
    history.flush()
    assert opened().marks.memory[PLACE].failed == 40 * MIB
