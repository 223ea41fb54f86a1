"""Merging histories: one that saw everything, whatever the order, and nothing that was given is touched."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import stat

import pytest
from pointsman.telemetry import schema
from pointsman.telemetry.files import history_path
from pointsman.telemetry.hardware import fingerprint
from pointsman.telemetry.history import History, HistoryWarning
from pointsman.telemetry.merging import MergeError, merge
from pointsman.telemetry.outcome import Failure


@pytest.fixture
def write(tmp_path, outcome):
    """Make a history of some outcomes: ``write("a.sqlite", outcome(...), ...)``; gives its path."""

    def make(name, *outcomes, **ledger):
        history = History.open(tmp_path / name, background=False)
        for made in outcomes:
            history.record(made)
        for entry, seconds in ledger.items():
            history.add_ledger(entry, seconds)
        history.close()
        return tmp_path / name

    return make


@pytest.fixture
def several(outcome):
    """Three batches of outcomes that share cells and differ in all else."""

    def batch(number):
        made = [
            outcome(0.01 * (1 + 0.1 * i) + 0.001 * number, 1.7e9 + 86_400 * 30 * number + i, variant=variant)
            for i in range(25)
            for variant in ("numpy", "torch")[: 1 + number % 2]
        ]
        made.append(outcome(0.5, 1.7e9 + number, variant="torch", compile_s=0.4, rule="explore"))
        made.append(outcome(0.1, 1.7e9 + number, variant="torch", failure=Failure.DRIVER, message=f"lost {number}"))
        made.append(outcome(0.2, 1.7e9 + number, shape_class=str(20 + number), context="busy", calls=7))
        return made

    return [batch(number) for number in range(3)]


def content(path):
    """All that a file holds, for comparing."""
    connection = sqlite3.connect(path)
    try:
        columns = ", ".join(schema.CELL_COLUMNS)
        return {
            "sketches": connection.execute(
                f"SELECT {columns}, records, state FROM sketch ORDER BY 1,2,3,4,5,6"
            ).fetchall(),
            "log": connection.execute("SELECT * FROM outcome ORDER BY id").fetchall(),
            "ledger": connection.execute("SELECT * FROM ledger ORDER BY 1").fetchall(),
        }
    finally:
        connection.close()


def read_out(path):
    """What is read out of each sketch."""
    history = History.open(path, background=False)
    told = {
        key: (s.count, s.calls, s.cold_count, s.cold_s, dict(s.failures), s.last_failure, dict(s.chosen), s.last_seen)
        for key, s in history.state.cells.items()
    }
    numbers = {
        key: (s.expected_s, s.median_s, s.low_s, s.spread, s.log2_work) for key, s in history.state.cells.items()
    }
    history.close()
    return told, numbers


def test_the_result_is_the_history_that_saw_everything(write, several, tmp_path):
    parts = [write(f"{i}.sqlite", *made) for i, made in enumerate(several)]
    done = merge(parts, tmp_path / "all.sqlite")
    whole = write("whole.sqlite", *(one for made in several for one in made))
    told, numbers = read_out(tmp_path / "all.sqlite")
    expected, expected_numbers = read_out(whole)
    assert told == expected
    for key, values in numbers.items():
        assert values == pytest.approx(expected_numbers[key], rel=1e-6, nan_ok=True)
    assert done.sources == {str(path): len(made) for path, made in zip(parts, several, strict=True)}
    assert done.outcomes == sum(map(len, several)) == len(content(tmp_path / "all.sqlite")["log"])
    assert done.cells == len(told)
    times = [row[1] for row in content(tmp_path / "all.sqlite")["log"]]
    assert times == sorted(times)


def test_the_order_of_the_arguments_is_immaterial(write, several, tmp_path):
    a, b, c = (write(f"{i}.sqlite", *made, processes=i + 1.0) for i, made in enumerate(several))
    for number, order in enumerate(([a, b, c], [c, a, b], [b, c, a])):
        merge(order, tmp_path / f"all{number}.sqlite")
    first = content(tmp_path / "all0.sqlite")
    assert first["sketches"]
    assert content(tmp_path / "all1.sqlite") == content(tmp_path / "all2.sqlite") == first


def test_processes_add_up_and_what_exploring_spent_does_not(write, outcome, tmp_path):
    a = write("a.sqlite", outcome(), processes=3.0, explored_s=4.0, earned_s=9.0, trials=2.0)
    b = write("b.sqlite", outcome(when=1.8e9), processes=2.0, explored_s=1.0)
    done = merge([a, b], tmp_path / "c.sqlite")
    assert content(tmp_path / "c.sqlite")["ledger"] == [("processes", 5.0)]
    assert done.processes == 5.0


def test_what_is_given_is_not_touched_and_nothing_is_left_beside_it(write, several, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    a, b = (write(f"given/{i}.sqlite", *several[i]) for i in range(2))

    def state():
        return {p.name: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in folder.iterdir()}

    before = state()
    merge([a, b], tmp_path / "c.sqlite")
    assert state() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.sqlite", "given"]
    assert stat.S_IMODE((tmp_path / "c.sqlite").stat().st_mode) == 0o600


def test_a_file_in_use_and_one_of_a_killed_process_are_read_whole(write, outcome, tmp_path):
    live = History.open(tmp_path / "live.sqlite", background=False)
    live.record(outcome(variant="torch"))
    live.flush()
    assert (tmp_path / "live.sqlite-wal").stat().st_size > 0  # what it has learned lies in there
    for ending in ("", "-wal"):
        shutil.copy(tmp_path / f"live.sqlite{ending}", tmp_path / f"killed.sqlite{ending}")
    other = write("other.sqlite", outcome(when=1.8e9))
    for name in ("live", "killed"):
        before = sorted(p.name for p in tmp_path.iterdir())
        done = merge([tmp_path / f"{name}.sqlite", other], tmp_path / f"with_{name}.sqlite")
        assert done.cells == 2
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, f"with_{name}.sqlite"])
    live.close()


def test_a_merged_history_is_one_like_any_other(write, several, outcome, tmp_path):
    merge([write("a.sqlite", *several[0]), write("b.sqlite", *several[1])], tmp_path / "c.sqlite")
    history = History.open(tmp_path / "c.sqlite", background=False)
    history.record(outcome(variant="numba"))
    history.flush()
    assert history.status == "ok"
    assert {cell.variant for cell, _ in history.state.cells} == {"numpy", "torch", "numba"}
    assert list(history.recent)[-1][0] == "numba"
    history.close()


def test_the_log_keeps_its_latest_rows(write, several, tmp_path):
    a, b = (write(f"{i}.sqlite", *several[i]) for i in range(2))
    merge([a, b], tmp_path / "c.sqlite", log_rows=10)
    log = content(tmp_path / "c.sqlite")["log"]
    assert len(log) == 10
    assert min(row[1] for row in log) > 1.7e9 + 86_400 * 29  # the later batch's


def test_an_older_file_takes_part(write, outcome, tmp_path):
    old = tmp_path / "old.sqlite"
    connection = sqlite3.connect(old, isolation_level=None)
    schema.migrate(connection, 1)
    connection.execute(
        "INSERT INTO outcome VALUES (1, 1.6e9, 'fft', 'scipy', 'float64', '20', '', 'quiet', 0.5, 0, 0, 0, 0, 0, 1000, "
        "1e6, NULL, '', '')"
    )
    connection.close()
    merge([old, write("a.sqlite", outcome())], tmp_path / "c.sqlite")
    assert [row[3] for row in content(tmp_path / "c.sqlite")["log"]] == ["scipy", "numpy"]


def test_what_is_kept_out_stays_so_but_another_machines_memory_tells_nothing(write, outcome, tmp_path):
    a = write("a.sqlite", outcome())
    theirs = write("history-0123456789ab.sqlite", outcome(when=1.8e9))
    for path, fails in ((a, 2**30), (theirs, 2**20)):
        history = History.open(path, background=False)
        history.marks.failed(("fft", "torch", "cpu"), fails)
        history.marks.disqualify(("fft", str(fails), "float64"), "torch", "2.0", "off by 3")
        history.record(outcome(when=1.85e9 + fails))
        history.close()
    merge([a, theirs], tmp_path / "c.sqlite", other_machine=True)
    history = History.open(tmp_path / "c.sqlite", background=False)
    assert history.marks.memory["fft", "torch", "cpu"].failed == 2**30
    assert {variant for _, variant, _ in history.marks.wrong} == {str(2**30), str(2**20)}
    history.close()


# ---- what is counted twice


def test_what_would_count_double_is_refused_or_told(write, several, outcome, tmp_path):
    a, b = (write(f"{i}.sqlite", *several[i]) for i in range(2))
    with pytest.raises(MergeError, match="given twice"):
        merge([a, b, a], tmp_path / "c.sqlite")
    (tmp_path / "link.sqlite").symlink_to(a)
    with pytest.raises(MergeError, match="given twice"):
        merge([a, tmp_path / "link.sqlite"], tmp_path / "c.sqlite")
    copy = shutil.copy(a, tmp_path / "copy.sqlite")
    with pytest.raises(MergeError, match="one is a copy"):
        merge([a, copy], tmp_path / "c.sqlite")
    assert not (tmp_path / "c.sqlite").exists()
    assert not [note for note in merge([a, b], tmp_path / "c.sqlite").notes if "in common" in note]
    [note] = [n for n in merge([tmp_path / "c.sqlite", b], tmp_path / "d.sqlite").notes if "in common" in n]
    assert f"at least {len(several[1])} outcomes" in note or "outcomes in common" in note
    history = History.open(copy, background=False)
    history.record(outcome(when=1.9e9))
    history.close()
    assert any("in common" in note for note in merge([copy, a], tmp_path / "e.sqlite").notes)


def test_what_counts_double_is_told_while_there_is_time_to_stop(write, several, tmp_path):
    a, b = (write(f"{i}.sqlite", *several[i]) for i in range(2))
    merge([a, b], tmp_path / "c.sqlite")

    def stop(note):
        if "in common" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge([tmp_path / "c.sqlite", b], tmp_path / "d.sqlite", tell=stop)
    assert not (tmp_path / "d.sqlite").exists()


# ---- what is refused


def test_files_named_after_another_machine_are_refused_unless_asked_for(write, outcome, tmp_path):
    mine = write(f"history-{fingerprint()}.sqlite", outcome())
    theirs = write("history-0123456789ab.sqlite", outcome(when=1.8e9))
    with pytest.raises(MergeError, match=r"0123456789ab.*--other-machine"):
        merge([mine, theirs], tmp_path / "c.sqlite")
    with pytest.raises(MergeError, match="named after another machine"):
        merge([mine, write("b.sqlite", outcome(when=1.9e9))], tmp_path / "history-aaaaaaaaaaaa.sqlite")
    assert merge([mine, theirs], tmp_path / "c.sqlite", other_machine=True).notes == []
    unnamed = write("moved.sqlite", outcome(when=1.85e9))
    assert "does not say which machine" in merge([mine, unnamed], tmp_path / "d.sqlite").notes[0]


def test_folders_stand_for_this_hosts_file(write, outcome, tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    a = write(f"one/history-{fingerprint()}.sqlite", outcome())
    write(f"two/history-{fingerprint()}.sqlite", outcome(when=1.8e9))
    done = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "three")
    assert done.path == str(history_path(tmp_path / "three"))
    assert str(a) in done.sources


def test_a_target_that_is_there_or_cannot_be_written_is_refused(write, outcome, tmp_path, monkeypatch):
    a, b = write("a.sqlite", outcome()), write("b.sqlite", outcome(when=1.8e9))
    taken = tmp_path / "taken"
    taken.write_text("my thesis")
    with pytest.raises(MergeError, match="exists already"):
        merge([a, b], taken)
    assert taken.read_text() == "my thesis"
    with pytest.raises(MergeError, match="is one of those to be merged"):
        merge([a, b], b)
    with pytest.raises(MergeError, match="there is no folder"):
        merge([a, b], tmp_path / "nowhere" / "c.sqlite")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MergeError, match="may not be written"):
        merge([a, b], tmp_path / "c.sqlite")


def test_a_full_disk_leaves_nothing_behind(write, outcome, tmp_path, monkeypatch):
    a, b = write("a.sqlite", outcome()), write("b.sqlite", outcome(when=1.8e9))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(MergeError, match="No space left"):
        merge([a, b], tmp_path / "c.sqlite")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_file_system_without_hard_links_will_do(write, outcome, tmp_path, monkeypatch):
    a, b = write("a.sqlite", outcome()), write("b.sqlite", outcome(when=1.8e9))

    def none(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    merge([a, b], tmp_path / "c.sqlite")
    assert len(content(tmp_path / "c.sqlite")["log"]) == 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "there is no history file"),
        (lambda path: path.write_bytes(b"no database at all" * 100), "cannot be read as a history"),
        (lambda path: path.write_bytes(b""), "no history of pointsman, or an empty one"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cannot be read as a history"),
        (lambda path: change(path, "PRAGMA user_version = 99"), "newer pointsman"),
        (lambda path: change(path, "UPDATE sketch SET state = '[]'"), "cannot be read as a history"),
        (lambda path: change(path, "DROP VIEW failures; DROP VIEW recent_outcomes; DROP TABLE outcome"), "no history"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_source_that_is_no_good_is_named(write, outcome, tmp_path, spoil, said):
    a, b = write("a.sqlite", outcome()), write("b.sqlite", outcome(when=1.8e9))
    spoil(b)
    left = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(MergeError) as error:
        merge([a, b], tmp_path / "c.sqlite")
    assert said in str(error.value)
    assert str(b) in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == left


def change(path, script):
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def test_one_alone_is_no_merge(write, outcome, tmp_path):
    with pytest.raises(MergeError, match="two or more"):
        merge([write("a.sqlite", outcome())], tmp_path / "c.sqlite")
    assert not issubclass(MergeError, HistoryWarning)
