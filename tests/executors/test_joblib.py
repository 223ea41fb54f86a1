"""What is joblib's own: how soon results come, and how a run ends that still has chunks queued."""

from __future__ import annotations

import threading
import time

import map_workers as w
import pytest
from joblib.externals.loky import process_executor
from pointsman.executors import registry
from pointsman.executors.errors import RunTimeoutError
from pointsman.executors.mapping import chunked, each

METHODS = [method.name for method in registry.executor("joblib").methods]

pytestmark = pytest.mark.usefixtures("no_pool_is_left")


def chunks(method, work, given, **options):
    return registry.executor("joblib").run_chunks(work, given, method=method, n_jobs=2, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 50])
def test_results_are_given_when_they_come_and_not_when_joblib_looks(method, number, monkeypatch):
    """joblib looks for results every 10 ms, and for the end of a run too."""
    assert len(list(chunks(method, each(w.square), chunked(range(4), 1)))) == 4  # the workers run
    slept, sleep, caller = [], time.sleep, threading.get_ident()

    def noted(seconds):
        if threading.get_ident() == caller:
            slept.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    found = chunks(method, each(w.square), chunked(range(number), 1))
    assert sorted(results[0] for _, results, _, _ in found) == [i * i for i in range(number)]
    assert not [seconds for seconds in slept if seconds > 1e-3]


def test_what_loky_has_queued_does_not_break_it_when_the_time_is_over(monkeypatch):
    """An error of its manager thread, which pytest makes a failure, would leave it to chance how the run ends."""
    assert len(list(chunks("loky", each(w.square), chunked(range(4), 1)))) == 4  # the workers run
    submit, never = process_executor.ProcessPoolExecutor.submit, threading.Event()

    def slowly(self, *args):
        future = submit(self, *args)
        if threading.current_thread() is self._executor_manager_thread:
            never.wait(0.5)  # the time is over while a chunk is queued, and not yet handed out
        return future

    monkeypatch.setattr(process_executor.ProcessPoolExecutor, "submit", slowly)
    with pytest.raises(RunTimeoutError):
        list(chunks("loky", each(time.sleep), ((i, [0.1]) for i in range(1000)), until=time.monotonic() + 0.3))
    monkeypatch.undo()
    assert registry.executor("joblib").map(abs, [-1, 2], method="loky", n_jobs=2) == [1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_an_error_among_the_chunks_is_the_callers(method):
    """They may be made while the run is under way, on whichever thread asks for the next one."""

    def given():
        yield from chunked(range(12), 1)
        raise LookupError("no more of them")

    with pytest.raises(LookupError, match="no more of them"):
        list(chunks(method, each(w.square), given()))
    assert registry.executor("joblib").map(abs, [-1, 2], method=method, n_jobs=2) == [1, 2]
