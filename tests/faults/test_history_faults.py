"""Whatever befalls the history file: one warning, and what can be kept is kept."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
import warnings

import pytest
from histories import SITE, known, opened, put, query, records
from pointsman.telemetry import files, schema
from pointsman.telemetry.history import History, HistoryWarning
from pointsman.telemetry.outcome import Outcome


def put_again(history: History, *counts: int) -> None:
    for count in counts:
        put(history, count)


def open_and_put(path, *counts: int) -> History:
    history = opened(path)
    put_again(history, *counts)
    return history


@pytest.mark.parametrize("kind", ["no database at all", "damaged later", "nonsense in a row"])
def test_a_corrupt_file_is_kept_aside_with_one_warning_and_a_new_one_begun(path, kind):
    if kind == "no database at all":
        path.write_bytes(b"this is not a database\n" * 1000)
    else:
        history = opened(path)
        put(history, 50)
        history.close()
        if kind == "damaged later":
            content = bytearray(path.read_bytes())
            content[4096:] = b"\xa5" * (len(content) - 4096)
            path.write_bytes(content)
        else:
            connection = sqlite3.connect(path)
            connection.execute("UPDATE sketch SET state = '{}'")
            connection.commit()
            connection.close()
    broken = path.read_bytes()
    with pytest.warns(HistoryWarning, match=r"damaged.*moved to history.sqlite.corrupt-1") as caught:
        history = open_and_put(path, 2, 1)
    assert len(caught) == 1
    assert path.with_name(path.name + ".corrupt-1").read_bytes() == broken
    assert history.status == "ok"
    assert records(path) == {"numpy": 3}
    history.close()


def test_a_file_of_somebody_else_is_left_alone(path):
    notes = path.with_suffix(".json")
    notes.write_text('{"mine": 1}', encoding="utf-8")
    with pytest.warns(HistoryWarning, match="is something else, and is left as it is; choose another file") as caught:
        history = open_and_put(notes, 2, 1)
    assert len(caught) == 1
    assert known(history) == 3
    assert history.status == "memory (history.json is no history)"
    history.close()
    assert [(file.name, file.read_text()) for file in notes.parent.iterdir()] == [(notes.name, '{"mine": 1}')]
    assert files.obstacle(notes) == f"{notes} is another file, no history"


def test_a_history_may_have_any_name(path):
    history = open_and_put(path.with_suffix(".json"), 2)
    history.close()
    assert records(path.with_suffix(".json")) == {"numpy": 2}
    assert files.obstacle(path.with_suffix(".json")) == ""


def test_damage_while_it_is_open_is_survived(path):
    history = opened(path)
    put(history, 5)
    history._recorder.close()
    path.write_bytes(b"\xa5" * 100_000)
    with pytest.warns(HistoryWarning, match="corrupt-1"):
        put(history, 2)
    put(history)
    assert known(history) >= 3  # what memory knew is still used
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    history.close()


def test_a_second_corrupt_file_does_not_overwrite_the_first(path):
    for number in (1, 2):
        path.write_bytes(b"broken %d" % number * 500)
        with pytest.warns(HistoryWarning):
            history = opened(path)
        history.close()
    assert path.with_name(path.name + ".corrupt-1").read_bytes()[:8] == b"broken 1"
    assert path.with_name(path.name + ".corrupt-2").read_bytes()[:8] == b"broken 2"


def test_a_file_of_a_newer_pointsman_is_left_alone(path):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.execute("CREATE TABLE future (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.warns(HistoryWarning, match=r"newer pointsman; upgrade pointsman or choose another file") as caught:
        history = open_and_put(path, 3)
    assert len(caught) == 1
    assert known(history) == 3
    assert history.status.startswith(f"memory (the file's schema is version {schema.VERSION + 1}")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    history.close()


@pytest.mark.parametrize("what", ["file", "folder", "empty folder"])
def test_what_may_only_be_read_is_read_and_learned_on_in_memory(path, start, what):
    folder = path.parent / "home"
    folder.mkdir()
    file = folder / path.name
    if what != "empty folder":
        history = opened(file)
        put(history, 5)
        history.close()
    if what == "file":
        folder.chmod(0o777)
        file.chmod(0o444)
    else:
        folder.chmod(0o555)
        if what == "folder":
            file.chmod(0o666)
    for parent in (path.parent, *path.parent.parents):  # the other user must reach the folder
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    process = start(
        """
        import os, urllib.parse, warnings  # what pathlib imports late, the other user may not be able to read
        if os.getuid() == 0:
            os.setgid(65534); os.setuid(65534)      # nothing is read-only to root
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = History.open(sys.argv[2], background=False)
            for _ in range(2):
                history.record(Outcome(site, 1.7e9, 0.01))
                history.flush()
        print(sum(s.count for s in history.state.cells.values()), len(caught), history.status)
        """,
        str(file),
    )
    out, _ = process.communicate(timeout=60)
    status = "2 1 memory (PermissionError" if what == "empty folder" else "7 1 read-only"
    assert out.startswith(status)
    folder.chmod(0o755)
    assert [f.name for f in folder.iterdir()] == ([] if what == "empty folder" else [path.name])


def test_a_full_disk_stops_the_writing_and_nothing_else(path, start):
    process = start("""
        import resource, warnings
        history = History.open(path, background=False)
        history.record(Outcome(site, 1.7e9, 0.01)); history.flush()
        size = os.path.getsize(path) + os.path.getsize(path + "-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for i in range(2000):
                history.record(Outcome(site._replace(shape_class=str(i)), 1.7e9, 0.01))
                if i % 500 == 0:
                    history.flush()
            history.flush()
        print(sum("cannot grow" in str(w.message) for w in caught), len(caught))
        print(len(history.state.cells), history.status)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        history.flush()                      # there is room again: what memory kept is written
        print(history.status)
    """)
    out, _ = process.communicate(timeout=60)
    warned, knows, afterwards = out.splitlines()
    assert warned == "1 1"
    assert knows.startswith("2000 memory (")
    assert afterwards == "ok"
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert query(path, "SELECT sum(records) FROM sketch") == [(2001,)]


def test_a_file_locked_for_long_is_written_later(path, monkeypatch):
    monkeypatch.setattr("pointsman.telemetry.history.PATIENT_S", 0.05)
    monkeypatch.setattr("pointsman.telemetry.recorder.PATIENT_S", 0.05)
    history = opened(path)
    put(history)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.warns(HistoryWarning, match="locked by another process") as caught:
        put_again(history, 2, 3)
    assert len(caught) == 1
    assert known(history) == 6  # learned all the same
    other.execute("ROLLBACK")
    other.close()
    history.flush()
    assert records(path) == {"numpy": 6}
    history.close()


def test_a_short_lock_in_the_background_is_waited_out_without_a_word(path):
    history = History.open(path)
    heard = threading.Event()
    history.record(Outcome(SITE, 1.7e9, 0.01))
    history.flush()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    history.subscribe(lambda *_: heard.set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history.buffer.append((SITE, time.perf_counter(), 0.01, "", "", 1))
        history.wake()
        assert heard.wait(30)  # learning does not wait for the disk
        other.execute("ROLLBACK")
        history.flush()
    other.close()
    assert records(path) == {"numpy": 2}
    history.close()


def test_a_file_deleted_by_hand_is_begun_anew(path):
    history = opened(path)
    put(history, 5)
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
    put(history, 2)
    assert records(path) == {"numpy": 2}
    assert known(history) >= 2
    history.close()


def test_warnings_as_errors_do_not_kill_the_flusher(path, start):
    path.write_bytes(b"")
    path.chmod(0o600)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    process = start("""
        import warnings
        warnings.simplefilter("ignore")
        history = History.open(path)
        history._warned.clear()
        warnings.simplefilter("error")
        def broken(*_):
            raise ZeroDivisionError
        history.subscribe(broken)
        history.buffer.append((site, time.perf_counter(), 0.01, "", "", 1))
        history.wake()
        flusher = history._flusher
        flusher.join(30)
        print(history.awake, len(history.state.cells))
    """)
    out, _ = process.communicate(timeout=60)
    assert out == "False 1\n"


# Network file systems


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local xfs rw 0 0
me@host: /mnt/far\\040away fuse.sshfs rw 0 0
portal /mnt/near fuse.portal rw 0 0
"""


@pytest.mark.parametrize(
    ("place", "network"),
    [("/home/me/h.sqlite", True), ("/home/local/h.sqlite", False), ("/var/h.sqlite", False), ("/homes/h.sqlite", False),
     ("/mnt/far away/h.sqlite", True), ("/mnt/near/h.sqlite", False)],
)  # fmt: skip
def test_network_file_systems_are_told_from_local_ones(tmp_path, place, network):
    assert files.on_network(type(tmp_path)(place), MOUNTS) is network


@pytest.mark.parametrize(("network", "mode"), [(True, "delete"), (False, "wal")])
def test_there_is_no_write_ahead_log_on_a_network_file_system(path, monkeypatch, network, mode):
    monkeypatch.setattr("pointsman.telemetry.recorder.on_network", lambda _: network)
    history = opened(path)
    put(history)
    assert query(path, "PRAGMA journal_mode") == [(mode,)]
    history.close()
