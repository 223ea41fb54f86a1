"""The history: what goes in comes out, in this process and the next, within its bounds."""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import weakref

import pytest
from clocks import Clock
from histories import counts, opened, query
from pointsman.telemetry.files import history_path
from pointsman.telemetry.history import WAITING, History
from pointsman.telemetry.load import Load
from pointsman.telemetry.outcome import Failure, Outcome, Site

SITE = Site("fft", "numpy", "float64", "20", "k=3", 1e6, 1000)


def test_what_was_recorded_is_there_in_the_next_process(path, outcome):
    history = opened(path)
    history.record(outcome(0.02, rule="learned"))
    history.record(outcome(1.0, import_s=0.9))
    history.record(outcome(0.0, variant="torch", failure=Failure.DRIVER, message="gone"))
    history.add_ledger("explored_s", 0.5)
    history.flush()
    before = {key: sketch.to_json() for key, sketch in history.state.cells.items()}
    history.close()

    again = opened(path)
    assert again is not history
    assert {key: sketch.to_json() for key, sketch in again.state.cells.items()} == before
    assert again.ledger == {"explored_s": 0.5}
    assert [entry[:3] for entry in again.recent] == [("numpy", "fft", 0.02), ("numpy", "fft", 1.0)]
    assert again.status == "ok"
    again.close()


def test_the_hot_path_tuple_becomes_an_outcome_with_unix_time(path):
    history = opened(path, clock=Clock(1.7e9), monotonic=Clock(50.0))
    told = []
    history.subscribe(lambda outcomes, changed: told.extend((outcomes, changed)))
    history.buffer.append((SITE, 48.0, 0.25, "learned", "spectrum", 10))
    history.flush()
    (seen,), changed = told
    assert (seen.site, seen.when, seen.seconds, seen.rule, seen.context) == (
        SITE,
        1.7e9 - 2.0,
        0.25,
        "learned",
        "quiet",
    )
    assert changed == {("fft", "float64")}
    assert (seen.label, seen.calls) == ("spectrum", 10)
    assert query(path, "SELECT ended, rule, size, work, detail, label, calls FROM outcome") == [
        (1.7e9 - 2.0, "learned", 1000, 1e6, "k=3", "spectrum", 10)
    ]
    history.close()


def test_outcomes_are_labelled_by_the_load_of_their_time(outcome):
    class Meter:
        busy = True

        def read(self):
            return Load(1.0, self.busy)

    meter = Meter()
    history = opened(":memory:", meter=meter)
    history.buffer.append((SITE, 0.0, 0.25, "", "", 1))
    history.record(outcome())
    history.flush()
    meter.busy = False
    history.record(outcome())
    history.flush()
    assert sorted((context, sketch.count) for (_, context), sketch in history.state.cells.items()) == [
        ("busy", 1),
        ("busy", 1),
        ("quiet", 1),
    ]


def test_one_file_is_one_object_while_in_use_and_memory_is_always_private(tmp_path, path):
    history = opened(path)
    assert opened(str(path.parent / ".." / "cache" / "history.sqlite")) is history
    assert opened(":memory:") is not opened(":memory:")
    assert opened(":memory:").status == "memory (as asked)"
    in_folder = opened(tmp_path)
    assert os.path.dirname(in_folder.location) == str(tmp_path)
    assert os.path.basename(in_folder.location).startswith("history-")


def test_a_dropped_subscriber_is_not_kept_alive(outcome):
    class Subscriber:
        heard = 0

        def hear(self, outcomes, changed):
            Subscriber.heard += len(outcomes)

    history, subscriber = opened(":memory:"), Subscriber()
    history.subscribe(subscriber.hear)
    history.record(outcome())
    history.flush()
    reference = weakref.ref(subscriber)
    del subscriber
    gc.collect()
    assert reference() is None
    history.record(outcome())
    history.flush()
    assert Subscriber.heard == 1


def test_a_failing_subscriber_is_reported_once_and_harms_nobody(outcome):
    history, heard = opened(":memory:"), []

    def broken(outcomes, changed):
        raise ZeroDivisionError("oops")

    history.subscribe(broken)
    history.subscribe(lambda outcomes, _: heard.append(len(outcomes)))
    history.record(outcome())
    with pytest.warns(UserWarning, match="ZeroDivisionError: oops"):
        history.flush()
    history.record(outcome())
    history.flush()
    assert heard == [1, 1]


def test_the_flusher_starts_by_itself_learns_and_ends(path):
    history = History.open(path)
    heard = threading.Event()
    history.subscribe(lambda *_: heard.set())
    assert not history.awake
    history.buffer.append((SITE, time.perf_counter(), 0.25, "", "", 1))
    history.wake()
    flusher = history._flusher
    assert flusher is not None
    assert flusher.daemon
    assert heard.wait(30)
    flusher.join(30)  # it has nothing left to do
    assert not flusher.is_alive()
    assert not history.awake
    assert query(path, "SELECT count(*) FROM outcome") == [(1,)]
    history.close()


def test_what_is_pending_at_exit_is_on_disk_afterwards(path):
    script = (
        "import sys; from pointsman.telemetry.history import History, LOG_ROWS; "
        "from pointsman.telemetry.outcome import Site; import time\n"
        "history = History.open(sys.argv[1])\n"
        "site = Site('fft', 'numpy', 'float64', '1')\n"
        "for _ in range(7): history.buffer.append((site, time.perf_counter(), 0.1, '', '', 1))\n"
        "history.wake()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(path)], check=True)
    assert query(path, "SELECT sum(records) FROM sketch") == [(7,)]


def test_more_than_can_wait_are_dropped_oldest_first_and_counted():
    history = opened(":memory:")
    history.buffer.extend((SITE, float(i), 0.25, "", "", 1) for i in range(WAITING + 10))
    history.flush()
    assert history.dropped == 10
    assert counts(history) == {"numpy": WAITING}


def test_the_log_is_bounded_and_the_sketches_count_on(path, outcome):
    history = opened(path, log_rows=100)
    for batch in range(30):
        for i in range(10):
            history.record(outcome(when=1.7e9 + 10 * batch + i))
        history.flush()
    rows, last = query(path, "SELECT count(*), max(ended) FROM outcome")[0]
    assert 100 <= rows <= 110
    assert last == 1.7e9 + 299
    assert counts(history) == {"numpy": 300}
    history.close()


def test_the_file_is_its_owners_alone(path, outcome):
    history = opened(path)
    history.record(outcome())
    history.flush()
    for file in path.parent.iterdir():  # with the write-ahead log beside it
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    history.close()


def test_reset_of_one_operation_and_of_everything(path, outcome):
    history = opened(path)
    changes = []
    history.subscribe(lambda _, changed: changes.append(changed))
    history.record(outcome())
    history.record(outcome(operation="matmul"))
    history.add_ledger("explored_s", 1.0)
    history.flush()
    history.record(outcome())  # still waiting: it is of the past as well
    history.record(outcome(operation="matmul"))
    history.reset("fft")
    history.flush()
    assert {cell.operation: s.count for (cell, _), s in history.state.cells.items()} == {"matmul": 2}
    assert {"fft"} == {operation for operation, _ in changes[1]}
    assert query(path, "SELECT DISTINCT operation FROM outcome") == [("matmul",)]
    history.reset()
    assert not history.state.cells
    assert history.ledger == {}
    assert not history.recent
    assert query(path, "SELECT (SELECT count(*) FROM outcome) + (SELECT count(*) FROM sketch)") == [(0,)]
    history.close()
    assert not opened(path).state.cells


def test_loading_reads_the_sketches_and_not_the_log(path, outcome, monkeypatch):
    history = opened(path)
    for _ in range(50):
        history.record(outcome())
    history.flush()
    history.close()
    statements = []
    real = sqlite3.connect

    def traced(*args, **kwargs):
        connection = real(*args, **kwargs)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    history = opened(path)
    assert counts(history) == {"numpy": 50}
    assert [s for s in statements if "FROM outcome" in s and "LIMIT 10" not in s] == []
    history.close()


def test_opening_imports_neither_sqlite_utils_nor_psutil_nor_nvml(path, outcome):
    history = opened(path)
    history.record(outcome())
    history.flush()
    history.close()
    script = (
        "import sys; from pointsman.telemetry.history import History; from pointsman.telemetry import summary\n"
        "history = History.open(sys.argv[1], background=False); assert history.state.cells; history.flush()\n"
        "print([n for n in ('sqlite_utils', 'psutil', 'pynvml', 'platformdirs', 'pandas') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


def test_a_tight_loop_logs_a_sample_but_counts_everything(path):
    history = opened(path)
    history.buffer.extend((SITE, float(i), 0.25, "", "", 1) for i in range(5000))
    history.flush()
    assert query(path, "SELECT count(*) FROM outcome") == [(1000,)]
    assert query(path, "SELECT records FROM sketch") == [(5000,)]
    history.close()


def test_after_closing_nothing_is_written_any_more(path, outcome):
    history = opened(path)
    history.record(outcome())
    history.close()
    history.record(outcome())
    history.flush()
    assert query(path, "SELECT records FROM sketch") == [(1,)]


def test_a_flush_takes_over_what_others_have_written_and_reset(path, outcome):
    """The second history stands for another process: `History.open` would give this process the same one again."""
    mine, others = opened(path), History(path, background=False)
    mine.record(outcome())
    mine.flush()
    told: list[set] = []
    mine.subscribe(lambda outcomes, changed: told.append(changed))
    others.record(outcome(variant="torch"))
    others.add_ledger("trials", 2.0)
    others.flush()
    mine.flush()  # with nothing of its own to write
    assert (counts(mine), mine.ledger) == ({"numpy": 1, "torch": 1}, {"trials": 2.0})
    assert [variant for variant, *_ in mine.recent] == ["numpy", "torch"]
    others.reset("fft")
    mine.flush()
    assert counts(mine) == {}
    assert told == [{("fft", "float64")}] * 2
    mine.flush()
    assert len(told) == 2  # nobody has written since
    for history in (mine, others):
        history.close()


def test_a_flush_with_nothing_to_write_makes_no_file(path):
    opened(path).flush()
    assert not path.exists()


def test_imports_are_no_recent_choices(path, outcome):
    history = opened(path)
    history.record(outcome(operation="import", dtype="", import_s=0.01))
    history.record(outcome())
    history.flush()
    history.close()
    for found in (history, opened(path)):
        assert [operation for _, operation, *_ in found.recent] == ["fft"]


def test_an_empty_location_means_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert history_path("") == history_path(None)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_times_that_are_no_numbers_are_left_out(seconds):
    history = History(None, background=False, clock=lambda: 1.7e9)
    for each in (seconds, 1e-3):
        history.record(Outcome(SITE, 1.7e9, each))
    history.flush()
    assert [sketch.count for sketch in history.state.cells.values()] == [1]
