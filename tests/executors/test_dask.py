"""Dask, beyond what every map backend does: the user's own cluster, and ends of many kinds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import map_workers as w
import pointsman as pm
import psutil
import pytest
from pointsman.executors import dask_pool, mapping, on_dask, registry
from pointsman.executors.errors import BackendUnavailableError, UnsupportedError

DASK = registry.executor("dask")
THREADS, PROCESSES = DASK.methods

pytestmark = pytest.mark.usefixtures("no_pool_is_left")


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two worker processes, as a user may have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(w.__file__).parent), prepend=os.pathsep)
        pool = dask_pool.start(2, threads=False)
    yield pool
    dask_pool.end(pool)


def pids(pool) -> set[int]:
    return {process.pid for process in pool.processes}


@pytest.mark.parametrize("how", ["client", "address"])
def test_the_users_own_cluster_runs_it_with_all_its_workers_and_stays(cluster, how):
    given = {"client": cluster.client} if how == "client" else {"address": cluster.client.scheduler.address}
    assert set(DASK.map(w.process, range(20), chunk_size=1, **given)) <= pids(cluster)
    results, info = pm.map(w.process, range(20), "dask", return_info=True, **given)
    assert (info.variant, info.n_jobs) == ("dask/processes", 2)
    assert set(results) <= pids(cluster)
    with pytest.raises(ZeroDivisionError):
        pm.map(lambda x: 1 // x, range(4), "dask", **given)
    DASK.shutdown()
    assert cluster.alive
    assert cluster.client.submit(abs, -2).result() == 2


def test_the_process_s_default_client_is_used_and_counts_as_started(cluster):
    with cluster.client.as_current():
        assert DASK.running(PROCESSES)
        assert set(DASK.map(w.process, range(8), method="processes", n_jobs=2)) <= pids(cluster)
    assert DASK._crews["processes"].pool is None


def test_a_client_in_this_process_copies_nothing_and_leaves_it_able_to_map():
    from distributed import Client

    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as client:
        lock = threading.Lock()
        assert DASK.map(lambda x: (x, lock), range(4), client=client) == [(x, lock) for x in range(4)]
        assert client.status == "running"
    assert mapping.why_in_place() is None


def test_a_cluster_that_does_not_fit_is_refused_in_words(cluster, monkeypatch):
    monkeypatch.setattr(on_dask, "CONNECT_S", 0.5)
    with pytest.raises(BackendUnavailableError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:1'"):
        DASK.map(w.square, range(4), address="tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match="client= names a cluster: that is dask/processes"):
        list(DASK.run_chunks(sum, [(1, 2)], method="threads", client=cluster.client))
    with pytest.raises(ValueError, match="found both"):
        DASK.map(w.square, range(4), client=cluster.client, address="tcp://127.0.0.1:1")
    with pytest.raises(pm.NoCandidateError, match="client= names a cluster"):
        pm.map(w.square, range(4), "dask/threads", client=cluster.client)


def test_a_module_that_the_cluster_does_not_have_is_told(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def worker(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    from only_here import worker

    with pytest.raises(UnsupportedError, match=r"No module named 'only_here' \(in the worker process, where"):
        DASK.map(worker, range(4), client=cluster.client)
    assert DASK.map(worker, range(4), method="processes", n_jobs=2) == [0, 1, 2, 3]  # workers here look where we do


def test_no_worker_left_is_a_lost_worker_and_no_wait_without_end():
    with pytest.raises(mapping.WorkerDiedError, match="lost"):
        DASK.map(lambda x: os.kill(os.getpid(), signal.SIGKILL), range(40), method="processes", n_jobs=2, chunk_size=1)
    assert not DASK.running(PROCESSES)


def test_workers_leave_when_nobody_has_needed_them_for_a_while(monkeypatch):
    monkeypatch.setattr(type(DASK), "idle_s", 1.0)
    DASK.shutdown()
    assert DASK.map(w.square, range(4), method="threads", n_jobs=2) == [0, 1, 4, 9]
    assert DASK.running(THREADS)
    for _ in range(100):
        if not DASK.running(THREADS):
            break
        threading.Event().wait(0.1)
    assert not DASK.running(THREADS)


SCRIPT = """
import os, time
import pointsman as pm
def worker(x):
    if x:
        time.sleep(60)
    print(os.getpid(), os.getppid(), flush=True)

pm.map(worker, range(2), "dask/processes", n_jobs=2)
"""


def test_worker_processes_end_with_the_one_that_started_them_however_it_ends(tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        worker, parent = map(int, running.stdout.readline().split())
        assert parent == running.pid
        workers = psutil.Process(parent).children(recursive=True)
        assert worker in {process.pid for process in workers}
        running.kill()
        assert psutil.wait_procs(workers, timeout=20)[1] == []
        assert not list(Path(tmp_path).iterdir())
    finally:
        running.kill()
        running.communicate()
