"""Processes and threads that share a history file, forked, spawned or killed: nothing is lost or counted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from clocks import Clock
from histories import PREAMBLE, SITE, known, opened, put, query, records
from pointsman.telemetry.history import History

# Many processes


def test_processes_that_write_at_once_add_up_exactly(path, start):
    code = """
    history = History.open(path, background=False)
    tell("ready")
    sys.stdin.readline()
    for i in range(40):
        for _ in range(5):
            history.record(Outcome(site, 1.7e9 + i, 0.01))
            history.record(Outcome(site._replace(variant=sys.argv[2]), 1.7e9 + i, 0.02))
        history.add_ledger("explored_s", 1.0)
        history.flush()
    """
    writers = [start(code, name) for name in ("torch", "jax", "torch")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # the file does not exist yet: they race to create it as well
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert records(path) == {"numpy": 600, "torch": 400, "jax": 200}
    assert query(path, "SELECT count(*) FROM outcome") == [(1200,)]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    history = opened(path)
    assert known(history) == 1200
    assert history.ledger == {"explored_s": 120.0}
    history.close()


def test_threads_that_record_at_once_lose_nothing(path):
    history = History.open(path)

    def work():
        for _ in range(2000):
            history.buffer.append((SITE, time.perf_counter(), 0.01, "", "", 1))
            if not history.awake:
                history.wake()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history.flush()
    assert known(history) == 8000
    assert records(path) == {"numpy": 8000}
    history.close()


def test_what_others_wrote_is_learned_of_within_half_a_minute(path, start):
    clock = Clock()
    history = opened(path, monotonic=clock)
    put(history, 3)
    other = start("""
        history = History.open(path, background=False)
        history.record(Outcome(site._replace(operation="solve"), 1.7e9, 0.01))
        history.flush()
    """)
    assert other.wait(60) == 0
    clock.now += 31.0
    changed = []
    history.subscribe(lambda _, groups: changed.append(groups))
    put(history)
    assert history.state.groups() == {("fft", "float64"), ("solve", "float64")}
    assert known(history) == 5
    assert ("solve", "float64") in changed[0]
    history.close()


def test_a_reset_by_another_process_is_noticed_and_nothing_comes_back(path, start):
    history = opened(path)
    put(history, 5)
    put(history, 2, operation="solve")
    history.add_ledger("explored_s", 1.0)
    assert start("History.open(path, background=False).reset('fft')").wait(60) == 0
    put(history, operation="solve")
    assert {cell.operation for cell, _ in history.state.cells} == {"solve"}
    assert known(history) == 3
    assert start("History.open(path, background=False).reset()").wait(60) == 0
    put(history, operation="sort")  # of the past, as far as can be told: dropped with the rest
    assert known(history) == 0
    assert history.ledger == {}
    put(history, operation="sort")
    assert known(history) == 1
    assert query(path, "SELECT operation, records FROM sketch") == [("sort", 1)]
    history.close()


def test_a_process_that_is_killed_while_it_writes_loses_at_most_the_last_second(path, start):
    writer = start("""
        history = History.open(path)
        count = 0
        started = time.monotonic()
        while True:
            for _ in range(20):
                history.buffer.append((site, time.perf_counter(), 0.01, "", "", 1))
                if not history.awake:
                    history.wake()
                count += 1
            print(count, time.monotonic() - started, flush=True)
            time.sleep(0.002)
    """)
    said = []
    for line in writer.stdout:
        count, elapsed = line.split()
        said.append((float(elapsed), int(count)))
        if float(elapsed) > 3.0:
            break
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(30)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    history = opened(path)
    due = max(count for elapsed, count in said if elapsed <= said[-1][0] - 1.0)
    assert known(history) >= due > 1000
    assert history.status == "ok"
    history.close()


# Fork and spawn


@pytest.mark.parametrize("leaving", ["os._exit(0)", "sys.exit(0)"])
def test_a_forked_child_neither_doubles_rows_nor_disturbs_its_parent(path, start, leaving):
    parent = start(f"""
        history = History.open(path, background=False)
        for _ in range(10):
            history.record(Outcome(site, 1.7e9, 0.01))
        history.flush()
        for _ in range(7):
            history.record(Outcome(site, 1.7e9, 0.01))     # pending at the fork: the parent's to write
        history.add_ledger("explored_s", 1.0)
        inherited = history._recorder._connection
        child = os.fork()
        if child == 0:
            inherited.total_changes     # raises if the child has closed it: that is the parent's to do
            history.record(Outcome(site._replace(variant="torch"), 1.7e9, 0.01))
            history.flush()
            {leaving}
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for _ in range(3):
            history.record(Outcome(site, 1.7e9, 0.01))
        history.flush()
        assert history.status == "ok", history.status
    """)
    assert parent.wait(60) == 0
    assert records(path) == {"numpy": 20, "torch": 1}
    assert query(path, "SELECT count(*) FROM outcome") == [(21,)]
    assert query(path, "SELECT seconds FROM ledger") == [(1.0,)]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_fork_while_the_flusher_runs_leaves_both_sides_able_to_go_on(path, start):
    parent = start("""
        history = History.open(path)
        children = []
        for i in range(200):
            history.buffer.append((site, time.perf_counter(), 0.01, "", "", 1))
            if not history.awake:
                history.wake()
            if i % 40 == 20:
                time.sleep(0.05)    # forks fall into all phases of the flusher's rounds
                child = os.fork()
                if child == 0:
                    assert not history.awake
                    history.buffer.append((site._replace(variant="torch"), time.perf_counter(), 0.01, "", "", 1))
                    history.wake()
                    history.flush()
                    os._exit(0)
                children.append(child)
        for child in children:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        history.flush()
    """)
    assert parent.wait(60) == 0
    assert records(path) == {"numpy": 200, "torch": 5}


def test_spawned_workers_write_to_the_same_file(path, start, tmp_path):
    script = tmp_path / "spawning.py"
    script.write_text(
        PREAMBLE
        + textwrap.dedent("""
        import multiprocessing

        def work(path):
            history = History.open(path)
            history.record(Outcome(site._replace(variant="torch"), 1.7e9, 0.01))
            history.flush()

        if __name__ == "__main__":
            history = History.open(path)
            history.record(Outcome(site, 1.7e9, 0.01))
            history.flush()
            workers = [multiprocessing.get_context("spawn").Process(target=work, args=(path,)) for _ in range(2)]
            [worker.start() for worker in workers]
            [worker.join() for worker in workers]
            assert [worker.exitcode for worker in workers] == [0, 0]
        """)
    )
    subprocess.run([sys.executable, "-W", "error", str(script), str(path)], check=True, timeout=60)
    assert records(path) == {"numpy": 1, "torch": 2}
