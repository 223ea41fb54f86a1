"""`pm.map` when things go wrong: maps within maps, exceptions, lost processes, what cannot be sent, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

import map_workers as w
import pointsman as pm
import psutil
import pytest
from map_workers import known
from pointsman.executors import mapping, registry
from pointsman.executors.mapping import MapExecutor, Method, WorkerDiedError, map_methods
from pointsman.selector.maps import Facts
from pointsman.telemetry.outcome import Failure
from processes import alive

PYTHON = Facts(0.5, 0.5, 0.5, shares=False)  # half a second of pure Python an item
SHIPPING = [variant for variant, _, method in map_methods() if method.ships]
PARALLEL = [variant for variant, _, method in map_methods() if method.parallel]
NATIVE = Facts(0.5, 0.5, 0.5, shares=True)  # the same in a library that releases the interpreter lock

pytestmark = pytest.mark.usefixtures("no_pool_is_left", "four_cores_and_warm_pools")


# ---------------------------------------------------------------------------------------------- maps within maps


@pytest.mark.parametrize("inner", ["auto", "joblib"])
@pytest.mark.parametrize("outer", PARALLEL)
def test_a_map_within_a_map_runs_in_place(outer, inner):
    reasons = pm.map(w.maps_again, [inner] * 4, outer, n_jobs=2)
    assert all("worker" in reason for reason in reasons)
    assert not mapping.HERE.inside


def test_a_map_in_the_pilot_of_another_runs_in_place_too():
    assert all("another map" in reason for reason in pm.map(w.maps_again, ["auto", "joblib"]))
    assert "nothing to share" in pm.map(w.square, [3], "joblib", return_info=True)[1].reason
    assert "one worker" in pm.map(w.square, range(5), "joblib", n_jobs=1, return_info=True)[1].reason


# ---------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("facts", [None, PYTHON, NATIVE], ids=["pilot", "python", "native"])
def test_the_workers_exception_comes_out_as_it_is(facts):
    if facts:
        known(w.fails_at_five, facts)
    with pytest.raises(KeyError, match="five") as caught:
        pm.map(w.fails_at_five, range(12), n_jobs=2)
    assert caught.value.__notes__ == ["pointsman: raised by item 5 of the map"]
    assert not mapping.HERE.inside


@pytest.mark.parametrize("backend", ["auto", "sequential", *PARALLEL])
def test_a_worker_that_raises_stop_iteration_loses_no_results_in_silence(backend):
    """Iterators are on the way of results, and each would take it for its own end."""
    with pytest.raises(RuntimeError, match="the worker raised StopIteration at item 5 of the map"):
        pm.map(w.stops_at_five, range(10), backend)


@pytest.mark.parametrize("variant", SHIPPING)
def test_a_chunk_whose_process_died_runs_once_more(variant, tmp_path):
    items = [(str(tmp_path), x) for x in range(20)]
    results, info = pm.map(w.notes_and_dies_once, items, variant, n_jobs=2, chunk_size=1, return_info=True)
    assert results == list(range(20))
    [(failed, failure, message)] = info.failures
    assert (failed, failure) == (variant, Failure.DRIVER)
    assert "lost" in message
    assert "failed, driver" in info.explain()
    runs = {x: len((tmp_path / str(x)).read_text()) for x in range(20)}
    assert runs[3] == 2
    if variant not in ("joblib/loky", "mpi"):  # which end all processes where one is lost
        # A result that Dask has not fetched from its worker yet is lost with that, and computed once more.
        assert sum(runs.values()) <= 21 + (variant == "dask/processes")


def test_only_what_was_lost_runs_again():
    class Flaky(MapExecutor):
        """Loses a worker after the first chunk of its first run."""

        name = "flaky"
        capabilities = pm.Capabilities(dtypes=frozenset(), array=False, map=True)
        methods = (Method(ships=True),)
        handed_over: ClassVar[list[list[int]]] = []

        def probe(self):
            pass

        def run_chunks(self, work, chunks, **options):
            chunks = list(chunks)
            self.handed_over.append([first for first, _ in chunks])
            yield work(chunks[0])
            if len(self.handed_over) == 1:
                raise WorkerDiedError("a worker was lost")
            yield from map(work, chunks[1:])

    pm.register_backend("flaky", Flaky)
    try:
        assert pm.map(w.square, range(10), "flaky", n_jobs=2, chunk_size=2) == [x * x for x in range(10)]
        assert Flaky.handed_over == [[0, 2, 4, 6, 8], [2, 4, 6, 8]]
    finally:
        registry.unregister_backend("flaky")


@pytest.mark.parametrize("backend", SHIPPING)
def test_what_may_not_run_twice_does_not(backend, tmp_path):
    items = [(str(tmp_path / "mark"), x) for x in range(20)]
    with pytest.raises(pm.NoCandidateError, match="lost"):
        pm.map(w.dies_once, items, backend, n_jobs=2, rerun=False)


def test_what_kills_every_process_never_runs_in_this_one():
    with pytest.raises(pm.NoCandidateError, match="kills a worker process kills this one") as caught:
        pm.map(known(w.dies, PYTHON), range(8), n_jobs=2)
    assert [failure for _, failure, _ in caught.value.failures] == [Failure.DRIVER] * 2


def test_what_cannot_be_sent_runs_in_place_unless_processes_were_asked_for():
    lock = threading.Lock()
    worker = known(lambda x: (x, lock), PYTHON)
    results, info = pm.map(worker, range(6), n_jobs=2, return_info=True)
    assert [x for x, _ in results] == list(range(6))
    assert (info.variant, info.failures[0][:2]) == ("sequential", ("joblib/loky", Failure.UNSUPPORTED))
    again = pm.map(known(worker, PYTHON), range(6), n_jobs=2, return_info=True)[1]
    assert not again.failures  # the breaker keeps the next run from trying
    assert {"joblib/loky", "mpi"} <= set(dict(again.decision.excluded))
    with pytest.raises(pm.NoCandidateError, match="must be picklable"):
        pm.map(lambda x: (x, lock), range(6), "joblib/loky", n_jobs=2)


SCRIPT = """
import sys
sys.path.insert(0, {support!r})
import map_workers as w
import pointsman as pm
{body}
"""


def script(tmp_path: Path, body: str) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(support=str(Path(w.__file__).parent), body=body))
    return [sys.executable, str(path)]


@pytest.mark.parametrize("backend", SHIPPING)
def test_a_script_needs_no_main_guard(backend, tmp_path):
    body = f"print(pm.map(lambda x: x * x, range(5), {backend!r}, n_jobs=2))"
    done = subprocess.run(script(tmp_path, body), capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("[0, 1, 4, 9, 16]\n", 0), done.stderr


@pytest.mark.parametrize("variant", PARALLEL)
def test_ctrl_c_ends_a_map_and_its_processes(variant, tmp_path):
    marks = [str(tmp_path / f"mark{n}") for n in range(2)]
    body = f"""
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born with it ignored
try:
    pm.map(w.marks_and_sleeps, {marks}, {variant!r}, n_jobs=2)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(7)  # threads that sleep would keep the interpreter
"""
    files = tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True)  # a short path, for Ray's sockets
    environment = {**os.environ, "TMPDIR": files.name}
    running = subprocess.Popen(script(tmp_path, body), stdout=subprocess.PIPE, text=True, env=environment)
    try:
        pids = [int(text) for text in wait_for(marks)]
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
        assert (out, running.returncode) == ("interrupted\n", 7)
        gone = psutil.wait_procs(alive(pids), timeout=30)
        assert not gone[1]
    finally:
        running.kill()
        running.wait()
        files.cleanup()


def wait_for(marks: list[str]) -> list[str]:
    """The texts of files that another process is about to write."""
    for _ in range(1200):
        texts = [Path(mark).read_text() for mark in marks if Path(mark).exists()]
        if len(texts) == len(marks) and all(texts):
            return texts
        threading.Event().wait(0.05)
    raise AssertionError(f"nothing was written to {marks}")
