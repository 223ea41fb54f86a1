"""Forks and ends of processes: no child waits for a thread that it does not have."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from pointsman.telemetry import lifetime

PREAMBLE = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)     # forking with threads, which is the point
"""


class Owner:
    def __init__(self, lock) -> None:
        self._lock = lock


def run(script: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *argv], timeout=60, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_a_lock_that_another_thread_holds_is_free_afterwards(kind):
    owner, held, done = Owner(kind()), threading.Event(), threading.Event()
    lifetime.free_in_child(owner)

    def hold():
        with owner._lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        lifetime._free_locks()
        assert owner._lock.acquire(timeout=1.0)
        owner._lock.release()
    finally:
        done.set()
        thread.join(30)


def test_a_lock_that_the_forking_thread_holds_stays_its_own():
    owner = Owner(threading.RLock())
    lifetime.free_in_child(owner)
    with owner._lock:
        before = owner._lock
        lifetime._free_locks()
        assert owner._lock is before


def test_owners_are_not_kept_alive():
    count = len(lifetime._LOCKS)
    for _ in range(50):
        lifetime.free_in_child(Owner(threading.Lock()))
    assert len(lifetime._LOCKS) <= count + 1


def test_children_forked_while_a_thread_calls_and_the_flusher_learns_can_call_too(tmp_path):
    done = run(
        """
import numpy as np
import pointsman as pm

x = np.ones(100)
for n in (1, 2, 3):
    pm.run("reduction", x[:n])
pm.run("fft", x[:5])
calling = True

def call():
    while calling:
        pm.run("reduction", x)

thread = threading.Thread(target=call)
thread.start()
children = []
for _ in range(12):
    time.sleep(0.02)        # forks fall into all phases of the flusher's rounds
    child = os.fork()
    if child == 0:
        import faulthandler
        faulthandler.dump_traceback_later(20, exit=True)
        for _ in range(20):
            pm.run("fft", x)
        pm.flush()
        os._exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
calling = False
thread.join()
assert codes == [0] * 12, codes
pm.flush()
found = pm.default_selector().get_performance_summary()["operations"]["fft"]
count = sum(v["count"] + v["cold_count"] for c in found for v in c["variants"].values())
assert count == 12 * 20 + 1, count
""".replace("import numpy", f"os.environ['POINTSMAN_HISTORY'] = {str(tmp_path / 'history.sqlite')!r}\nimport numpy")
    )
    assert done.returncode == 0, done.stderr


def test_a_process_that_ends_leaves_one_whole_file(tmp_path):
    path = tmp_path / "history.sqlite"
    done = run(
        """
import pointsman as pm
selector = pm.IntelligentBackendSelector(history=sys.argv[1])
workload = pm.WorkloadCharacteristics(operation_type="mine", data_shape=(10,))
selector.record(workload, "numpy", seconds=0.5)
selector.flush()
selector.record(workload, "numpy", seconds=0.5)
""",
        str(path),
    )
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no log beside it that a copy would lack
