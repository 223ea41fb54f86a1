"""Threads of the standard library: handed chunks as they become free, never waited for when nobody wants results."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from pointsman.executors import native, registry
from pointsman.executors.errors import RunTimeoutError

THREADS = registry.executor("threads")


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pointsman-map"]


def gone() -> bool:
    """Whether our threads end soon."""
    for thread in ours():
        thread.join(10)
    return not ours()


def test_chunks_run_at_the_same_time_on_as_many_threads_as_were_asked_for():
    together = threading.Barrier(3, timeout=30)

    def meets(x):
        together.wait()
        return threading.current_thread().name

    assert set(THREADS.map(meets, range(6), n_jobs=3, chunk_size=1)) == {"pointsman-map"}
    assert not ours()


def test_no_more_chunks_are_taken_than_can_run_soon():
    taken = []

    def chunks():
        for n in range(100):
            taken.append(n)
            yield n

    found = THREADS.run_chunks(lambda n: n, chunks(), n_jobs=2)
    next(found)
    assert len(taken) <= 5
    found.close()
    assert len(taken) <= 5
    assert gone()


def test_a_run_that_is_given_up_begins_no_other_chunk():
    begun, go = [], threading.Event()

    def waits(n):
        begun.append(n)
        return n if n == 0 else go.wait(30)

    found = THREADS.run_chunks(waits, range(50), n_jobs=2)
    assert next(found) == 0
    found.close()  # does not wait for the two that run
    go.set()
    assert gone()
    assert len(begun) <= 3


def test_what_is_done_when_the_time_is_over_is_still_given():
    found = THREADS.run_chunks(lambda n: n, iter(int, 1), n_jobs=2, until=time.monotonic() + 1.0)
    given = [next(found)]
    threading.Event().wait(1.1)
    with pytest.raises(RunTimeoutError):
        given.extend(found)
    assert 4 <= len(given) <= 8
    late = THREADS.run_chunks(lambda n: n, range(5), n_jobs=2, until=time.monotonic() - 1.0)
    with pytest.raises(RunTimeoutError):
        next(late)


def test_leaving_the_program_is_the_callers_affair_too():
    def leaves(x):
        raise SystemExit(x)

    with pytest.raises(SystemExit) as caught:
        THREADS.map(leaves, [3, 3], n_jobs=2)
    assert caught.value.code == 3


def test_the_interpreter_does_not_wait_for_a_thread_that_nobody_waits_for():
    code = (
        "import time, pointsman as pm\n"
        "threads = pm.get_backend('threads')\n"
        "try:\n"
        "    list(threads.run_chunks(time.sleep, [60, 60], n_jobs=2, until=time.monotonic() + 0.2))\n"
        "except TimeoutError:\n"
        "    print('over')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("over\n", "", 0)


def test_the_native_threads_of_a_run_hold_on_each_thread():
    import torch
    from threadpoolctl import threadpool_info

    torch.ones(8).sum()

    def seen(x):
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"}

    with native.held(1):
        assert THREADS.map(seen, range(4), n_jobs=2, chunk_size=1) == [{1}] * 4


def test_threads_are_chosen_where_the_worker_waits():
    """In a process of its own: what others in this one compute meanwhile counts as the worker's."""
    code = (
        "import threading, pointsman as pm\n"
        "from pointsman.kernels import map_pilot\n"
        "map_pilot.core_wait_s = lambda: 0.0\n"  # on a crowded machine less would be known of the worker
        "_, info = pm.map(lambda x: threading.Event().wait(0.03), range(24), n_jobs=8, return_info=True)\n"
        "assert info.variant == 'threads' and info.in_place < 12, info"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
