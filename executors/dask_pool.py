"""Dask clusters on this machine: how they begin and end."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..telemetry import lifetime
from . import scratch
from .native import VARIABLES

START_S, CLOSE_S = 60.0, 3.0
"""Longer than this no worker takes to report, and no scheduler to close, unless something is wrong."""

# Ends when its standard input does, that is when the process that started it is gone, and leaves no files.
_WORKER = """
import os, shutil, sys, threading

def watch(folder):
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)

threading.Thread(target=watch, args=[sys.argv.pop(1)], daemon=True).start()
from distributed.cli.dask_spec import main
main()
"""


@dataclass
class Pool:
    """A client, and what was started for it: nothing where the cluster is the user's.

    Attributes
    ----------
    jobs : chunks that run at a time.
    processes : of our own workers; they have no nanny, for a lost one ends the pool.
    """

    client: Any
    jobs: int
    cluster: Any = None
    folder: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def inside(self) -> bool:
        """Whether its workers are threads of this very process."""
        return str(self.client.scheduler.address).startswith("inproc://")

    @property
    def alive(self) -> bool:
        """Whether all of it still runs."""
        return self.client.status == "running" and all(process.poll() is None for process in self.processes)

    @property
    def gone(self) -> bool:
        """Whether none of its worker processes is left, as far as they are ours."""
        return bool(self.processes) and all(process.poll() is not None for process in self.processes)


def users(client: Any) -> Pool:
    """The pool of a client whose cluster is the user's."""
    return Pool(client, max(1, sum(client.nthreads().values())))


def start(jobs: int, *, threads: bool) -> Pool:
    """A scheduler in this process, and workers for `jobs` chunks at a time: threads of this process, or processes.

    Raises
    ------
    OSError, RuntimeError : they cannot be started here; nothing is left of them.
    """
    pool = Pool(None, jobs, None, scratch.make("pointsman-dask-"))
    _hush(1)
    try:
        _start(pool, threads)
    except BaseException:
        end(pool)
        raise
    return pool


def end(pool: Pool) -> None:
    """End all that was started for `pool`, whatever its workers do, and remove its files."""
    for process in pool.processes:
        process.kill()
    for part in (pool.client, pool.cluster):
        with suppress(Exception):
            if part is not None:
                part.close(timeout=CLOSE_S)
    for process in pool.processes:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
    scratch.remove(pool.folder)
    _hush(-1)


_HUSHED: list[Any] = [0, None]  # pools that there are, and how to give Dask's log its voice again
_HUSH_LOCK = threading.Lock()
lifetime.free_in_child(sys.modules[__name__], "_HUSH_LOCK")


def _hush(more: int) -> None:
    """Keep Dask's log silent while there are pools: it tells of each lost worker and each end, which is told anyway.

    A cluster's own setting for that would give back the voice when the first of two ends.
    """
    from distributed.utils import silence_logging_cmgr

    with _HUSH_LOCK:
        before, _HUSHED[0] = _HUSHED[0], max(0, _HUSHED[0] + more)
        if before == 0 and more > 0:
            _HUSHED[1] = silence_logging_cmgr(logging.CRITICAL)
            _HUSHED[1].__enter__()
        elif before > 0 and _HUSHED[0] == 0:
            _HUSHED[1].__exit__(None, None, None)


def _start(pool: Pool, threads: bool) -> None:
    from distributed import Client, Scheduler, Worker
    from distributed.deploy.spec import SpecCluster

    # Port 0: it is opened whether there is a dashboard or not, and the usual one may be taken.
    common: dict[str, Any] = {
        "host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0", "local_directory": pool.folder,
    }  # fmt: skip
    if threads:
        common = {**common, "protocol": "inproc", "host": None}
        options = {**common, "nthreads": pool.jobs, "memory_limit": 0}
        workers = {0: {"cls": Worker, "options": options}}
    else:
        worker = {"cls": _worker_class(), "options": {"pool": pool}}
        workers = dict.fromkeys(range(pool.jobs), worker)
    # A chunk whose worker died fails at once; Dask itself would try it on three workers more.
    scheduler = {"cls": Scheduler, "options": {**common, "port": 0, "allowed_failures": 0}}
    pool.cluster = SpecCluster(workers=workers, scheduler=scheduler, name="pointsman")
    pool.client = Client(pool.cluster, set_as_default=False)
    until = time.monotonic() + START_S
    while sum(pool.client.nthreads().values()) < pool.jobs:
        code = next((code for process in pool.processes if (code := process.poll()) is not None), None)
        if code is not None:
            raise RuntimeError(f"a worker process ended at its start, with exit code {code}")
        if time.monotonic() > until:
            raise RuntimeError(f"worker processes did not report within {START_S:.0f} s")
        time.sleep(0.02)


@cache
def _worker_class() -> Any:
    """What Dask's cluster starts for each worker: a process that is no child of multiprocessing."""
    from distributed.deploy.spec import ProcessInterface

    class WorkerProcess(ProcessInterface):  # type: ignore[misc]  # of a library without types
        def __init__(self, scheduler: str, pool: Pool, name: Any = None) -> None:
            self.scheduler, self.pool, self.worker = scheduler, pool, name
            self.process: subprocess.Popen[bytes] | None = None
            super().__init__(scheduler, name)

        async def start(self) -> None:
            options = {
                "nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "name": self.worker,
                "local_directory": self.pool.folder, "silence_logs": logging.CRITICAL,
            }  # fmt: skip
            spec = json.dumps({"cls": "distributed.Worker", "opts": options})
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, self.pool.folder, self.scheduler, "--spec", spec],
                stdin=subprocess.PIPE, env={**os.environ, **dict.fromkeys(VARIABLES, "1")},
                start_new_session=True,  # Ctrl-C is for the process that started it, which ends it where it must
            )  # fmt: skip
            self.pool.processes.append(self.process)
            await super().start()

        async def close(self) -> None:
            if self.process is not None:
                self.process.kill()
            await super().close()

    return WorkerProcess
